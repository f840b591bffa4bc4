"""Score the teachers and their ensemble on held-out rows, with their sizes and times: rows of the tables of systems."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raykd.answers.source import AnswerSlots
from raykd.config import RunConfig
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.distill.signals import Signals
from raykd.models import measure_stored_megabytes
from raykd.scoring.absent_teachers import leave_out_teachers
from raykd.scoring.costs import time_teachers
from raykd.scoring.ensembles.agreement import name_score
from raykd.scoring.ensembles.vectors import join_vectors
from raykd.scoring.score import (
    System,
    ask_teachers,
    measure_ensemble,
    score_ensemble,
    score_teachers,
    stack_signals,
)
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo
from raykd.teachers.timing import Timing


@dataclass(frozen=True)
class TeacherSystems:
    """Rows of a table of systems.

    Attributes:
        systems: Each teacher, then their ensemble where they have a common distribution.
        together: Their answers side by side; None where they have no common distribution.
    """

    systems: list[System]
    together: Signals | None


def score_teacher_systems(
    config: RunConfig,
    pool: TeacherPool,
    infos: Sequence[TeacherInfo],
    signals: Sequence[AnswerSlots],
    rows: Rows,
    times: Mapping[str, Timing],
    megabytes: Mapping[str, float | None],
) -> TeacherSystems:
    """Score teachers and ensemble.

    Args:
        config: The run of one task.
        pool: The opened teachers.
        infos: What each teacher says of itself.
        signals: Each teacher's answers to all rows.
        rows: The held-out rows.
        times: What a text takes, by teacher; others were not measured.
        megabytes: Of each teacher's weights on disk, by name.
    """
    milliseconds = {name: 1e3 * own.ms for name, own in times.items()}
    places = {name: own.place for name, own in times.items()}
    systems = [
        (replace(p, megabytes=megabytes[p.name], timed_on=places.get(p.name)), score)
        for p, score in score_teachers(config, pool, signals, infos, rows, milliseconds)
    ]
    if config.task.language:
        return TeacherSystems(systems, None)
    spoken, teachers = pool.handle.teacher_languages, [p for p, _ in systems]
    asked_B = np.any([signal.answered_B for signal in signals], axis=0)
    if config.task.vectors:
        joined = join_vectors(config, signals, spoken, rows)
        ensemble = measure_ensemble(config, joined, asked_B, spoken, teachers, rows)
        return TeacherSystems([*systems, ensemble], None)
    together = stack_signals(config, signals, spoken, rows)
    ensemble = score_ensemble(config, together, asked_B, teachers, rows)
    return TeacherSystems([*systems, ensemble], together)


def measure_teacher_megabytes(pool: TeacherPool) -> dict[str, float | None]:
    """Return the megabytes of each teacher's weights on disk, by name; None is not known."""
    paths = {spec.name: spec.teacher.model_path for g in pool.handle.groups for spec in g.specs}
    return {
        name: None if path is None else measure_stored_megabytes(Path(path)) for name, path in paths.items()
    }


def score_reference_systems(
    config: RunConfig,
    data: Dataset,
    pool: TeacherPool,
    infos: Sequence[TeacherInfo],
    names: Collection[str],
    *,
    timed: bool = True,
) -> list[System]:
    """Score teachers and ensemble on the held-out rows as references for the arms of an experiment.

    Args:
        config: The base run of one task.
        data: Its rows.
        pool: The opened teachers; they answer the held-out rows here.
        infos: What each teacher says of itself.
        names: The teachers that are scored; arms of the experiment may have others, which are left out.
        timed: Whether it is measured how fast they are.
    """
    others = {name for name in pool.handle.teachers if name not in names}
    if len(others) == len(infos):
        return []
    if others:
        config, pool, infos = leave_out_teachers(config, pool, infos, others)
    rows = getattr(data, data.held_out)
    signals = ask_teachers(pool.handle, rows)
    found_times = time_teachers(pool, config, None, data.train, rows) if timed else {}
    times = {name: own for name, (own, _) in found_times.items() if own is not None}
    megabytes = measure_teacher_megabytes(pool)
    found = score_teacher_systems(config, pool, infos, signals, rows, times, megabytes).systems
    if data.held_out in data.judged:
        return [(predictions, name_score(score)) for predictions, score in found]
    return found
