"""How a host makes a training loop: the same for Ray Train's workers and for the trials of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raykd import models
from raykd.config import RunConfig
from raykd.point import Point
from raykd.student.prepare import Prepared
from raykd.student.worker import TrainingLoop
from raykd.teachers.pool import PoolHandle


def make_loop(
    config: RunConfig,
    prepared: Prepared,
    tokenizer: Any,
    pool: PoolHandle | None,
    *,
    rank: int,
    world: int,
    device: str,
    publish: Callable[[Point], None],
) -> TrainingLoop:
    """A loop at its seeded start; where it goes on from is the host's affair.

    Args:
        pool: the teachers; not asked where the run is plain.
        publish: takes points of the curves, on rank 0 only.
    """
    source = None
    if pool is not None and not config.plain:
        source = pool.source(config.objective.weighting, rank, config.select_teachers)
    return TrainingLoop(
        config,
        prepared,
        fresh_student(config, tokenizer),
        source,
        rank=rank,
        world=world,
        device=device,
        publish=publish,
    )


def fresh_student(config: RunConfig, tokenizer: Any) -> models.TextModel:
    """The student at its seeded start."""
    labels = config.data.labels if config.task.labelled else ()
    return models.TextModel(
        model=config.student.build(tokenizer, labels, config.seed, config.task.kind),
        tokenizer=tokenizer,
        labels=labels,
        kind=config.student.kind,
        task=config.task.kind,
        max_length=config.task.max_length,
        languages=config.data.select_languages or config.data.languages,
    )


def model_card(config: RunConfig, loop: TrainingLoop) -> models.ModelCard:
    """What the model's README tells of its training."""
    best = next(h for h in loop.state.history if int(h["step"]) == loop.state.best_step)
    return models.ModelCard(
        name=config.name,
        teachers=tuple(t.name for t in config.active_teachers),
        metrics={
            f"validation/{k.removeprefix('eval/')}": v for k, v in best.items() if k.startswith("eval/")
        },
        base_model=getattr(config.student, "path", None),
        notes=f"Trained for {loop.state.step} steps; these weights are those after step {loop.state.best_step}.",
    )
