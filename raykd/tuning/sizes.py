"""Measure how large and fast the students of a sweep's trials are, and its teachers as one system.

Decision record: size and speed do not depend on what the weights are. A student at its seeded start, saved and loaded
as a trained one is, therefore says what all trials of its shape take. It is timed after the trials, when nothing else
of the sweep wants the machine.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from raykd import models
from raykd.config import Run, RunConfig
from raykd.data.load import Dataset, load_data
from raykd.driver.loop import make_student_model
from raykd.models.multi import MultiModel, PairModel, save_tasks
from raykd.report.sizes import Size
from raykd.report.sweeps.trials import TrialRow
from raykd.scoring.costs import time_teachers
from raykd.scoring.score import join_sizes, make_student_spec, share_texts, time_student
from raykd.scoring.teacher_systems import measure_teacher_megabytes
from raykd.student.prepare import fit_tokenizer
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo
from raykd.teachers.teacher import Teacher
from raykd.text.tokens import Tokenizer
from raykd.tuning.trial_rank import RunFactory

LIMIT_S = 60.0
"""No further shape of student is measured after this time, so that a search over sizes does not wait for its tables."""
log = logging.getLogger("raykd.tuning")


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
    student = student.student if isinstance(student, PairModel) else student
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
    shares = share_texts(config, pool.handle.teachers, pool.handle.teacher_languages, data.validation)
    return TeacherSizes(each, join_sizes(list(each.values()), shares))


def join_tasks(parts: Sequence[TeacherSizes]) -> TeacherSizes:
    """Return the teachers of all tasks; their times are of different texts and do not add up."""
    each = {name: size for part in parts for name, size in part.each.items()}
    if len(parts) < 2:
        return parts[0] if parts else TeacherSizes()
    whole = join_sizes(list(each.values()), [1.0] * len(each))
    return TeacherSizes(each, Size(whole.parameters, whole.megabytes))


def measure_trial_sizes(
    trials: Sequence[TrialRow],
    factory: RunFactory,
    base: Run,
    data: Mapping[str, Dataset],
    tokenizers: Mapping[str, Any],
) -> dict[str, Size]:
    """Return size and speed of the students, by trial; one that is not known is missing.

    Trials of equal students and rows share a measurement.

    Args:
        trials: The best first, since time is bounded.
        factory: Makes the run of a sample.
        base: The run that every trial begins with.
        data: Its rows, by task.
        tokenizers: Of students, by `tokenizer_key`, fitted to these rows.
    """
    found: dict[str, Size] = {}
    by_shape: dict[str, Size | None] = {}
    begun = time.monotonic()
    for trial in trials:
        try:
            run = factory.build_run(trial.sample)
            shape = _describe_shape(run)
            if shape not in by_shape:
                late = time.monotonic() - begun > LIMIT_S
                by_shape[shape] = None if late else _measure(run, base, data, tokenizers)
        except Exception:  # a sweep of hours must not end without its tables for the sake of these columns
            log.warning("the size of trial %s was not measured", trial.name, exc_info=True)
            continue
        size = by_shape[shape]
        if size is not None:
            found[trial.name] = size
    return found


def _describe_shape(run: Run) -> str:
    """Return what decides size and speed of a run's student."""
    members = run.members.values()
    return repr((run.student.model_dump_json(), [(m.data.model_dump_json(), m.task.head) for m in members]))


def _measure(run: Run, base: Run, data: Mapping[str, Dataset], tokenizers: Mapping[str, Any]) -> Size:
    same = all(member.data == base.members[task].data for task, member in run.members.items())
    rows = {
        task: data[task]
        if member.data == base.members[task].data
        else load_data(member.data, Path.cwd(), member.form)
        for task, member in run.members.items()
    }
    tokenizer = tokenizers.get(run.student.tokenizer_key()) if same else None
    if tokenizer is None:
        parts = [(member.task, rows[task].train) for task, member in run.members.items()]
        tokenizer = fit_tokenizer(run.student, parts)
    return measure_student(run, tokenizer, rows)
