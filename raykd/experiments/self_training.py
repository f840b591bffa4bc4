"""Give self-training a teacher for each draw of the labelled rows.

Decision record: a teacher with `training.labelled: student` learns from the rows that the student has labels for. In an
experiment these differ between arms (`data.labelled_per_language`) and seeds (`resample_labelled`). One teacher for all
would know labels that the student of an arm does not have, and self-training would look better than it is. So such a
teacher becomes several, each with the number and the seed of its rows written out, and each training asks its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from raykd.config import DataConfig, Run, RunConfig, TeacherConfig, TrainedTeacher
from raykd.errors import ConfigError


def has_self_training(run: Run) -> bool:
    """Return whether a teacher of the run learns from the student's own labelled rows."""
    return any(_learns_from_student_rows(teacher) for teacher in run.active_teachers)


def bind_teachers(run: Run) -> tuple[TeacherConfig, ...]:
    """Return the teachers of a run, those of self-training bound to the run's own labelled rows.

    Args:
        run: One training of an experiment: an arm with a seed.

    Raises:
        ConfigError: The run has several tasks, each with rows of its own.
    """
    if not has_self_training(run):
        return run.active_teachers
    if not isinstance(run, RunConfig):
        raise ConfigError(
            "self-training is not offered in an experiment over a run of several tasks",
            got="training.labelled: student",
            wanted="a run of one task, or training.labelled: all",
        )
    return tuple(
        _bind(teacher, run.data) if _learns_from_student_rows(teacher) else teacher
        for teacher in run.active_teachers
    )


def _learns_from_student_rows(teacher: TeacherConfig) -> bool:
    return isinstance(teacher, TrainedTeacher) and teacher.training.labelled == "student"


def _bind(teacher: TeacherConfig, data: DataConfig) -> TrainedTeacher:
    """Return the teacher with its rows written out. Its own seed moves with theirs, so intervals cover its luck."""
    assert isinstance(teacher, TrainedTeacher)
    training, count, seed = teacher.training, data.labelled_per_language, data.labelled_seed
    rows: Mapping[str, object] = {
        "labelled_per_language": count,
        "labelled_seed": seed,
        "undrawn": "drop",
        **training.data,
    }
    bound = training.model_copy(update={"labelled": "all", "data": rows, "seed": training.seed + seed})
    name = f"{teacher.name}-{'all' if count is None else count}-seed{seed}"
    return teacher.model_copy(update={"name": name, "training": bound})
