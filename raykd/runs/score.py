"""The final table's numbers: every system's answers on the same held-out rows.

Decision record: teachers answer through the pool, students in the driver through the same `Teacher` class, in
float32, so that all are measured alike. Milliseconds for 1,000 texts are measured apart, without the store, over
the same sample and on the cores that the system was granted. The ensemble is what the student is taught: the
run's weighting and mixture at temperature 1, without gold labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED, TeacherSignal, TextBatch, stack
from raykd.distill.targets import combine
from raykd.report.results import Predictions, Role
from raykd.teachers.pool import PoolHandle
from raykd.teachers.teacher import Teacher, TeacherInfo, TeacherSpec

ASKED_ROWS = 128
"""Rows of one request of an evaluation."""
TIMED_ROWS = 256
"""Texts that the time for 1,000 texts is measured on."""


def ask_all(handle: PoolHandle, rows: Rows) -> list[TeacherSignal]:
    """Every teacher's answers to all rows of its languages, in row order."""
    source = handle.source(None)
    waiting = [
        source.submit(rows.take(range(begin, min(begin + ASKED_ROWS, len(rows)))))
        for begin in range(0, len(rows), ASKED_ROWS)
    ]
    parts = [ticket.result() for ticket in waiting]
    return [
        TeacherSignal(
            name,
            np.concatenate([part[m].logits_NC for part in parts]),
            np.concatenate([part[m].covered_N for part in parts]),
        )
        for m, name in enumerate(handle.teachers)
    ]


def sample(rows: Rows, languages: frozenset[str] | None) -> TextBatch:
    """The first rows of these languages, for timing."""
    picked = [i for i, lang in enumerate(rows.languages) if languages is None or lang in languages]
    step = max(1, len(picked) // TIMED_ROWS)
    return rows.take(picked[::step][:TIMED_ROWS])


def teacher_predictions(
    signals: Sequence[TeacherSignal], infos: Sequence[TeacherInfo], times: Sequence[float], rows: Rows
) -> list[Predictions]:
    """The teachers' rows of the table."""
    return [
        Predictions(
            s.teacher,
            "teacher",
            s.logits_NC,
            s.covered_N,
            rows.labels_B,
            rows.languages,
            i.parameters,
            None if np.isnan(t) else t,
        )
        for s, i, t in zip(signals, infos, times, strict=True)
    ]


def ensemble_predictions(
    config: RunConfig,
    signals: Sequence[TeacherSignal],
    languages: Sequence[frozenset[str] | None],
    teachers: Sequence[Predictions],
    rows: Rows,
) -> Predictions:
    """What the student is taught: the combined target at temperature 1, as log-probabilities."""
    hidden = torch.full((len(rows),), UNLABELLED, dtype=torch.int64)
    stacked = stack(signals, languages, hidden, tuple(rows.languages))
    target = combine(stacked, config.objective.weighting.weights(stacked), 1.0, config.objective.mixture)
    times = [t.ms_per_1000 for t in teachers]
    asked = [
        sum(
            config.objective.weighting.asks(lang, tuple(t.name for t in teachers), tuple(languages))[m]
            for lang in rows.languages
        )
        / max(1, len(rows))
        for m in range(len(teachers))
    ]
    return Predictions(
        "teacher ensemble",
        "ensemble",
        target.logp_NK.numpy().astype(np.float32),
        target.covered_N.numpy(),
        rows.labels_B,
        rows.languages,
        sum(t.parameters for t in teachers),
        sum((t or 0.0) * share for t, share in zip(times, asked, strict=True)),
    )


def student_predictions(name: str, role: Role, directory: Path, config: RunConfig, rows: Rows) -> Predictions:
    """A saved student's answers, from the files that a user gets."""
    threads = max(1, int(config.workers.num_cpus + 1e-6))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        spec = TeacherSpec(name, str(directory), config.data.labels, config.task, dtype="float32")
        student = Teacher(spec)
        info = student.open()
        signal = student.answer(rows.take(range(len(rows))))
        elapsed = student.measure(sample(rows, None))
    finally:
        torch.set_num_threads(before)
    return Predictions(
        name,
        role,
        signal.logits_NC,
        signal.covered_N,
        rows.labels_B,
        rows.languages,
        info.parameters,
        elapsed,
    )
