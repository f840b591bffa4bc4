"""How a host makes a training loop: the same for Ray Train's workers and for the trials of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raykd import models
from raykd.config import Run, RunConfig
from raykd.models.multi import MultiModel, save_tasks, share_encoder
from raykd.point import Point
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import PreparedRows
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pool_source import PoolSource


def make_loop(
    config: Run,
    prepared: Mapping[str, PreparedRows],
    tokenizer: Any,
    pools: Mapping[str, PoolHandle],
    *,
    rank: int,
    world: int,
    device: str,
    publish: Callable[[Point], None],
    noticed: Callable[[], bool] | None = None,
) -> TrainingLoop:
    """Return a loop at its seeded start; where it goes on from is the host's affair.

    Args:
        prepared: The rows, by task.
        pools: The teachers, by task, which are not asked where the run is plain.
        publish: Takes points of the curves, on rank 0 only.
        noticed: Whether a checkpoint is wanted at once.
    """
    sources = {
        name: PoolSource(pools[name], member.objective.weighting, rank, member.select_teachers)
        for name, member in config.members.items()
        if name in pools and not member.plain
    }
    return TrainingLoop(
        config,
        prepared,
        make_student_model(config, tokenizer),
        sources,
        rank=rank,
        world=world,
        device=device,
        publish=publish,
        is_noticed=noticed,
    )


def make_student_model(config: Run, tokenizer: Any) -> models.TextModel | MultiModel:
    """Return the student at its seeded start, with a head a task and one encoder where there are several tasks."""
    students = {name: make_task_model(member, tokenizer) for name, member in config.members.items()}
    return students[""] if "" in students else share_encoder(students)


def make_task_model(config: RunConfig, tokenizer: Any) -> models.TextModel:
    """Return the student at its seeded start."""
    labels = config.data.labels if config.task.labelled else ()
    return models.TextModel(
        model=config.student.build(tokenizer, labels, config.seed, config.task.head),
        tokenizer=tokenizer,
        labels=labels,
        kind=config.student.kind,
        task=config.task.head,
        max_length=config.task.max_length,
        languages=config.data.select_languages or config.data.languages,
        settings=config.task.settings,
    )


def save_student(loop: TrainingLoop, output: Path) -> None:
    """Write the best student: a directory, or where there are several tasks one with a folder a task."""
    student, members = loop.best_student(), loop.config.members
    cards = {name: make_model_card(member, loop, name) for name, member in members.items()}
    if isinstance(student, MultiModel):
        save_tasks(student, output, cards=cards)
    else:
        models.save_model(student, output, card=cards[""])


def make_model_card(config: RunConfig, loop: TrainingLoop, task: str = "") -> models.ModelCard:
    """Return what the model's README tells of its training."""
    best = next(h for h in loop.state.history if int(h["step"]) == loop.state.best_step)
    prefix = f"{task}/eval/" if task else "eval/"
    return models.ModelCard(
        name=config.name,
        teachers=tuple(t.name for t in config.active_teachers),
        metrics={f"validation/{k.removeprefix(prefix)}": v for k, v in best.items() if k.startswith(prefix)},
        base_model=getattr(config.student, "path", None),
        notes=f"Trained for {loop.state.step} steps; these weights are those after step {loop.state.best_step}.",
    )
