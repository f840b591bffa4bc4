"""One rule says which score is better: equal as shown is equal, then the lower NLL, then the earlier one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from raykd.report.comparisons.differences import compute_paired_difference
from raykd.report.sweeps.trials import Evaluation, SweepReport, TrialRow
from raykd.tasks.scores.ranking import build_rank_key, round_score

NOISY = (0.65, 0.6499999999999999)
"""The mean of three languages, summed in two orders."""


def trial(name: str, *scores: tuple[float, float], status: str = "finished") -> TrialRow:
    evaluations = tuple(Evaluation(k, 10 * k, score, nll) for k, (score, nll) in enumerate(scores, 1))
    return TrialRow(name, status, {"a": 1}, evaluations, 10 * len(scores), 1.0)  # type: ignore[arg-type]


def report(*trials: TrialRow, higher: bool = True) -> SweepReport:
    return SweepReport("t", "s", "accuracy", higher, trials, (), "", "", {}, {}, {}, (), "")


@pytest.mark.parametrize("values", list(itertools.permutations([0.1, 0.7, 0.55, 0.62])))
def test_a_mean_is_one_score_in_whatever_order_it_was_summed(values: tuple[float, ...]) -> None:
    assert round_score(sum(values) / 4) == round_score(math.fsum(sorted(values)) / 4) == 0.4925


@pytest.mark.parametrize(
    ("a", "b"),
    [NOISY, (0.57004, 0.57), (1 / 3, 0.333333), (2.30260001, 2.3026), (0.650050000000001, 0.65005)],
)
def test_scores_that_are_equal_as_shown_are_equal(a: float, b: float) -> None:
    assert a != b and round_score(a) == round_score(b)


@pytest.mark.parametrize(("a", "b"), [(0.5701, 0.57), (2.3027, 2.3026), (0.0012, 0.0013), (1.2e-6, 1.3e-6)])
def test_scores_that_are_shown_apart_are_apart(a: float, b: float) -> None:
    assert round_score(a) != round_score(b)


def test_comparing_keeps_the_order_and_does_nothing_twice() -> None:
    values = np.sort(np.concatenate([np.random.default_rng(0).random(2000), np.logspace(-9, 3, 500)]))
    seen = [round_score(float(v)) for v in values]
    assert seen == sorted(seen) and [round_score(v) for v in seen] == seen
    assert all(abs(s - v) <= max(5.1e-5, 0.0) for s, v in zip(seen, values, strict=True))


def test_ties_go_to_the_lower_nll_then_to_the_earlier_step() -> None:
    assert trial("t0", (0.65, 0.7), (NOISY[1], 0.6)).best_step == 20
    assert trial("t0", (NOISY[1], 0.7), (0.65, 0.7)).best_step == 10
    assert trial("t0", (NOISY[1], 0.7), (0.65, 0.7 + 1e-15)).best_step == 10
    assert trial("t0", (0.65, float("nan")), (NOISY[1], 0.7)).best_step == 20


def test_trials_that_score_alike_rank_by_nll_then_by_name() -> None:
    trials = (
        trial("t0", (0.65, 0.7)),
        trial("t1", (NOISY[1], 0.6)),
        trial("t2", (0.65, 0.6)),
        trial("t3", (0.66, 9.0)),
    )
    assert [t.name for t in report(*trials).rank_trials()] == ["t3", "t1", "t2", "t0"]


def test_the_lower_nll_is_better_where_lower_is_better() -> None:
    assert build_rank_key(0.43101, 0.43101, higher_is_better=False) < build_rank_key(
        0.43104, 0.43104, higher_is_better=False
    )
    assert report(trial("t0", (0.5, 0.5)), trial("t1", (0.4, 0.4)), higher=False).best.name == "t1"  # type: ignore[union-attr]


def test_arms_that_differ_by_the_order_of_a_sum_are_equal() -> None:
    found = compute_paired_difference(
        [(1, *NOISY), (2, *reversed(NOISY)), (3, 0.66, 0.65)], "a", "b", "test", "macro", "accuracy"
    )
    assert (found.wins, found.ties) == (1, 2)
