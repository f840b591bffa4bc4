"""benchmarks.arms against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.arms import compare_sides, read_side, share_gain

NAME = "test/macro/accuracy"


def arm(name: str, scores: dict[int, float]) -> dict[str, Any]:
    return {"name": name, "students": {str(s): {"scores": {NAME: value}} for s, value in scores.items()}}


COMPARISON = {
    "seeds": [1, 2, 3],
    "references": [{"name": "teacher zh", "scores": {NAME: 0.9}}],
    "arms": [arm("three", {1: 0.9, 2: 0.8}), arm("a", {1: 0.8, 2: 0.8}), arm("b", {1: 0.6, 2: 0.7, 3: 0.1})],
}


def side(text: str) -> dict[int, float]:
    found = read_side(COMPARISON, text, NAME)
    assert found is not None
    return found


def test_a_side_of_several_arms_is_their_mean_over_the_seeds_that_all_have() -> None:
    assert read_side(COMPARISON, "b", NAME) == {1: 0.6, 2: 0.7, 3: 0.1}
    assert read_side(COMPARISON, "a,b", NAME) == pytest.approx({1: 0.7, 2: 0.75})


def test_a_difference_is_taken_seed_by_seed() -> None:
    cells, p = compare_sides(side("three"), side("a,b"), "accuracy")
    # Differences of 20 and 5 points: mean 12.5, standard error 7.5, t 1.667 with one degree of freedom; 12.706 is the
    # 97.5 % quantile, and p = 1 - 2 atan(1.667) / pi.
    assert cells == ["85.00", "72.50", "+12.50", "-82.80 to +107.80", "2 of 2"]
    assert p == pytest.approx(0.3440, abs=1e-4)


def test_less_is_better_where_the_metric_says_so() -> None:
    cells, _ = compare_sides({1: 5.512, 2: 5.531}, {1: 5.532, 2: 5.53}, "nll")
    # Differences of -0.020 and 0.001: mean -0.0095, standard error 0.0105.
    assert cells == ["5.521", "5.531", "-0.010", "-0.143 to +0.124", "1 of 2"]


def test_an_unknown_arm_is_named_with_those_that_there_are() -> None:
    with pytest.raises(SystemExit, match="no arm c; there are three, a, b, teacher zh"):
        read_side(COMPARISON, "a,c", NAME)


def test_a_teacher_and_a_number_have_the_same_score_with_every_seed() -> None:
    assert side("teacher zh") == {1: 0.9, 2: 0.9, 3: 0.9}
    assert read_side(COMPARISON, "15.0", NAME, 100.0) == {1: 0.15, 2: 0.15, 3: 0.15}
    assert read_side(COMPARISON, "teacher zh", "test/en/accuracy") is None, "it does not know the language"
    assert read_side(COMPARISON, "15.0", "test/en/accuracy") is None, (
        "the number is of the mean over languages"
    )


@pytest.mark.parametrize(
    ("first", "mean", "ends"),
    [
        ([19.9, 29.4], 0.98, "0.85 to 1.11"),
        ([20.0, 30.0], 1.0, "1.00 to 1.00"),
        ([18.0, 26.0], 0.8, "0.80 to 0.80"),
    ],
)
def test_a_share_of_a_gain_is_taken_seed_by_seed(first: list[float], mean: float, ends: str) -> None:
    # Gains of 10 and 20 points; 0.99 and 0.97 of them have a standard error of 0.01, and 12.706 is the quantile.
    scores = [dict(enumerate(values)) for values in (first, [20.0, 30.0], [10.0, 10.0])]
    assert share_gain(*scores) == [f"{mean:.2f}", ends, "2"]
