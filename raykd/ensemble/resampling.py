"""Scores of many coalitions as ratios of sums over rows, and their bootstrap over rows.

Decision record: accuracy, F1 and NLL are each a sum over rows divided by another. So a bootstrap sample is a count for
each row, all coalitions and samples are one product of matrices, and differences between coalitions are paired by
construction. Rows are drawn within their language, since the score is the unweighted mean over languages.

Shape legend: ``S`` coalitions, ``I`` items (a row, or a row and a class), ``R`` bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLES = 2000
"""Bootstrap samples of an interval."""
LEVEL = 0.95
"""Coverage of an interval."""


@dataclass(frozen=True)
class ScoreParts:
    """What each coalition earned with each item: its score over some items is ``sum(top) / sum(bottom)``.

    Attributes:
        top_SI: 1 where right (accuracy), twice the entities found (F1), or the negative NLL, so that more is better.
        bottom_SI: 1 (accuracy), entities found plus entities given (F1), or units (NLL).
        row_I: The row of each item.
        class_I: The class of each item.
        languages_B: Language of each row.
    """

    top_SI: NDArray[np.float64]
    bottom_SI: NDArray[np.float64]
    row_I: NDArray[np.int64]
    class_I: NDArray[np.int64]
    languages_B: tuple[str, ...]

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages, in the order of their first row."""
        return tuple(dict.fromkeys(self.languages_B))

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that have an item."""
        return tuple(np.unique(self.class_I).tolist())

    def pick_language(self, language: str) -> NDArray[np.bool_]:
        """Return which items are in this language, ``[I]``."""
        there_B = np.asarray([own == language for own in self.languages_B], dtype=bool)
        return there_B[self.row_I]

    def pick_class(self, number: int) -> NDArray[np.bool_]:
        """Return which items are of this class, ``[I]``."""
        return np.asarray(self.class_I == number)

    def score(
        self, picked_I: NDArray[np.bool_], counts_RB: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Return the scores ``[S, R]`` over some items, in each sample of rows; R is 1 without samples.

        A score without anything to divide by is 0.

        Args:
            picked_I: The items.
            counts_RB: How often each row was drawn in each sample.
        """
        rows = self.row_I[picked_I]
        weights_IR = np.ones((len(rows), 1)) if counts_RB is None else counts_RB[:, rows].T
        top_SR, bottom_SR = self.top_SI[:, picked_I] @ weights_IR, self.bottom_SI[:, picked_I] @ weights_IR
        return np.divide(top_SR, bottom_SR, out=np.zeros_like(top_SR), where=bottom_SR > 0)

    def score_mean(self, counts_RB: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Return the unweighted mean over languages, ``[S, R]``, as `score`."""
        parts = [self.score(self.pick_language(x), counts_RB) for x in self.languages]
        mean_SR: NDArray[np.float64] = np.mean(parts, axis=0)
        return mean_SR


def draw_samples(languages_B: Sequence[str], samples: int = SAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Draw bootstrap samples of rows, each language by itself.

    Args:
        languages_B: Language of each row.
        samples: R.
        seed: Of the draw.

    Returns:
        How often each row was drawn in each sample, ``[R, B]``.
    """
    rng, codes = np.random.default_rng(seed), np.asarray(languages_B, dtype=object)
    counts_RB = np.zeros((samples, len(codes)))
    for language in dict.fromkeys(languages_B):
        (rows,) = np.nonzero(codes == language)
        counts_RB[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1.0 / len(rows)), samples)
    return counts_RB


def compute_interval(values_R: NDArray[np.float64], comparisons: int = 1) -> tuple[float, float]:
    """Return the percentile interval of a bootstrap, corrected for the number of comparisons (Bonferroni)."""
    tail = (1.0 - LEVEL) / 2 / comparisons
    low, high = np.quantile(values_R, [tail, 1.0 - tail])
    return float(low), float(high)
