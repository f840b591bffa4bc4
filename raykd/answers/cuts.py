"""Compare a teacher with a student that cuts texts into other tokens: at the beginning of its tokens, and inside them.

Decision record:

- A teacher says with which of its tokens a text goes on. Each of them is cut as the student would cut it. Where both
  begin a token, the probability of all tokens with the same first piece goes to that piece. Inside a token of the
  teacher, where the student has already read some pieces, only the tokens that begin with these pieces are still
  possible: their probability, divided by its sum, goes to the next piece (marginalisation over tokens that agree with
  what was read, Phan et al., arXiv:2410.09303, there for bytes). So the student learns from it wherever it begins a
  token, not only where both begin and end one.
- The student may have tokens that the teacher would write as several (`backpack`, where the teacher has `back`). The
  teacher's probability for the first of them counts for both, so the two are compared as one: `CutMap.group_S` names
  the token that stands for all, one that both vocabularies have. Every token leads to a shorter one or to such a one,
  so the groups are disjoint.
- A token that ends where the student reads on, one that cannot be cut, and all tokens that the teacher did not send
  belong to the tail.
- Where one of the teacher's own tokens has no offset (a byte of a character, a word behind a blank of its own), the
  text's token may end where the student reads on, so inside the one before it the teacher is silent (`align_inside`).
- Inside a token only what was sent of the possible ones is known. What was not sent is estimated by spreading it evenly
  over the tokens that were not sent; where less than `LEAST_KNOWN` of the possible ones would be known, the teacher is
  silent; and also where its own token of the text is not among the possible ones that were sent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raykd.answers.answer import TopKAnswer
from raykd.distill.vocabulary_signals import IMPOSSIBLE

NONE = -1
"""No piece, no group, or a token that agrees with what was read and gives its probability to the tail."""
LEAST_KNOWN = 0.8
"""Share of the probability of the possible tokens that must have been sent."""


@dataclass(frozen=True)
class CutMap:
    """How a teacher's tokens are cut into the student's. Built once per teacher by `raykd.student.matching.cuts`.

    Attributes:
        pieces_VL: int32, the student's ids of each of the teacher's tokens, in order; `NONE` behind the last.
        group_S: int64, for each of the student's tokens the one that stands for its group; `NONE` for none.
    """

    pieces_VL: NDArray[np.int32]
    group_S: NDArray[np.int64]

    @cached_property
    def _sorted(self) -> tuple[list[tuple[int, ...]], NDArray[np.int64]]:
        """The pieces of all tokens in order, and the place of each token in it."""
        order = np.lexsort(self.pieces_VL.T[::-1])
        rank_V = np.empty(len(order), dtype=np.int64)
        rank_V[order] = np.arange(len(order))
        return [tuple(pieces) for pieces in self.pieces_VL[order].tolist()], rank_V

    @cached_property
    def others(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of each token that stands for a group: where its other members begin in the list, their number, the list."""
        others = np.flatnonzero((self.group_S >= 0) & (self.group_S != np.arange(len(self.group_S))))
        others = others[np.argsort(self.group_S[others], kind="stable")]
        count_S = np.bincount(self.group_S[others], minlength=len(self.group_S))
        return np.cumsum(count_S) - count_S, count_S, others

    def find_range(self, read: tuple[int, ...]) -> tuple[int, int]:
        """Return the range of places, in order of pieces, of the tokens that begin with these pieces."""
        pieces, _ = self._sorted
        return bisect_left(pieces, read), bisect_left(pieces, (*read[:-1], read[-1] + 1))

    def rank(self) -> NDArray[np.int64]:
        """Each token's place in order of pieces."""
        return self._sorted[1]


@dataclass(frozen=True)
class CutAnswer:
    """A top-k answer over the student's tokens.

    Attributes:
        answer: For N of the student's units.
        column_NK: int64, to which of W columns the probability of each of the teacher's tokens goes; `NONE` or
            `IMPOSSIBLE`.
        inside_N: Whether the unit is inside a token of the teacher, so that what is possible is made to sum to 1.
        ids_NJ: int64, ids of the student that are compared, each at most once per unit; `NONE` for none.
        group_NJ: int64, to which column each of them belongs.
        known_N: Whether enough of what is possible was sent.
        width: W.
    """

    answer: TopKAnswer
    column_NK: NDArray[np.int64]
    inside_N: NDArray[np.bool_]
    ids_NJ: NDArray[np.int64]
    group_NJ: NDArray[np.int64]
    known_N: NDArray[np.bool_]
    width: int


