"""Measure how large and fast the students of a sweep's trials are."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raykd.config import Run
from raykd.data.load import Dataset, load_data
from raykd.errors import RaykdError
from raykd.report.sizes import Size
from raykd.report.sweeps.trials import TrialRow
from raykd.scoring.student_sizes import measure_student
from raykd.student.prepare import fit_tokenizer
from raykd.tuning.trial_rank import RunFactory

LIMIT_S = 60.0
"""No further shape of student is measured after this time, so that a search over sizes does not wait for its tables."""
log = logging.getLogger("raykd.tuning")


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
        except RaykdError as error:
            log.warning("the size of trial %s was not measured: %s", trial.name, error)
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
