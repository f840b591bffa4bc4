"""The interval of a share and the labels that fit, against scipy, a textbook and hand numbers."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import binomtest

from raykd.tasks.scores.chance import compare_with_constant_label, compute_wilson_interval, find_swap


@pytest.mark.parametrize(
    ("hits", "units"), [(0, 1), (1, 1), (0, 20), (5, 100), (50, 100), (337, 600), (600, 600)]
)
def test_the_interval_is_that_of_scipy(hits: int, units: int) -> None:
    theirs = binomtest(hits, units).proportion_ci(0.95, method="wilson")
    assert compute_wilson_interval(hits, units) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_interval_is_that_of_a_textbook() -> None:
    """Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662, 15 of 148 is 0.0624 to 0.1605."""
    assert compute_wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert compute_wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    with pytest.raises(ValueError, match="needs a unit"):
        compute_wilson_interval(0, 0)


def answers(gold_N: np.ndarray, names: list[int], wrong: float, seed: int = 0) -> np.ndarray:
    """Answers that are right but for a share, then called by other names."""
    rng, classes = np.random.default_rng(seed), len(names)
    noisy_N = np.where(rng.random(len(gold_N)) < wrong, rng.integers(classes, size=len(gold_N)), gold_N)
    return np.asarray(names)[noisy_N]


def test_a_swapped_teacher_is_poor_and_its_labels_are_found() -> None:
    gold_N = np.asarray([0] * 52 + [1] * 48)
    predicted_N = 1 - gold_N
    predicted_N[:5] = gold_N[:5]
    found = compare_with_constant_label(predicted_N, gold_N, 2)
    assert (found.units, found.accuracy, found.label, found.share) == (100, 0.05, 0, 0.52)
    assert found.is_poor and found.swap is not None
    assert (found.swap.assignment, found.swap.accuracy) == ((1, 0), 0.95)


@pytest.mark.parametrize("classes", [3, 5])
def test_any_order_of_labels_is_found(classes: int) -> None:
    gold_N = np.random.default_rng(1).integers(classes, size=400)
    for names in list(permutations(range(classes)))[1:20]:
        found = compare_with_constant_label(answers(gold_N, list(names), 0.1), gold_N, classes)
        assert found.swap is not None and found.swap.accuracy > 0.85
        assert [found.swap.assignment[names[c]] for c in range(classes)] == list(range(classes))


def test_two_labels_of_three_swapped_are_found_though_the_teacher_is_not_below_the_most_frequent() -> None:
    gold_N = np.random.default_rng(2).integers(3, size=600)
    found = compare_with_constant_label(answers(gold_N, [0, 2, 1], 0.1), gold_N, 3)
    assert not found.is_poor and found.swap is not None and found.swap.assignment == (0, 2, 1)


def test_luck_is_no_swap() -> None:
    """Of random answers the best of 7! assignments is always better than chance."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        gold_N, predicted_N = rng.integers(7, size=140), rng.integers(7, size=140)
        assert compare_with_constant_label(predicted_N, gold_N, 7).swap is None


def test_one_answer_for_everything_is_poor_and_no_swap() -> None:
    gold_N = np.asarray([0] * 70 + [1] * 30)
    found = compare_with_constant_label(np.ones(100, np.int64), gold_N, 2)
    assert found.is_poor and found.swap is None


def test_a_good_teacher_an_even_one_and_few_rows_are_left_alone() -> None:
    gold_N = np.random.default_rng(3).integers(2, size=300)
    good = compare_with_constant_label(answers(gold_N, [0, 1], 0.2), gold_N, 2)
    assert not good.is_poor and good.swap is None
    even = compare_with_constant_label(np.random.default_rng(4).integers(2, size=300), gold_N, 2)
    assert not even.is_poor and even.swap is None
    assert (
        compare_with_constant_label(np.zeros(300, np.int64), gold_N, 2, label=0).is_no_better
        and not good.is_no_better
    )
    few = compare_with_constant_label(np.asarray([1, 0, 0]), np.asarray([0, 0, 1]), 2)
    assert not few.is_poor and few.swap is None


def test_a_label_that_was_never_answered_keeps_its_name() -> None:
    """Labels 2 and 3 do not occur at all: whatever the matching calls them, only 0 and 1 are swapped."""
    confusion_CC = np.zeros((4, 4), np.int64)
    confusion_CC[0, 1], confusion_CC[1, 0] = 60, 50
    found = find_swap(confusion_CC, 0.55)
    assert found is not None and found.assignment == (1, 0, 2, 3)


def test_repaired_answers_count_and_raw_ones_are_matched() -> None:
    gold_N = np.asarray([0, 1] * 50)
    found = compare_with_constant_label(np.zeros(100, np.int64), gold_N, 2, label=0, chosen_N=1 - gold_N)
    assert found.accuracy == 0.5 and found.share == 0.5 and found.swap is not None
