"""Score answers of several labels per text in numpy; tests compare them with scikit-learn.

Decision record: a threshold per label is a choice after the training. It is made on validation rows by the label's F1,
which a threshold of 0.5 fits badly where positives are rare. A label with few positives keeps 0.5, because the best of
many thresholds on three rows is luck. Thresholds stand in the middle between two answers, so that rounding of a saved
model turns no decision.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED

HALF = 0.5
"""The threshold of a label that has none of its own."""
FEWEST = 10
"""Positive validation rows that a label needs for a threshold of its own."""


def count_label_hits(
    chosen_BL: NDArray[np.bool_], gold_BL: NDArray[np.int64], axis: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return twice the hits, and chosen plus gold labels, whose ratio is F1; over rows (0) or over labels (1).

    Args:
        chosen_BL: Whether each label is given to each row.
        gold_BL: 1, 0, or `UNLABELLED`, which does not count.
        axis: What is summed over.
    """
    known_BL = gold_BL != UNLABELLED
    chosen_BL, true_BL = chosen_BL & known_BL, gold_BL == 1
    hits = 2.0 * (chosen_BL & true_BL).sum(axis=axis)
    return hits, (chosen_BL.sum(axis=axis) + true_BL.sum(axis=axis)).astype(np.float64)


def compute_set_metrics(chosen_BL: NDArray[np.bool_], gold_BL: NDArray[np.int64]) -> dict[str, float]:
    """Return micro-F1, macro-F1 over the labels that occur in gold or answers, and the share of rows without an error.

    F1 is 0 where no label occurs at all.
    """
    hits_L, all_L = count_label_hits(chosen_BL, gold_BL, axis=0)
    there_L = all_L > 0
    right_BL = (chosen_BL == (gold_BL == 1)) | (gold_BL == UNLABELLED)
    return {
        "micro_f1": float(hits_L.sum() / max(1.0, all_L.sum())),
        "macro_f1": float((hits_L[there_L] / all_L[there_L]).mean()) if there_L.any() else 0.0,
        "exact_match": float(right_BL.all(axis=1).mean()),
    }


def tune_thresholds(p_BL: NDArray[np.float64], gold_BL: NDArray[np.int64]) -> tuple[float, ...]:
    """Return for each label the threshold with the best F1; 0.5 for a label with too few positive rows.

    Of equal ones the nearest to 0.5 is taken.

    Args:
        p_BL: Probability of each label.
        gold_BL: 1, 0, or `UNLABELLED`.
    """
    return tuple(
        _tune_threshold(p_BL[known_B, label], gold_BL[known_B, label] == 1)
        for label, known_B in enumerate((gold_BL != UNLABELLED).T)
    )


def _tune_threshold(p_X: NDArray[np.float64], true_X: NDArray[np.bool_]) -> float:
    if true_X.sum() < FEWEST or true_X.all():
        return HALF
    order = np.argsort(-p_X, kind="stable")
    sorted_X, hits_X = p_X[order], np.cumsum(true_X[order])
    f1_X = 2.0 * hits_X / (np.arange(1, len(p_X) + 1) + true_X.sum())
    below_X = np.append(sorted_X[1:], 0.0)
    cut_X = (sorted_X + below_X) / 2.0
    possible_X = sorted_X > below_X  # a threshold cannot part equal answers
    best_X = possible_X & (f1_X >= f1_X[possible_X].max() - 1e-12)
    nearest = cut_X[best_X][np.abs(cut_X[best_X] - HALF).argmin()]
    return round(float(nearest), 6)


def apply_thresholds(p_BL: NDArray[np.float64], thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Return which labels each row gets; without thresholds those of probability 0.5 and more."""
    limits_L = np.asarray(thresholds) if len(thresholds) else HALF
    chosen_BL: NDArray[np.bool_] = p_BL >= limits_L
    return chosen_BL