def cut_answer(
    answer: TopKAnswer, cuts: CutMap, depth_N: NDArray[np.int64], labels_N: NDArray[np.int64]
) -> CutAnswer:
    """Say an answer of the teacher over the student's tokens.

    Args:
        answer: Of the teacher's unit at or around each of the student's N units (`Answer.take`).
        cuts: How its tokens are cut.
        depth_N: How many of the student's tokens lie between the beginning of the teacher's and the unit.
        labels_N: The token that the text has at each unit, the student's.
    """
    depth_N = np.maximum(depth_N, 0)
    sent_NK = (answer.ids_NK >= 0) & (answer.ids_NK < len(cuts.pieces_VL))
    ids_NK = np.where(sent_NK, answer.ids_NK, 0)
    low_N, high_N = _find_possible(cuts, depth_N, labels_N)
    place_NK = cuts.rank()[ids_NK]
    possible_NK = sent_NK & (place_NK >= low_N[:, None]) & (place_NK < high_N[:, None])
    at_N = np.minimum(depth_N, cuts.pieces_VL.shape[1] - 1)
    piece_NK = cuts.pieces_VL[ids_NK, at_N[:, None]].astype(np.int64)
    group_NK = np.where(piece_NK >= 0, cuts.group_S[np.maximum(piece_NK, 0)], NONE)
    group_NK = np.where(possible_NK, group_NK, IMPOSSIBLE)
    names_NW, column_NK = _number_groups(group_NK)
    ids_NJ, group_NJ = _list_members(cuts, names_NW)
    inside_N = depth_N > 0
    p_NK = _compute_probabilities(answer, sent_NK)
    known_N = ~inside_N | _is_known(answer, p_NK, possible_NK, sent_NK, high_N - low_N, len(cuts.pieces_VL))
    wanted_N = np.where(labels_N >= 0, cuts.group_S[np.maximum(labels_N, 0)], NONE)
    answer = _tell_gold(
        answer, p_NK, possible_NK, (group_NK == wanted_N[:, None]) & (group_NK >= 0), inside_N
    )
    return CutAnswer(answer, column_NK, inside_N, ids_NJ, group_NJ, known_N, names_NW.shape[1])


