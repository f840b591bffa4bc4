"""Is a model better than no model at all? Accuracy beside the most frequent label, and whether other labels fit.

Decision record: a model that is significantly worse than one label for everything is not weak but wrong: swapped
labels, another language, another model. An interval, not a threshold, decides, so that few rows accuse nobody.
The labels that would fit best are found by matching the confusion matrix, and believed only where no luck explains
them: of C labels there are C! assignments, and the best of many is better than chance by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


@dataclass(frozen=True)
class Swap:
    """Other labels that fit a model's answers. assignment: for each label what it should be called instead."""

    assignment: tuple[int, ...]
    accuracy: float


@dataclass(frozen=True)
class Comparison:
    """How often a model is right, and what one label for everything would be.

    units: labelled units. accuracy, low, high: its share of right units and the 95 % interval of that.
    label, share: the most frequent label and its share. swap: None where no other labels fit better.
    """

    units: int
    accuracy: float
    low: float
    high: float
    label: int
    share: float
    swap: Swap | None = None

    @property
    def is_poor(self) -> bool:
        """Whether the whole interval lies below the share of the most frequent label."""
        return self.high < self.share

    @property
    def is_no_better(self) -> bool:
        """Whether the most frequent label is right as often, on these units."""
        return self.accuracy <= self.share


def compute_wilson_interval(hits: int, units: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Raises:
        ValueError: no unit.
    """
    if units < 1:
        raise ValueError("an interval needs a unit")
    share, spread = hits / units, z * z / units
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / units + spread / (4 * units)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def compare_with_constant_label(
    predicted_N: NDArray[np.integer],
    gold_N: NDArray[np.integer],
    classes: int,
    *,
    label: int | None = None,
    chosen_N: NDArray[np.integer] | None = None,
) -> Comparison:
    """Compares a model's answers to labelled units with one label for everything.

    Args:
        predicted_N: what counts as its answer. classes: C.
        label: of the one label; None takes the most frequent of the gold labels.
        chosen_N: what is matched with the gold labels, where its answers were repaired before they counted.
    Raises:
        ValueError: no unit.
    """
    counts_C = np.bincount(gold_N, minlength=classes)
    label = int(counts_C.argmax()) if label is None else label
    hits = int((predicted_N == gold_N).sum())
    low, high = compute_wilson_interval(hits, len(gold_N))
    found = Comparison(
        len(gold_N), hits / len(gold_N), low, high, label, float(counts_C[label] / len(gold_N))
    )
    chosen_N = predicted_N if chosen_N is None else chosen_N
    confusion_CC = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion_CC, (chosen_N, gold_N), 1)
    swap = find_swap(confusion_CC, max(found.share, high))
    return Comparison(**{**vars(found), "swap": swap})


def find_swap(confusion_CC: NDArray[np.int64], bar: float) -> Swap | None:
    """The assignment of labels under which the answers are right most often; None where it may be luck.

    Args:
        confusion_CC: units by what was answered (rows) and by gold label (columns).
        bar: what it must exceed: the lower end of its interval, less what the best of C! guesses gains by luck
            (a union bound with Hoeffding's inequality).
    """
    from scipy.optimize import linear_sum_assignment

    classes, units = len(confusion_CC), int(confusion_CC.sum())
    rows, columns = linear_sum_assignment(confusion_CC, maximize=True)
    # An answer that was never given needs no other name: it keeps its own where that is free.
    assignment = _restore_own_labels(columns.tolist(), confusion_CC)
    hits = int(confusion_CC[rows, columns].sum())
    if assignment == list(range(classes)) or not units:
        return None
    luck = math.sqrt(math.lgamma(classes + 1) / (2 * units))
    return (
        Swap(tuple(assignment), hits / units)
        if compute_wilson_interval(hits, units)[0] - luck > bar
        else None
    )


def _restore_own_labels(assignment: list[int], confusion_CC: NDArray[np.int64]) -> list[int]:
    """The same, with names that nothing speaks for exchanged until labels have their own where they can."""
    for own in range(len(assignment)):
        other = assignment.index(own)
        if other == own:
            continue
        now = confusion_CC[own, assignment[own]] + confusion_CC[other, own]
        if confusion_CC[own, own] + confusion_CC[other, assignment[own]] >= now:
            assignment[other], assignment[own] = assignment[own], own
    return assignment
