"""Measure calibration as it is and at the temperature that fits best.

Decision record: the temperature is fitted on one half of the rows and the error measured on the other, and the other
way round, so that no row judges its own temperature. (Temperature scaling and ECE: Guo et al., arXiv 1706.04599.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd.tasks.scores.classification import compute_calibration_error, log_softmax

COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of a fitted temperature."""
ROUNDS = 40
"""Steps of the search, each of which leaves 62 % of the interval: 1e-8 of it in the end."""
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Calibration:
    """How well a system's confidence fits its accuracy.

    Attributes:
        system: Its name.
        units: Labelled units that it covers.
        ece: Expected calibration error at temperature 1, in [0, 1].
        nll: Mean negative log-likelihood at temperature 1, nats.
        temperature: The temperature of the lowest NLL over all units.
        ece_fitted: ECE at the temperature that was fitted on the other half.
        nll_fitted: NLL at that temperature.
    """

    system: str
    units: int
    ece: float
    nll: float
    temperature: float
    ece_fitted: float
    nll_fitted: float


def compute_gold_nll(
    logits_NC: NDArray[np.floating], gold_N: NDArray[np.integer], temperature: float = 1.0
) -> NDArray[np.float64]:
    """Return ``-log p(gold)`` of each unit at a temperature, nats."""
    logp_NC = log_softmax(np.asarray(logits_NC, dtype=np.float64) / temperature)
    return np.asarray(-logp_NC[np.arange(len(gold_N)), gold_N])


def fit_temperature(
    logits_NC: NDArray[np.floating], gold_N: NDArray[np.integer], rounds: int = ROUNDS
) -> float:
    """Return the temperature of the lowest NLL, found by golden-section search over its logarithm.

    The NLL is convex in 1 / T, so it has one minimum.

    Args:
        logits_NC: Raw logits or log-probabilities.
        gold_N: Gold labels.
        rounds: Steps of the search.
    """

    def cost(log_t: float) -> float:
        return float(compute_gold_nll(logits_NC, gold_N, float(np.exp(log_t))).mean())

    low, high = float(np.log(COLDEST)), float(np.log(HOTTEST))
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = cost(left), cost(right)
    for _ in range(rounds):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = cost(right)
    return float(np.exp((low + high) / 2))


def measure_calibration(
    system: str, logits_NC: NDArray[np.floating], gold_N: NDArray[np.integer]
) -> Calibration | None:
    """Measure a system on labelled units that it covers; None with fewer than two of them."""
    if len(gold_N) < 2:
        return None
    # Drawn, not every second row: the order of the rows may follow their labels, or the errors in these.
    first_N = np.random.default_rng(0).permutation(len(gold_N)) % 2 == 0
    fitted_NC = np.array(logits_NC, dtype=np.float64)
    for half_N in (first_N, ~first_N):
        fitted_NC[half_N] /= fit_temperature(logits_NC[~half_N], gold_N[~half_N])
    return Calibration(
        system,
        len(gold_N),
        _compute_ece(logits_NC, gold_N),
        float(compute_gold_nll(logits_NC, gold_N).mean()),
        fit_temperature(logits_NC, gold_N),
        _compute_ece(fitted_NC, gold_N),
        float(compute_gold_nll(fitted_NC, gold_N).mean()),
    )


def _compute_ece(logits_NC: NDArray[np.floating], gold_N: NDArray[np.integer]) -> float:
    logp_NC = log_softmax(np.asarray(logits_NC, dtype=np.float64))
    return compute_calibration_error(np.exp(logp_NC.max(axis=1)), logp_NC.argmax(axis=1) == gold_N)
