"""Build a training loop, and save its student, for its hosts: a run's workers and a sweep's trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from raykd import models
from raykd.config import Run, RunConfig
from raykd.driver.jobs import name_peer_folder
from raykd.models.multi import PEER, MultiModel, PairModel, StudentModel, pair_up, save_tasks, share_encoder
from raykd.models.starts.handover import describe_handover
from raykd.models.starts.peer_tokens import check_peer_tokens
from raykd.networks.narrowing import measure_taylor
from raykd.point import Point
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import PreparedRows
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pool_source import PoolSource
from raykd.text.padding import read_padding
from raykd.text.tokens import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEASURED_ROWS, MEASURED_BATCH = 512, 16
"""Labelled training rows by which the parts of a checkpoint are ranked, and how many run at once."""


def make_loop(
    config: Run,
    prepared: Mapping[str, PreparedRows],
    tokenizer: Tokenizer,
    pools: Mapping[str, PoolHandle],
    *,
    rank: int,
    world: int,
    device: str,
    publish: Callable[[Point], None],
    noticed: Callable[[], bool] | None = None,
) -> TrainingLoop:
    """Return a loop at its seeded start. The host loads a checkpoint into it, if there is one.

    Args:
        config: The run.
        prepared: The rows, by task.
        tokenizer: The student's.
        pools: The teachers, by task; not asked in a run without distillation.
        rank: Of this process.
        world: Number of ranks.
        device: Where the student trains, for example "cpu" or "cuda:0".
        publish: Takes points of the curves; called on rank 0 only.
        noticed: Returns whether a checkpoint is wanted at once.
    """
    sources = {
        name: PoolSource(
            pools[name],
            member.objective.weighting,
            rank,
            [teacher.name for teacher in member.active_teachers],
            idle_threads=torch.get_num_threads(),
        )
        for name, member in config.members.items()
        if name in pools and not member.plain
    }
    return TrainingLoop(
        config,
        prepared,
        make_student_model(config, tokenizer, prepared),
        sources,
        rank=rank,
        world=world,
        device=device,
        publish=publish,
        is_noticed=noticed,
    )


def make_student_model(
    config: Run, tokenizer: Tokenizer, prepared: Mapping[str, PreparedRows] | None = None
) -> StudentModel:
    """Return the student at its seeded start; several tasks share one encoder and have a head each; with its peer.

    Args:
        config: The run.
        tokenizer: The student's.
        prepared: The rows, by task, by which a checkpoint may be narrowed; None gives a student of the same shapes.
    """
    students = {
        name: make_task_model(member, tokenizer, None if prepared is None else prepared[name])
        for name, member in config.members.items()
    }
    if "" not in students:
        return share_encoder(students)
    member = config.members[""]
    if member.peer is None:
        return students[""]
    check_peer_tokens(member.student, member.peer.student)
    rows = None if prepared is None else prepared[""]
    return pair_up(students[""], make_task_model(make_peer_run(member), tokenizer, rows))


def make_peer_run(config: RunConfig) -> RunConfig:
    """Return the run that a student's peer would be alone.

    It has another seed, because two networks that begin alike have nothing to tell each other.
    """
    assert config.peer is not None
    return config.model_copy(update={"student": config.peer.student, "seed": config.seed + 1, "peer": None})


def make_task_model(
    config: RunConfig, tokenizer: Tokenizer, prepared: PreparedRows | None = None
) -> models.TextModel:
    """Return the student of one task at its seeded start; arguments as for `make_student_model`."""
    labels, student = config.data.labels if config.task.labelled else (), config.student
    measure = None
    if prepared is not None and student.kind == "pretrained" and student.importance == "taylor":
        measure = partial(
            measure_taylor, losses=partial(yield_gold_losses, config, prepared, tokenizer=tokenizer)
        )
    return models.TextModel(
        model=models.build_student(student, tokenizer, labels, config.seed, config.task, measure),
        tokenizer=tokenizer,
        labels=labels,
        kind=student.kind,
        task=config.task.head,
        max_length=config.task.max_length,
        languages=config.data.select_languages or config.data.languages,
        settings=config.task.settings,
    )


def yield_gold_losses(
    config: RunConfig, prepared: PreparedRows, model: PreTrainedModel, *, tokenizer: Tokenizer
) -> Iterator[torch.Tensor]:
    """Yield the loss of a model on batches of labelled training rows, spread evenly: sums over units, with a graph."""
    task, objective, tokens = config.task, config.objective.gold_alone(), prepared.train_tokens
    rows = np.flatnonzero(prepared.train.labelled)
    rows = rows[:: max(1, len(rows) // MEASURED_ROWS)][:MEASURED_ROWS]
    padding = read_padding(model, tokenizer)
    for begin in range(0, len(rows), MEASURED_BATCH):
        encoded = task.collate(tokens, rows[begin : begin + MEASURED_BATCH].tolist(), padding)
        counts = objective.counts(encoded.labels_N, None)
        units, gold = task.gather_taught(encoded.run(model), encoded)
        open_NC, values_N = encoded.extra.get("open_NC"), encoded.extra.get("values_N")
        result = objective.evaluate(
            task.relate_units(units.float()),
            encoded.labels_N,
            None,
            0.0,
            counts,
            open_NC,
            own=counts,
            values_N=values_N,
            gold_logits_NC=gold,
        )
        yield result.loss * counts.hard


def save_student(loop: TrainingLoop, output: Path) -> None:
    """Write the best student into a folder; each of several tasks gets a folder in it."""
    student, members = loop.best_student(), loop.config.members
    cards = {name: make_model_card(member, loop, name) for name, member in members.items()}
    if isinstance(student, PairModel):  # the peer first: where there is a student, the job is done
        card = make_model_card(make_peer_run(members[""]), loop, PEER)
        models.save_model(student.peer, name_peer_folder(output), card=card)
        student = student.student
    if isinstance(student, MultiModel):
        save_tasks(student, output, cards=cards)
    else:
        models.save_model(student, output, card=cards[""])


def make_model_card(config: RunConfig, loop: TrainingLoop, task: str = "") -> models.ModelCard:
    """Return what the README of a task's model, or of the peer, says of its training."""
    best = next(h for h in loop.state.history if int(h["step"]) == loop.state.best_step)
    prefix = f"{task}/eval/" if task else "eval/"
    student, notes = (
        config.student,
        f"Trained for {loop.state.step} steps; these weights are those after step ",
    )
    notes += f"{loop.state.best_step}."
    if student.kind == "pretrained" and (Path(student.path) / "config.json").is_file():
        labels, trusted = config.data.labels, student.trust_remote_code
        told = describe_handover(Path(student.path), labels, config.task.head, trust_remote_code=trusted)
        notes += f" Before: {told}." if told else ""
    return models.ModelCard(
        name=config.name,
        teachers=tuple(t.name for t in config.active_teachers),
        metrics={f"validation/{k.removeprefix(prefix)}": v for k, v in best.items() if k.startswith(prefix)},
        base_model=getattr(student, "path", None),
        notes=notes,
    )
