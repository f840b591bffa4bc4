"""Shapley values: how much each player adds to a score, on average over all orders in which players may join.

Decision record: a value is linear in the scores of the coalitions, so a game is planned first (which coalitions are
needed, and the matrix from their scores to the values) and scored afterwards, also for many bootstrap samples at once.
Up to `EXACT` players all coalitions are scored. Beyond that orders are drawn, each together with its reverse, which
lowers the variance; the spread over these pairs says how exact the values are.
(Shapley 1953; sampling: Castro, Gomez and Tejada 2009; reversed orders: Mitchell et al., arXiv 2104.12199.)

Shape legend beyond `raykd.distill.signals`: ``S`` coalitions, ``R`` bootstrap samples, ``P`` orders.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXACT = 8
"""Most players whose coalitions are all scored: 256."""
ORDERS = 64
"""Orders that are drawn for more players; an even number."""


@dataclass(frozen=True)
class Game:
    """The coalitions of M players whose scores are needed, and how Shapley values follow from them.

    Attributes:
        members_SM: Who is in each coalition. The empty coalition comes first, that of all players last.
        before_PM: For each order and player, the coalition that the player joins; None where all are scored.
        after_PM: The same coalition with the player.
    """

    members_SM: NDArray[np.bool_]
    before_PM: NDArray[np.int64] | None = None
    after_PM: NDArray[np.int64] | None = None

    @property
    def players(self) -> int:
        """M."""
        return int(self.members_SM.shape[1])

    @property
    def exact(self) -> bool:
        """Whether all coalitions are scored."""
        return self.before_PM is None

    def find(self, members: Sequence[int]) -> int:
        """Return the position of the coalition of these players.

        Raises:
            ValueError: Its score is not needed.
        """
        wanted_M = np.zeros(self.players, dtype=bool)
        wanted_M[list(members)] = True
        found = np.flatnonzero((self.members_SM == wanted_M).all(axis=1))
        if not len(found):
            raise ValueError(f"the coalition of players {list(members)} is not scored")
        return int(found[0])

    def find_without(self, player: int) -> int:
        """Return the position of the coalition of all other players."""
        return self.find([m for m in range(self.players) if m != player])

    def compute_values(self, scores_SR: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the Shapley values ``[M, ...]`` of scores ``[S, ...]``."""
        values: NDArray[np.float64] = np.tensordot(self._coefficients(), scores_SR, axes=1)
        return values

    def compute_sampling_error(self, scores_S: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the standard error ``[M]`` that comes from drawing orders; 0 where all coalitions are scored."""
        if self.before_PM is None or self.after_PM is None:
            return np.zeros(self.players)
        gains_PM = scores_S[self.after_PM] - scores_S[self.before_PM]
        pairs_PM = (gains_PM[0::2] + gains_PM[1::2]) / 2
        error_M: NDArray[np.float64] = pairs_PM.std(axis=0, ddof=1) / math.sqrt(len(pairs_PM))
        return error_M

    def _coefficients(self) -> NDArray[np.float64]:
        """Return ``[M, S]``: the weight of each coalition's score in each player's value."""
        count = self.players
        coefficients_MS = np.zeros((count, len(self.members_SM)))
        if self.before_PM is None or self.after_PM is None:
            size_S = self.members_SM.sum(axis=1)
            # In how large a share of all orders these players come first, and m next (or m last among them).
            joined_S = np.asarray([_share(count, size - 1) if size else 0.0 for size in size_S])
            without_S = np.asarray([_share(count, size) if size < count else 0.0 for size in size_S])
            return np.where(self.members_SM.T, joined_S, -without_S)
        for m in range(count):
            np.add.at(coefficients_MS[m], self.after_PM[:, m], 1.0)
            np.add.at(coefficients_MS[m], self.before_PM[:, m], -1.0)
        return coefficients_MS / len(self.before_PM)


def _share(players: int, size: int) -> float:
    """Return the weight of one coalition of this size that a player joins: size! (M - size - 1)! / M!."""
    return 1.0 / (players * math.comb(players - 1, size))


def plan_game(players: int, *, exact: int = EXACT, orders: int = ORDERS, seed: int = 0) -> Game:
    """Choose the coalitions to score; those of one player, and of all but one, are always among them.

    Args:
        players: M, at least 1.
        exact: Most players whose coalitions are all scored.
        orders: Orders to draw for more players; made even.
        seed: Of the draw.

    Raises:
        ValueError: There is no player.
    """
    if players < 1:
        raise ValueError("a game needs a player")
    if players <= exact:
        every = [c for size in range(players + 1) for c in itertools.combinations(range(players), size)]
        return Game(_to_members(every, players))
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(players).tolist() for _ in range(-(-orders // 2))]
    both = [order for first in drawn for order in (first, first[::-1])]
    ahead = [[frozenset(order[: order.index(m)]) for m in range(players)] for order in both]
    singles = [frozenset([m]) for m in range(players)]
    needed = {c for row in ahead for m, before in enumerate(row) for c in (before, before | {m})}
    needed |= {*singles, *(frozenset(range(players)) - one for one in singles)}
    listed = sorted(needed, key=lambda c: (len(c), sorted(c)))
    place = {coalition: at for at, coalition in enumerate(listed)}
    return Game(
        _to_members([sorted(c) for c in listed], players),
        np.asarray([[place[c] for c in row] for row in ahead]),
        np.asarray([[place[c | {m}] for m, c in enumerate(row)] for row in ahead]),
    )


def _to_members(coalitions: Sequence[Sequence[int]], players: int) -> NDArray[np.bool_]:
    members_SM = np.zeros((len(coalitions), players), dtype=bool)
    for at, coalition in enumerate(coalitions):
        members_SM[at, list(coalition)] = True
    return members_SM
