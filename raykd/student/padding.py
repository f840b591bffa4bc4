"""Find how a student's batches are padded."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from raykd import models
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.errors import ModelError
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


def check_one_pass(students: Iterable[tuple[RunConfig, Padding]]) -> None:
    """Refuse students whose batches run in several forward passes where parameters are sharded (ZeRO 3).

    Ranks have different numbers of passes, and each pass gathers weights from all ranks, so they would wait forever.

    Raises:
        ModelError: Names the student.
    """
    apart = [config for config, padding in students if padding.shapes != "longest"]
    if apart:
        raise ModelError(
            f"padding changes the answers of the student {apart[0].name}, so its batches run in parts of equal "
            "length, which ZeRO 3 cannot do on several workers",
            got=f"{apart[0].student.kind} student, ZeRO 3",
            wanted="ZeRO 0, 1 or 2, or a model of another family",
            next_step="lower train.zero_stage, or choose another checkpoint",
        )
