"""Compute intervals and corrected p-values of means and of paired differences over seeds.

Decision record: two arms with one seed share the order of rows and the start of the weights, so their difference is
taken seed by seed. Two intervals stand side by side, since each answers another question. Student's t over the seeds
says how sure the mean is for these test rows. The bootstrap resamples seeds and test rows, crossed (every student reads
the same rows), and so also says how another sample of rows would look. With few seeds its share of the seeds is too
narrow: a resample of three seeds has at most three values. Of m comparisons with one baseline one in twenty excludes 0
by chance, so their p-values are corrected by Holm's step-down method (1979), which holds however they depend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Coverage of all intervals."""
DRAWS = 10_000
"""Resamples of a bootstrap."""
_AT_ONCE = 500
"""Resamples in memory at one time."""
Interval = tuple[float, float]
"""Low and high end."""


def compute_t_interval(values: Sequence[float] | NDArray[np.float64]) -> Interval | None:
    """Return Student's t interval of the mean of independent values; None with fewer than two."""
    from scipy.stats import t

    value_S = np.asarray(values, dtype=np.float64)
    count = len(value_S)
    if count < 2:
        return None
    half = float(t.ppf((1 + LEVEL) / 2, count - 1) * value_S.std(ddof=1) / math.sqrt(count))
    return float(value_S.mean()) - half, float(value_S.mean()) + half


def compute_t_test(values: Sequence[float] | NDArray[np.float64]) -> float | None:
    """Return the two-sided p-value of "the mean is 0" by Student's t; None with fewer than two values.

    Values that are all equal leave no doubt: p is 1 if they are 0, else 0.
    """
    from scipy.stats import t

    value_S = np.asarray(values, dtype=np.float64)
    count = len(value_S)
    if count < 2:
        return None
    spread, mean = float(value_S.std(ddof=1)), float(value_S.mean())
    if spread == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2 * t.sf(abs(mean) / (spread / math.sqrt(count)), count - 1))


def correct_p_values(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number by Holm's step-down method.

    The i-th smallest of m is multiplied by m - i + 1. None of them gets smaller than the one before it, nor larger
    than 1.

    Args:
        p_values: One per comparison; None where there was none, which does not count.
    """
    known = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    before = 0.0
    for rank, (p, at) in enumerate(known):
        before = max(before, min(1.0, p * (len(known) - rank)))
        corrected[at] = before
    return corrected


def bootstrap_seeds(differences: Sequence[float]) -> Interval | None:
    """Return the percentile interval of the mean difference when seeds are resampled; None with fewer than two."""
    difference_S = np.asarray(differences, dtype=np.float64)
    if len(difference_S) < 2:
        return None
    rng = np.random.default_rng(0)
    means_D = difference_S[rng.integers(len(difference_S), size=(DRAWS, len(difference_S)))].mean(axis=1)
    return _percentiles(means_D)


def bootstrap_seeds_and_rows(
    difference_SN: NDArray[np.float64], group_N: Sequence[str], draws: int = DRAWS
) -> Interval | None:
    """Return the percentile interval of the mean difference when seeds and rows are resampled, crossed.

    The statistic is the mean over groups of the mean over their rows, averaged over seeds: the mean over languages of
    an accuracy. Rows are resampled within their group.

    Args:
        difference_SN: First arm minus second arm, for every seed and row.
        group_N: The group of each row.
        draws: Resamples.

    Returns:
        The interval; None with fewer than two seeds, or without rows.
    """
    seeds, rows = difference_SN.shape
    if seeds < 2 or rows == 0:
        return None
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(np.asarray(group_N) == name) for name in dict.fromkeys(group_N)]
    found = []
    for begin in range(0, draws, _AT_ONCE):
        count = min(_AT_ONCE, draws - begin)
        weight_DS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count) / seeds
        mean_D = np.zeros(count)
        for picked in groups:
            size = len(picked)
            weight_Dn = rng.multinomial(size, np.full(size, 1 / size), size=count) / size
            mean_D += ((weight_DS @ difference_SN[:, picked]) * weight_Dn).sum(axis=1) / len(groups)
        found.append(mean_D)
    return _percentiles(np.concatenate(found))


def _percentiles(means_D: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(means_D, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
