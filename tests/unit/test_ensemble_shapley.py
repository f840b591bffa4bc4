"""Shapley values: games calculated by hand, the axioms, and drawn orders beside all of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from raykd.ensemble.shapley import Game, plan_game


def scores_of(game: Game, score: object) -> NDArray[np.float64]:
    """The score of every coalition of a game."""
    assert callable(score)
    return np.asarray([score(frozenset(np.flatnonzero(row).tolist())) for row in game.members_SM], float)


def test_the_glove_game_of_three() -> None:
    # Players 0 and 1 own a left glove, 2 a right one; a pair is worth 1. By hand over the six orders: 2 gets 4/6.
    game = plan_game(3)
    values = game.compute_values(scores_of(game, lambda c: float(2 in c and len(c) > 1)))
    assert values.tolist() == pytest.approx([1 / 6, 1 / 6, 4 / 6])


def test_an_uneven_game_of_three() -> None:
    # v(0)=10, v(1)=20, v(2)=0, v(01)=50, v(02)=10, v(12)=30, v(012)=60; gains by hand over the six orders:
    # 0: 10+10+30+30+10+30 = 120; 1: 40+50+20+20+50+30 = 210; 2: 10+0+10+10+0+0 = 30.
    worth = {(): 0, (0,): 10, (1,): 20, (2,): 0, (0, 1): 50, (0, 2): 10, (1, 2): 30, (0, 1, 2): 60}
    game = plan_game(3)
    values = game.compute_values(scores_of(game, lambda c: worth[tuple(sorted(c))]))
    assert values.tolist() == pytest.approx([120 / 6, 210 / 6, 30 / 6])


def made_game(c: frozenset[int]) -> float:
    """A game in which 0 and 1 are alike, 2 adds nothing, and others help more beside each other."""
    others = [m for m in c if m > 2]
    return (
        1.0 + 3.0 * ((0 in c) + (1 in c)) ** 2 + sum(others) + (0 in c) * len(others) + (1 in c) * len(others)
    )


@pytest.mark.parametrize(("players", "exact"), [(5, 8), (8, 8), (5, 3), (10, 8)])
def test_efficiency_symmetry_and_the_null_player(players: int, exact: int) -> None:
    game = plan_game(players, exact=exact, orders=400)
    scores = scores_of(game, made_game)
    values, error = game.compute_values(scores), game.compute_sampling_error(scores)
    assert game.exact == (players <= exact)
    assert values.sum() == pytest.approx(
        scores[-1] - scores[0]
    )  # also where orders are drawn: each one telescopes
    assert values[2] == pytest.approx(0.0, abs=1e-12)
    assert abs(values[0] - values[1]) <= 1e-12 + 4 * (error[0] + error[1])


def test_values_are_linear_in_the_scores() -> None:
    game, rng = plan_game(4), np.random.default_rng(0)
    one, other = rng.normal(size=16), rng.normal(size=16)
    both = game.compute_values(np.stack([one, other, 2 * one - other], axis=1))
    assert both[:, 2] == pytest.approx(2 * both[:, 0] - both[:, 1])


def test_drawn_orders_are_near_all_orders_as_their_error_says() -> None:
    rng = np.random.default_rng(1)
    exact = plan_game(7)
    worth = dict(
        zip(map(tuple, exact.members_SM.tolist()), rng.normal(size=len(exact.members_SM)), strict=True)
    )
    truth = exact.compute_values(np.asarray(list(worth.values())))
    ratios = []
    for seed in range(20):
        drawn = plan_game(7, exact=3, orders=40, seed=seed)
        scores = np.asarray([worth[tuple(row)] for row in drawn.members_SM.tolist()])
        ratios.append((drawn.compute_values(scores) - truth) / drawn.compute_sampling_error(scores))
    assert 0.7 < np.std(ratios) < 1.4


def test_coalitions_are_found_by_their_members() -> None:
    for game in (plan_game(4), plan_game(12)):
        assert not game.members_SM[0].any() and game.members_SM[-1].all()
        assert game.members_SM[game.find_without(1)].tolist() == [m != 1 for m in range(game.players)]
        assert game.find([2]) > 0
    with pytest.raises(ValueError, match="not scored"):
        plan_game(30).find(range(0, 30, 2))
    with pytest.raises(ValueError, match="a player"):
        plan_game(0)
