"""Find how a student's batches are padded."""

from __future__ import annotations

import logging

from raykd import models
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.models.lm import Headless
from raykd.prediction.probes import PROBED_ROWS
from raykd.prediction.selftest import PaddingFinding, find_padding
from raykd.student.prepare import get_language_codes
from raykd.text.padding import Padding

log = logging.getLogger("raykd.student")

_TESTED: dict[str, PaddingFinding] = {}
"""Findings of this process, keyed by what the student starts from: trials of a sweep mostly start alike."""


def find_student_padding(config: RunConfig, rows: Rows, student: models.TextModel) -> Padding:
    """Find how a student's batches are padded.

    raykd's own architectures are known. A checkpoint of another family is tested as teachers are, because with some
    families the loss of a row would depend on the rows beside it.

    Raises:
        ModelError: The model answers the same text differently when it is asked twice.
    """
    if config.student.kind != "pretrained" or not len(rows):
        return student.padding
    key = f"{config.student.model_dump_json()} {config.task.model_dump_json()}"
    if key not in _TESTED:
        _TESTED[key] = run_padding_test(config, rows, student)
        if _TESTED[key].shapes != "longest":
            log.warning("student %s: %s", config.name, _TESTED[key].describe())
    return _TESTED[key].of(student.padding)


def run_padding_test(config: RunConfig, rows: Rows, student: models.TextModel) -> PaddingFinding:
    """Test with some of the run's rows how a student's rows may share a forward pass."""
    sample = rows.take(range(0, len(rows), max(1, len(rows) // PROBED_ROWS))).with_codes(
        get_language_codes(config)
    )
    module = Headless(student.model) if config.task.language else None
    return find_padding(student, config.task, sample, module=module)
