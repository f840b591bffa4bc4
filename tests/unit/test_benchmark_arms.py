"""benchmarks.arms against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.arms import compare_sides, read_side

NAME = "test/macro/accuracy"


def arm(name: str, scores: dict[int, float]) -> dict[str, Any]:
    return {"name": name, "students": {str(s): {"scores": {NAME: value}} for s, value in scores.items()}}


COMPARISON = {
    "arms": [arm("three", {1: 0.9, 2: 0.8}), arm("a", {1: 0.8, 2: 0.8}), arm("b", {1: 0.6, 2: 0.7, 3: 0.1})]
}


def test_a_side_of_several_arms_is_their_mean_over_the_seeds_that_all_have() -> None:
    assert read_side(COMPARISON, "b", NAME) == {1: 0.6, 2: 0.7, 3: 0.1}
    assert read_side(COMPARISON, "a,b", NAME) == pytest.approx({1: 0.7, 2: 0.75})


def test_a_difference_is_taken_seed_by_seed() -> None:
    cells, p = compare_sides(read_side(COMPARISON, "three", NAME), read_side(COMPARISON, "a,b", NAME), 100.0)
    # Differences of 20 and 5 points: mean 12.5, standard error 7.5, t 1.667 with one degree of freedom; 12.706 is the
    # 97.5 % quantile, and p = 1 - 2 atan(1.667) / pi.
    assert cells == ["85.00", "72.50", "+12.50", "-82.80 to +107.80", "2 of 2"]
    assert p == pytest.approx(0.3440, abs=1e-4)


def test_an_unknown_arm_is_named_with_those_that_there_are() -> None:
    with pytest.raises(SystemExit, match="no arm c; there are three, a, b"):
        read_side(COMPARISON, "a,c", NAME)
