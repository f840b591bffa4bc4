"""Compare a model with no model at all: its accuracy with the most frequent label's, and with labels swapped.

Decision record: a model that is significantly worse than one label for everything is not weak but wrong (swapped
labels, another language, another model). An interval, not a threshold, decides, so that few rows accuse nobody.
The labels that would fit best are found by matching the confusion matrix, and believed only where no luck explains
them: of C labels there are C! assignments, and the best of many is better than chance by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


@dataclass(frozen=True)
class Swap:
    """Other labels that fit a model's answers.

    Attributes:
        assignment: For each label, by number, the label that it should be called instead.
        accuracy: Share of right units under that assignment.
    """

    assignment: tuple[int, ...]
    accuracy: float


@dataclass(frozen=True)
class Comparison:
    """How often a model is right, and how often one label for everything would be.

    Attributes:
        units: Labelled units.
        accuracy: The model's share of right units.
        low: Lower end of the 95 % interval of that share.
        high: Upper end.
        label: The most frequent label.
        share: Its share of the units.
        swap: Labels that fit better; None where no other labels do.
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


def compute_wilson_interval(hits: int, units: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a share.

    Raises:
        ValueError: There is no unit.
    """
    if units < 1:
        raise ValueError("an interval needs a unit")
    share, spread = hits / units, Z_95 * Z_95 / units
    middle = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / units + spread / (4 * units)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def compare_with_constant_label(
    predicted_N: NDArray[np.integer],
    gold_N: NDArray[np.integer],
    classes: int,
    *,
    label: int | None = None,
    chosen_N: NDArray[np.integer] | None = None,
) -> Comparison:
    """Compare a model's answers to labelled units with one label for everything.

    Args:
        predicted_N: The model's answers.
        gold_N: The gold labels.
        classes: C.
        label: The one label; None takes the most frequent of the gold labels.
        chosen_N: Answers to match with the gold labels, where `predicted_N` were repaired.

    Raises:
        ValueError: There is no unit.
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
    return replace(found, swap=swap)


def find_swap(confusion_CC: NDArray[np.int64], bar: float) -> Swap | None:
    """Return the assignment of labels under which the answers are right most often; None where it may be luck.

    Args:
        confusion_CC: Units by answer (rows) and by gold label (columns).
        bar: The accuracy to exceed. The lower end of the assignment's interval must, less what the best of C! guesses
            gains by luck (a union bound with Hoeffding's inequality).
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
    sure = compute_wilson_interval(hits, units)[0] - luck > bar
    return Swap(tuple(assignment), hits / units) if sure else None


def _restore_own_labels(assignment: list[int], confusion_CC: NDArray[np.int64]) -> list[int]:
    """Return the assignment with every label on its own name where nothing speaks for another."""
    for own in range(len(assignment)):
        other = assignment.index(own)
        if other == own:
            continue
        now = confusion_CC[own, assignment[own]] + confusion_CC[other, own]
        if confusion_CC[own, own] + confusion_CC[other, assignment[own]] >= now:
            assignment[other], assignment[own] = assignment[own], own
    return assignment
