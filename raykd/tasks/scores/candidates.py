"""Score ranked candidates: nDCG and the reciprocal rank of the first relevant one.

Candidates with equal scores have no order, so each counts with the mean over all orders of them in nDCG (as
scikit-learn's `ndcg_score`, whose linear gain is used here too), and as half above in the reciprocal rank: a model that
gives one score to every candidate is scored as a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd.tasks.scores.classification import log_softmax

CUT = 10
"""Ranks that nDCG@10 and MRR@10 look at."""


@dataclass(frozen=True)
class QueryScores:
    """Scores of queries. Made by `score_queries`.

    Attributes:
        ndcg_Q: nDCG@10, in [0, 1].
        reciprocal_Q: 1 / rank of the first relevant candidate, in (0, 1].
        nll_Q: Cross-entropy of the relevances, as shares of their sum, and the softmax over candidates, nats.
    """

    ndcg_Q: NDArray[np.float64]
    reciprocal_Q: NDArray[np.float64]
    nll_Q: NDArray[np.float64]


def score_queries(scores_QC: NDArray[np.floating], relevances: Sequence[Sequence[float]]) -> QueryScores:
    """Score a system's ranking of the candidates of queries.

    Args:
        scores_QC: A score per candidate; what is beyond a query's own candidates is not read.
        relevances: >= 0 per candidate, for each query at least one above 0.
    """
    found = [
        _score_query(np.asarray(row_C[: len(own)], dtype=np.float64), np.asarray(own, dtype=np.float64))
        for row_C, own in zip(scores_QC, relevances, strict=True)
    ]
    return QueryScores(*np.asarray(found, dtype=np.float64).reshape(-1, 3).T)


def _score_query(scores_C: NDArray[np.float64], gains_C: NDArray[np.float64]) -> tuple[float, float, float]:
    discounts_C = np.where(np.arange(len(gains_C)) < CUT, 1.0 / np.log2(np.arange(len(gains_C)) + 2.0), 0.0)
    _, level_C, sizes = np.unique(-scores_C, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    # Of each group of equal scores: its mean gain, times the discounts of the ranks that it takes.
    mean_gains = np.bincount(level_C, gains_C) / sizes
    summed = np.concatenate([[0.0], np.cumsum(discounts_C)])
    dcg = float(mean_gains @ (summed[ends] - summed[ends - sizes]))
    ideal = float(np.sort(gains_C)[::-1] @ discounts_C)
    first = scores_C[gains_C > 0.0].max()
    others_C = scores_C[gains_C == 0.0]
    rank = 1.0 + float((others_C > first).sum()) + 0.5 * float((others_C == first).sum())
    nll = -float((gains_C / gains_C.sum()) @ log_softmax(scores_C[None])[0])
    return dcg / ideal, 1.0 / rank, nll
