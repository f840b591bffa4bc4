"""Refuse what an adapter for each language (`student.tuning.by`) is not combined with."""

from __future__ import annotations

from collections.abc import Sequence

from raykd.config.teachers import TeacherConfig, TrainedTeacher
from raykd.config.train import TrainConfig
from raykd.distill.objective import Objective
from raykd.errors import ConfigError
from raykd.models import Student
from raykd.models.tuning import is_by_language
from raykd.tasks import TaskBase


def check_adapters(
    student: Student,
    task: TaskBase,
    objective: Objective,
    train: TrainConfig,
    teachers: Sequence[TeacherConfig],
) -> None:
    """Refuse tasks whose texts are written or compared, and terms that read the states of a whole batch.

    Raises:
        ConfigError: Says what to change.
    """
    made = [t.name for t in teachers if isinstance(t, TrainedTeacher) and is_by_language(t.training.model)]
    if made:
        raise ConfigError(
            f"teacher {made[0]}: training.model.tuning.by is for students",
            got="a teacher with an adapter for each language",
            wanted="one adapter for all languages, or a teacher for each language",
        )
    if not is_by_language(student):
        return
    own = train.deepspeed if isinstance(train.deepspeed, dict) else {}
    zero = own.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    refused = {
        f"task {task.kind} has no head that a language could have of its own": task.language or task.vectors,
        "objective.features reads the states of a whole batch": bool(objective.features),
        "train.alignment reads the states of a whole batch": train.alignment is not None,
        "train.adversarial moves the tokens of a whole batch": train.adversarial is not None,
        "ZeRO 3 gathers weights in one order on all workers": 3 in (train.zero_stage, stage),
        "student.language_codes gives languages other names": bool(getattr(student, "language_codes", {})),
    }
    for why, is_so in refused.items():
        if is_so:
            raise ConfigError(
                f"student.tuning.by: {why}",
                got="an adapter for each language",
                wanted="one adapter (tuning.by: null), or a run without it",
                next_step="raykd train RUN.yaml --each-language trains a student for each language",
            )