def _find_possible(
    cuts: CutMap, depth_N: NDArray[np.int64], labels_N: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the range of places of the tokens that begin with what the student has read of the teacher's token."""
    low_N, high_N = np.zeros_like(depth_N), np.full_like(depth_N, len(cuts.pieces_VL))
    longest = cuts.pieces_VL.shape[1]
    for n in np.flatnonzero(depth_N).tolist():
        read = tuple(labels_N[n - depth_N[n] : n].tolist())
        low_N[n], high_N[n] = cuts.find_range(read) if len(read) < longest and min(read) >= 0 else (0, 0)
    return low_N, high_N


def _number_groups(group_NK: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the W groups of each unit, `NONE` behind the last, and the column of each entry."""
    order_NK = np.argsort(group_NK, axis=1, kind="stable")
    sorted_NK = np.take_along_axis(group_NK, order_NK, axis=1)
    new_NK = sorted_NK >= 0
    new_NK[:, 1:] &= sorted_NK[:, 1:] != sorted_NK[:, :-1]
    number_NK = np.cumsum(new_NK, axis=1) - 1
    names_NW = np.full((len(group_NK), max(1, int(number_NK.max(initial=0)) + 1)), NONE, dtype=np.int64)
    rows, places = np.nonzero(new_NK)
    names_NW[rows, number_NK[rows, places]] = sorted_NK[rows, places]
    column_NK = np.empty_like(group_NK)
    np.put_along_axis(column_NK, order_NK, np.where(sorted_NK >= 0, number_NK, sorted_NK), axis=1)
    return names_NW, column_NK


def _list_members(cuts: CutMap, names_NW: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids of all members of each unit's groups ``[N, J]``, the names first, and the column of each."""
    first_S, count_S, others = cuts.others
    count_NW = np.where(names_NW >= 0, count_S[names_NW], 0)
    rows, columns = np.nonzero(count_NW)
    counts, total_N = count_NW[rows, columns], count_NW.sum(axis=1)
    shape = (len(names_NW), int(total_N.max(initial=0)))
    ids_NE, group_NE = np.full(shape, NONE, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    row_of = np.repeat(rows, counts)
    within = np.arange(len(row_of)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.arange(len(row_of)) - (np.cumsum(total_N) - total_N)[row_of]
    ids_NE[row_of, place] = others[np.repeat(first_S[names_NW[rows, columns]], counts) + within]
    group_NE[row_of, place] = np.repeat(columns, counts)
    own_NW = np.broadcast_to(np.arange(names_NW.shape[1]), names_NW.shape)
    return np.concatenate([names_NW, ids_NE], axis=1), np.concatenate([own_NW, group_NE], axis=1)


def _compute_probabilities(answer: TopKAnswer, sent_NK: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the probabilities of what was sent, at T = 1 if the answer holds it."""
    at = _find_one(answer)
    z_NK = answer.logits_NK.astype(np.float32) / np.float32(answer.temperatures[at])
    return np.where(sent_NK, np.exp(z_NK - answer.lse_NG[:, at : at + 1]), np.float32(0.0))


def _find_one(answer: TopKAnswer) -> int:
    """Return the place of T = 1 among the temperatures, or of the first one."""
    return answer.temperatures.index(1.0) if 1.0 in answer.temperatures else 0


def _is_known(
    answer: TopKAnswer,
    p_NK: NDArray[np.float32],
    possible_NK: NDArray[np.bool_],
    sent_NK: NDArray[np.bool_],
    range_N: NDArray[np.int64],
    vocabulary: int,
) -> NDArray[np.bool_]:
    """Return whether at least `LEAST_KNOWN` of the possible tokens' probability was sent, as estimated.

    The teacher's own token of the text is one of the possible ones, unless a part of a text is not cut as the text is
    (accents and capitals that one of the tokenizers drops). So less than its probability says that this happened.
    """
    known_N = np.where(possible_NK, p_NK, 0.0).sum(axis=1)
    others_N = np.maximum(range_N - possible_NK.sum(axis=1), 0)
    not_sent_N = np.maximum(vocabulary - sent_NK.sum(axis=1), 1)
    missing_N = np.maximum(1.0 - p_NK.sum(axis=1), 0.0) * others_N / not_sent_N
    known: NDArray[np.bool_] = (known_N > 0.0) & (known_N >= LEAST_KNOWN * (known_N + missing_N))
    if answer.gold_logp_N is not None and answer.temperatures[_find_one(answer)] == 1.0:
        known &= known_N >= 0.98 * np.exp(answer.gold_logp_N)  # logits travel as float16
    return known


def _tell_gold(
    answer: TopKAnswer,
    p_NK: NDArray[np.float32],
    possible_NK: NDArray[np.bool_],
    gold_NK: NDArray[np.bool_],
    inside_N: NDArray[np.bool_],
) -> TopKAnswer:
    """Return the answer with the log-probability of the student's gold token in the place of the teacher's own.

    Teachers are weighed by it, so it must be about one token. Where that was not sent, the teacher's own stays.
    """
    if answer.gold_logp_N is None or answer.temperatures[_find_one(answer)] != 1.0:
        return answer
    gold_N = np.where(gold_NK & possible_NK, p_NK, 0.0).sum(axis=1)
    possible_N = np.where(inside_N, np.where(possible_NK, p_NK, 0.0).sum(axis=1), 1.0)
    told_N = np.log(np.maximum(gold_N, 1e-30) / np.maximum(possible_N, 1e-30))
    gold_logp_N = np.where(gold_N > 0.0, np.minimum(told_N, 0.0), answer.gold_logp_N)
    return replace(answer, gold_logp_N=gold_logp_N.astype(np.float32))


def build_cut_map(pieces: Sequence[Sequence[int]], group_S: NDArray[np.int64], longest: int = 24) -> CutMap:
    """Build the map from the pieces of each of the teacher's tokens.

    Args:
        pieces: Ids of the student; none for a token that cannot be cut.
        group_S: See `CutMap`.
        longest: Pieces that are kept of one token; a longer one is one of the possible tokens up to there.
    """
    width = min(longest, max(map(len, pieces), default=0)) + 1
    pieces_VL = np.full((len(pieces), width), NONE, dtype=np.int32)
    for i, ids in enumerate(pieces):
        kept = ids[: width - 1]
        pieces_VL[i, : len(kept)] = kept
    return CutMap(pieces_VL, group_S)
