"""Measure how large and fast a student is without training it, and its teachers as one system.

Decision record: size and speed do not depend on what the weights are. A student at its seeded start, saved and loaded
as a trained one is, therefore says what all trials of its shape take. It is timed after the trials, when nothing else
of the sweep wants the machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from raykd import models
from raykd.config import Run, RunConfig
from raykd.data.load import Dataset
from raykd.driver.loop import make_student_model
from raykd.models.multi import MultiModel, save_tasks
from raykd.report.sizes import Size
from raykd.scoring.costs import time_teachers
from raykd.scoring.score import compute_shares, join_sizes, make_student_spec, time_student
from raykd.scoring.teacher_systems import measure_teacher_megabytes
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo
from raykd.teachers.teacher import Teacher
from raykd.text.tokens import Tokenizer


@dataclass(frozen=True)
class TeacherSizes:
    """How large and fast the teachers of a run are.

    Attributes:
        each: By name.
        together: As one system; of several tasks without a time, since their texts differ. None without teachers.
    """

    each: Mapping[str, Size] = field(default_factory=dict)
    together: Size | None = None


def measure_student(run: Run, tokenizer: Tokenizer, data: Mapping[str, Dataset]) -> Size:
    """Return how large and fast a run's student is; of several tasks it is timed on the last one's texts.

    Args:
        run: The run.
        tokenizer: The student's.
        data: The rows, by task; the validation rows are timed.

    Raises:
        RaykdError: The student cannot be made.
    """
    student = make_student_model(run, tokenizer)
    with tempfile.TemporaryDirectory(prefix="raykd-size-") as place:
        folder = Path(place) / "student"
        if isinstance(student, MultiModel):
            save_tasks(student, folder)
        else:
            models.save_model(student, folder)
        task, member = list(run.members.items())[-1]
        own = folder / task if task else folder
        before = torch.get_num_threads()
        torch.set_num_threads(member.workers.threads)
        try:
            timing = time_student(Teacher(make_student_spec(own, member)), data[task].validation)
        finally:
            torch.set_num_threads(before)
        return Size(
            models.count_stored_parameters(own),
            models.measure_stored_megabytes(folder),
            None if timing is None else timing.ms,
            None if timing is None else timing.place,
        )


def measure_teachers(
    config: RunConfig, data: Dataset, pool: TeacherPool, infos: Sequence[TeacherInfo]
) -> TeacherSizes:
    """Return how large and fast the teachers of one task are, timed on its validation rows.

    Args:
        config: The run of one task.
        data: Its rows.
        pool: The opened teachers.
        infos: What each teacher says of itself.
    """
    times = time_teachers(pool, config, None, data.train, data.validation)
    megabytes = measure_teacher_megabytes(pool)
    each = {}
    for info in infos:
        own, _ = times.get(info.name, (None, None))
        ms, place = (None, None) if own is None else (own.ms, own.place)
        each[info.name] = Size(info.parameters, megabytes[info.name], ms, place)
    shares = compute_shares(config, pool.handle.teachers, pool.handle.teacher_languages, data.validation)
    return TeacherSizes(each, join_sizes(list(each.values()), shares))


def join_tasks(parts: Sequence[TeacherSizes]) -> TeacherSizes:
    """Return the teachers of all tasks; their times are of different texts and do not add up."""
    each = {name: size for part in parts for name, size in part.each.items()}
    if len(parts) < 2:
        return parts[0] if parts else TeacherSizes()
    whole = join_sizes(list(each.values()), [1.0] * len(each))
    return TeacherSizes(each, Size(whole.parameters, whole.megabytes))
