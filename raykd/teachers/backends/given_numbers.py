"""Check numbers that somebody else computed, and turn them into logits.

Decision record: what a user's code or file gives is not trusted to be what it is called. Percent and log-probabilities
are numbers too, and a softmax of them looks like an answer. Each is refused by its name, never repaired.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ModelError

NumberForm = Literal["probabilities", "logits"]
"""probabilities: at least 0, each row's sum is 1. logits: any finite numbers, of which a softmax at T = 1 makes
probabilities; log-probabilities are logits."""
SUM = 0.01
"""How far from 1 the probabilities of a row may sum up, which rounding to a few digits explains."""
SMALLEST = 1e-30
"""What a probability of 0 counts as, so that it has a logarithm; nothing in float32 tells them apart."""


def convert_to_logits(
    values_NC: NDArray[np.floating], form: NumberForm, who: str, key: str, *, several: bool = False
) -> NDArray[np.float32]:
    """Return numbers as logits.

    Args:
        values_NC: One row per unit.
        form: What they are called.
        who: What gave them, for messages.
        key: The key of `form` in the run file.
        several: Whether several labels may hold at once, so that each probability stands alone.

    Raises:
        ModelError: They are not finite, or no probabilities although they are called so.
    """
    values_NC = np.asarray(values_NC, dtype=np.float64)
    bad_N = ~np.isfinite(values_NC).all(axis=1)
    if bad_N.any():
        _refuse(
            who, f"gave NaN or infinity for {bad_N.sum()} units", values_NC[bad_N][0], "finite numbers", ""
        )
    if form == "logits":
        return values_NC.astype(np.float32)
    if several:
        return _convert_each(values_NC, who, key)
    sums_N = values_NC.sum(axis=1)
    if (values_NC < 0.0).any():
        row_C = values_NC[(values_NC < 0.0).any(axis=1)][0]
        logs = abs(float(np.exp(row_C).sum()) - 1.0) < SUM
        hint = f"{'these are log-probabilities' if logs else 'if these are logits'}: {key}: logits"
        _refuse(who, "gave probabilities below 0", row_C, "numbers from 0 to 1 that sum up to 1", hint)
    if (np.abs(sums_N - 1.0) > SUM).any():
        row_C = values_NC[np.abs(sums_N - 1.0) > SUM][0]
        percent = abs(float(row_C.sum()) - 100.0) < 100.0 * SUM
        hint = (
            "these are percent: divide them by 100"
            if percent
            else (f"if these are logits: {key}: logits; several labels at once are no choice of one")
        )
        _refuse(who, f"gave probabilities that sum up to {row_C.sum():.6g}", row_C, "a sum of 1", hint)
    logits_NC: NDArray[np.float32] = np.log(np.maximum(values_NC, SMALLEST)).astype(np.float32)
    return logits_NC


def _convert_each(values_NC: NDArray[np.floating], who: str, key: str) -> NDArray[np.float32]:
    """Return ``log(p / (1 - p))`` of each probability."""
    bad_N = ((values_NC < 0.0) | (values_NC > 1.0)).any(axis=1)
    if bad_N.any():
        hint = f"if these are logits: {key}: logits"
        _refuse(
            who, "gave numbers that are no probabilities", values_NC[bad_N][0], "numbers from 0 to 1", hint
        )
    odds_NC = np.log(np.maximum(values_NC, SMALLEST)) - np.log(np.maximum(1.0 - values_NC, SMALLEST))
    return np.asarray(odds_NC, dtype=np.float32)


def check_label_width(width: int, labels: Sequence[str], who: str) -> None:
    """Refuse rows of numbers that are not one for each label.

    Raises:
        ModelError: Names both.
    """
    if width != len(labels):
        raise ModelError(
            f"{who} gave {width} numbers a unit",
            got=f"{width} numbers",
            wanted=f"{len(labels)}, one for each of its labels {list(labels)}",
            next_step="correct its labels, or what it gives",
        )


def _refuse(who: str, what: str, row_C: NDArray[np.floating], wanted: str, hint: str) -> None:
    shown = ", ".join(f"{value:.6g}" for value in row_C[:8].tolist())
    raise ModelError(
        f"{who} {what}",
        got=f"[{shown}{', ...' if len(row_C) > 8 else ''}]",
        wanted=wanted,
        next_step=hint or None,
    )
