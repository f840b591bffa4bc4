"""Make the trainers of a loop and the module of its engine, and the saved student of its best weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from raykd import models
from raykd.answers.source import SignalSource
from raykd.config import MultiRun, Run
from raykd.models import Student
from raykd.models.bases import rebuild_student
from raykd.models.lm import Headless
from raykd.models.multi import MultiModel, PairModel, StudentModel, pair_up, rebuild_tasks
from raykd.student.prepare import PreparedRows
from raykd.student.task_trainer import TaskTrainer
from raykd.student.trainers.pair import PairTrainer
from raykd.text.buckets import MOST_SHAPES


def get_trained_module(config: Run, student: StudentModel) -> nn.Module:
    """Return what the engine trains: the model, or over a vocabulary the model up to its output head.

    Raises:
        ModelError: The family changes its logits after the head.
    """
    if isinstance(student, models.TextModel) and not isinstance(config, MultiRun) and config.task.language:
        return Headless(student.model)
    return student.model


def list_networks(config: Run, student: StudentModel) -> list[tuple[nn.Module, float]]:
    """Return the networks of a pair, each with its learning rate as a multiple of the run's; [] where there is one."""
    if not isinstance(student, PairModel):
        return []
    peer = config.members[""].peer
    assert peer is not None
    return [(student.student.model, 1.0), (student.peer.model, peer.learning_rate_factor)]


def build_task_trainers(
    config: Run,
    prepared: PreparedRows | Mapping[str, PreparedRows],
    student: StudentModel,
    source: SignalSource | Mapping[str, SignalSource] | None,
    device: torch.device,
) -> dict[str, TaskTrainer]:
    """Build one trainer per task of a run; what is not given by task belongs to the only one."""
    rows = {"": prepared} if isinstance(prepared, PreparedRows) else prepared
    sources = source if isinstance(source, Mapping) else {"": source}
    most = max(2, MOST_SHAPES // len(config.members))
    if isinstance(student, PairModel):
        (member,) = config.members.values()
        return {"": PairTrainer("", member, rows[""], student, sources.get(""), device, most)}
    parts = student.parts if isinstance(student, MultiModel) else {"": student}
    return {
        name: TaskTrainer(name, member, rows[name], parts[name], sources.get(name), device, most)
        for name, member in config.members.items()
    }


def rebuild_best(
    student: StudentModel, weights: Mapping[str, torch.Tensor], trainers: Mapping[str, TaskTrainer]
) -> StudentModel:
    """Return a student with trained weights, and with what was chosen on the validation rows.

    The trained module carries DeepSpeed's hooks; a fresh one of the same configuration does not.

    Args:
        student: What the loop trains.
        weights: Of its module.
        trainers: Of its tasks.
    """
    if isinstance(student, MultiModel):
        whole = rebuild_tasks(student, weights)
        parts = {name: trainers[name].complete_student(part) for name, part in whole.parts.items()}
        return replace(whole, parts=parts)
    (trainer,) = trainers.values()

    def rebuild(
        network: models.TextModel, config: Student, own: Mapping[str, torch.Tensor]
    ) -> models.TextModel:
        model = rebuild_student(config, network, own, trainer.config.seed, trainer.task)
        # The tokens at which texts begin and end may stand only there.
        if hasattr(network.model, "generation_config"):
            model.generation_config = network.model.generation_config
        return trainer.complete_student(replace(network, model=model))

    if not isinstance(student, PairModel):
        return rebuild(student, trainer.config.student, weights)
    assert trainer.config.peer is not None
    own, others = (
        {key.removeprefix(part): value for key, value in weights.items() if key.startswith(part)}
        for part in ("student.", "peer.")
    )
    return pair_up(
        rebuild(student.student, trainer.config.student, own),
        rebuild(student.peer, trainer.config.peer.student, others),
    )
