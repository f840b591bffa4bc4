"""Score relations: F1 without the label that says that there is none.

Decision record: micro F1 is TACRED's: hits among all predicted and all gold relations, the negative label left out of
both. Macro F1 is the official score of SemEval-2010 task 8, (9+1) ways with directions: both directions of a relation
are one class, and a hit needs the right direction. Where labels have no direction it is the mean F1 of the labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raykd.tasks.markers import split_direction


def compute_relation_f1(
    predicted_N: NDArray[np.integer],
    labels_N: NDArray[np.integer],
    labels: Sequence[str],
    negative_label: str | None,
) -> dict[str, float]:
    """Return ``micro_f1`` and ``macro_f1``; 0 where no relation is in gold or among the predictions.

    Args:
        predicted_N: Indices into `labels`.
        labels_N: The same of gold.
        labels: The run's labels.
        negative_label: The label that is no relation; None where there is none.
    """
    relations: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        if label != negative_label:
            relations.setdefault(split_direction(label)[0], []).append(i)
    hits, found, scores = 0, 0, []
    for members in relations.values():
        gold_N, own_N = np.isin(labels_N, members), np.isin(predicted_N, members)
        right, both = int((gold_N & (predicted_N == labels_N)).sum()), int(gold_N.sum() + own_N.sum())
        hits, found = hits + right, found + both
        if both:
            scores.append(2 * right / both)
    return {"micro_f1": 2 * hits / max(1, found), "macro_f1": float(np.mean(scores)) if scores else 0.0}
