"""Rank scores: the one rule for the best step, patience, trials, rungs and tables.

Decision record: a score is compared as it is shown, to a hundredth of a per cent of a rate. Smaller differences come
from the order in which a mean was summed (0.65 and 0.6499999999999999 are one score), or are less than any validation
set can tell. Of two equal scores the one with the lower NLL is better, which is compared to the last digit that sums
agree in. If that is equal too, the earlier step counts, and the trial that began first.
"""

from __future__ import annotations

import math

DECIMALS = 4
"""Decimals of a score that are compared: of a rate, a hundredth of a per cent."""
FINE = 0.01
"""Scores nearer to 0 than this are compared in two significant digits, as many as a score of this size has."""
AGREED = 12
"""Digits that two ways of summing the same numbers agree in."""


def round_score(score: float) -> float:
    """Return the score as it is compared; equal numbers are one score.

    Args:
        score: As the metric gives it: a rate in [0, 1], NLL in nats.
    """
    if not math.isfinite(score) or score == 0.0:
        return score
    agreed = float(f"{score:.{AGREED - 1}e}")
    if abs(agreed) >= FINE:
        return round(agreed, DECIMALS)
    return float(f"{agreed:.1e}")


def build_rank_key(score: float, nll: float | None, *, higher_is_better: bool) -> tuple[float, float]:
    """Return a key to sort by, the better score first; of equal keys the earlier counts.

    Args:
        score: As the metric gives it.
        nll: In nats; None or NaN where it is not known, which loses a tie.
        higher_is_better: The metric's direction.
    """
    tie = math.inf if nll is None or not math.isfinite(nll) else _round_to_agreed_digits(nll)
    return (-1.0 if higher_is_better else 1.0) * round_score(score), tie


def _round_to_agreed_digits(value: float) -> float:
    return float(f"{value:.{AGREED - 3}e}")
