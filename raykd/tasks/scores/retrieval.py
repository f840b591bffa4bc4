"""Score vectors: how high a text's pair ranks among other texts, and how cosines follow scores.

Ranks count what is strictly nearer, and half of what is equally near, so that a model that gives one vector to every
text is scored as a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Ranks:
    """Where the wanted text of each query stands. Made by `rank_pairs`.

    Attributes:
        reciprocal_Q: 1 / rank, in (0, 1].
        nll_Q: Negative log-probability of the wanted text in the softmax over all, nats.
    """

    reciprocal_Q: NDArray[np.float64]
    nll_Q: NDArray[np.float64]


def rank_pairs(
    query_QD: NDArray[np.float32], text_PD: NDArray[np.float32], wanted_Q: NDArray[np.int64], scale: float
) -> Ranks:
    """Rank texts by their cosine with each query.

    Args:
        query_QD: Vectors of the queries.
        text_PD: Vectors of the texts among which is searched.
        wanted_Q: For each query, the text that is to be found.
        scale: Factor of the cosines in the softmax.
    """
    queries, texts = _normalize(query_QD), _normalize(text_PD)
    reciprocal, nll = np.empty(len(queries)), np.empty(len(queries))
    step = max(1, _PAIRS_AT_ONCE // max(1, len(texts)))
    for begin in range(0, len(queries), step):
        some = slice(begin, begin + step)
        cosine_QP = queries[some] @ texts.T
        own_Q1 = np.take_along_axis(cosine_QP, wanted_Q[some, None], axis=1)
        level_QP = np.isclose(cosine_QP, own_Q1, rtol=0.0, atol=1e-7)
        above_Q = ((cosine_QP > own_Q1) & ~level_QP).sum(axis=1)
        reciprocal[some] = 1.0 / (1.0 + above_Q + 0.5 * (level_QP.sum(axis=1) - 1))
        top_Q1 = cosine_QP.max(axis=1, keepdims=True)
        mass_Q = np.exp(scale * (cosine_QP - top_Q1)).sum(axis=1)
        nll[some] = np.log(mass_Q) - scale * (own_Q1 - top_Q1)[:, 0]
    return Ranks(reciprocal, nll)


def compute_cosines(one_BD: NDArray[np.float32], other_BD: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ``[B]``: the cosine of each two vectors."""
    cosine_B: NDArray[np.float64] = (_normalize(one_BD) * _normalize(other_BD)).sum(axis=1)
    return cosine_B


def compute_spearman(one_B: NDArray[np.float64], other_B: NDArray[np.float64]) -> float:
    """Return the rank correlation of two columns; NaN where one of them is constant."""
    from scipy.stats import rankdata

    if len(one_B) < 2 or np.ptp(one_B) == 0.0 or np.ptp(other_B) == 0.0:
        return float("nan")
    return float(np.corrcoef(rankdata(one_B), rankdata(other_B))[0, 1])


def _normalize(vectors_BD: NDArray[np.float32]) -> NDArray[np.float64]:
    wide_BD = vectors_BD.astype(np.float64)
    length_B1 = np.linalg.norm(wide_BD, axis=1, keepdims=True)
    unit_BD: NDArray[np.float64] = wide_BD / np.maximum(length_B1, 1e-12)
    return unit_BD
