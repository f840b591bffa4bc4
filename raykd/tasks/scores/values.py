"""Compute the metrics of predicted numbers in numpy; tests compare them with scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def compute_value_metrics(
    predicted_N: NDArray[np.floating], gold_N: NDArray[np.floating]
) -> dict[str, float]:
    """Return mean squared and mean absolute error, and the correlation of values (Pearson) and of ranks (Spearman).

    A correlation is 0 where one side is constant: it then says nothing of the other.

    Args:
        predicted_N: What a system answered.
        gold_N: The gold values, on the same scale.

    Raises:
        ValueError: There is no value, so nothing can be measured.
    """
    from scipy.stats import rankdata

    if not len(gold_N):
        raise ValueError("no value to measure on")
    predicted_N, gold_N = predicted_N.astype(np.float64), gold_N.astype(np.float64)
    away_N = predicted_N - gold_N
    return {
        "mse": float(np.square(away_N).mean()),
        "mae": float(np.abs(away_N).mean()),
        "pearson": compute_correlation(predicted_N, gold_N),
        "spearman": compute_correlation(rankdata(predicted_N), rankdata(gold_N)),
    }


def compute_correlation(one_N: NDArray[np.floating], other_N: NDArray[np.floating]) -> float:
    """Return Pearson's correlation; 0 where one side is constant."""
    one_N, other_N = one_N - one_N.mean(), other_N - other_N.mean()
    size = float(np.sqrt(np.square(one_N).sum() * np.square(other_N).sum()))
    # Rounding of the mean leaves a constant side with a little of itself.
    is_constant = min(np.ptp(one_N), np.ptp(other_N)) == 0.0
    return 0.0 if is_constant or size == 0.0 else float((one_N * other_N).sum() / size)


def fit_line(values_N: NDArray[np.floating], gold_N: NDArray[np.floating]) -> tuple[float, float] | None:
    """Return factor and offset of the line of least squares from values to gold; None where values are constant."""
    values_N, gold_N = values_N.astype(np.float64), gold_N.astype(np.float64)
    spread = float(np.square(values_N - values_N.mean()).sum())
    if np.ptp(values_N) == 0.0 or spread == 0.0:
        return None
    factor = float(((values_N - values_N.mean()) * (gold_N - gold_N.mean())).sum() / spread)
    return factor, float(gold_N.mean() - factor * values_N.mean())
