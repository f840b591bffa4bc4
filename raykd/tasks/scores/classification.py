"""Compute the metrics of classification in numpy; tests compare them with scikit-learn.

All are taken at temperature 1 on raw logits, over labelled units only, so that they do not depend on alpha,
temperature or lambda and can be compared between trials.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import MASKED, UNLABELLED

ECE_BINS = 15
"""Bins of calibration, as in Guo et al."""


def log_softmax(logits_NC: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the row-wise log-softmax in float64."""
    shifted: NDArray[np.float64] = logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True)
    log_total: NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted - log_total


def is_known(logits: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which logits, or log-probabilities, are of labels that their system knows."""
    known: NDArray[np.bool_] = np.asarray(logits) > MASKED / 2
    return known


def compute_macro_f1(predicted_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> float:
    """Return the mean F1 over the classes that occur among labels or predictions."""
    scores = []
    for c in np.union1d(predicted_N, labels_N):
        hits = float(np.sum((predicted_N == c) & (labels_N == c)))
        scores.append(2 * hits / float(np.sum(predicted_N == c) + np.sum(labels_N == c)))
    return float(np.mean(scores))


def compute_calibration_bins(
    confidence_N: NDArray[np.float64], correct_N: NDArray[np.bool_]
) -> list[tuple[int, float, float]]:
    """Return ``(count, mean confidence, accuracy)`` of each equal-width bin of (0, 1]; empty bins hold zeros."""
    index_N = np.clip(np.ceil(confidence_N * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    rows = []
    for b in range(ECE_BINS):
        inside = index_N == b
        count = int(inside.sum())
        sums = confidence_N[inside].sum(), correct_N[inside].sum()
        rows.append((count, float(sums[0]) / max(1, count), float(sums[1]) / max(1, count)))
    return rows


def compute_calibration_error(confidence_N: NDArray[np.float64], correct_N: NDArray[np.bool_]) -> float:
    """Return the expected calibration error with 15 equal-width bins (Guo et al., arXiv:1706.04599)."""
    rows = compute_calibration_bins(confidence_N, correct_N)
    return float(sum(n * abs(conf - acc) for n, conf, acc in rows) / max(1, len(confidence_N)))


def compute_classification_metrics(
    logits_NC: NDArray[np.float32], labels_N: NDArray[np.int64]
) -> dict[str, float]:
    """Return accuracy, macro-F1, NLL (nats) and ECE over the labelled units.

    A system that does not know the gold label of a unit (`MASKED`) is wrong there; the unit is left out of its NLL.

    Raises:
        ValueError: No unit is labelled, so nothing can be measured.
    """
    labelled = labels_N != UNLABELLED
    if not labelled.any():
        raise ValueError("no labelled unit to measure on")
    logits_NC, labels_N = logits_NC[labelled], labels_N[labelled]
    logp_NC = log_softmax(logits_NC)
    predicted_N = logp_NC.argmax(axis=1)
    correct_N = predicted_N == labels_N
    confidence_N = np.exp(logp_NC.max(axis=1))
    gold_N = np.arange(len(labels_N)), labels_N
    known_N = is_known(logits_NC[gold_N])
    return {
        "accuracy": float(correct_N.mean()),
        "macro_f1": compute_macro_f1(predicted_N, labels_N),
        "nll": float(-logp_NC[gold_N][known_N].mean()) if known_N.any() else float("nan"),
        "ece": compute_calibration_error(confidence_N, correct_N),
    }
