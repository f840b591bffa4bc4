"""Say how sure a score is: a bootstrap interval over the rows that it was measured on.

Decision record: rows are drawn with replacement, since units of one row (the words of a sentence) are not independent.
Every main metric of a task is a ratio of two sums over rows (right answers and rows, twice the hits and all entities,
nats and tokens), so a resample needs no second look at the answers. scipy draws; the seed is fixed, so that a table
reads the same twice. The interval is of the luck of the rows. It says nothing of another seed of the training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
"""Times that the rows are drawn."""
LEVEL = 0.95
_DRAWN_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class RowShares:
    """A metric as a ratio of two sums over rows. Made by a task's `compute_row_shares`.

    Attributes:
        numerator_B: float64, of each row.
        denominator_B: float64, of each row.
    """

    numerator_B: NDArray[np.float64]
    denominator_B: NDArray[np.float64]

    def take(self, rows: NDArray[np.integer]) -> RowShares:
        """Return those of these rows."""
        return RowShares(self.numerator_B[rows], self.denominator_B[rows])


@dataclass(frozen=True)
class Interval:
    """An interval of a score.

    Attributes:
        low: Its lower end.
        high: Its upper end.
    """

    low: float
    high: float


def compute_bootstrap_interval(shares: RowShares) -> Interval | None:
    """Return the 95 % percentile interval of the ratio over 1,000 draws of the rows.

    None where no draw can differ from another: of one row, and where every row scores alike.
    """
    found = _draw_interval(_divide_sums, shares.numerator_B, shares.denominator_B)
    return None if found is None or found.low == found.high else found


def compute_change_interval(before: RowShares, after: RowShares) -> Interval | None:
    """Return the interval of the second ratio minus the first, both over the same rows (`compute_bootstrap_interval`).

    Args:
        before: Of one system.
        after: Of another one, for the same rows in the same order.
    """

    def change(*parts: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        old_top, old_bottom, top, bottom = parts
        return _divide_sums(top, bottom, axis) - _divide_sums(old_top, old_bottom, axis)

    return _draw_interval(
        change, before.numerator_B, before.denominator_B, after.numerator_B, after.denominator_B
    )


def _draw_interval(
    statistic: Callable[..., NDArray[np.float64]], *columns_B: NDArray[np.float64]
) -> Interval | None:
    """Return the percentile interval of a statistic of paired columns; None of fewer than two rows."""
    from scipy.stats import bootstrap

    rows = len(columns_B[0])
    if rows < 2:
        return None
    found = bootstrap(
        columns_B,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, _DRAWN_AT_ONCE // rows),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def _divide_sums(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    """Return the ratio of sums, 0 where a draw has nothing to divide by."""
    top, bottom = numerator.sum(axis=axis), denominator.sum(axis=axis)
    ratio: NDArray[np.float64] = np.divide(top, bottom, out=np.zeros(np.shape(top)), where=bottom > 0)
    return ratio
