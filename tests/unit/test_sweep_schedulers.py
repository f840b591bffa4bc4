"""Schedulers: when trials are compared, and what a population may change. Building one needs no cluster."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.spaces.schedulers import MUTABLE, Asha, Fifo, HyperBand, MedianStopping, Pb2, Pbt
from raykd.spaces.space import Space

SPACE = Space(
    {
        "objective": {"alpha": {"uniform": [0.1, 0.9]}, "temperature": {"choice": [1.0, 2.0, 4.0]}},
        "train": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}},
    }
)


class Trial:
    """What Tune's schedulers look at of a trial."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id, self.status = trial_id, "RUNNING"


@pytest.mark.parametrize(
    ("scheduler", "evaluations", "rungs"),
    [
        (Asha(), 8, (2, 6)),
        (Asha(), 10, (3, 9)),
        (Asha(), 27, (7, 21)),
        (Asha(grace=1), 27, (1, 3, 9)),
        (Asha(grace=1, reduction_factor=1.5), 4, (1, 2, 3)),
        (Asha(), 1, ()),
        (Fifo(), 8, ()),
    ],
)
def test_rungs_are_the_evaluations_at_which_tune_compares(
    scheduler: Any, evaluations: int, rungs: tuple[int, ...]
) -> None:
    assert scheduler.rungs(evaluations) == rungs
    if isinstance(scheduler, Asha):
        built = scheduler.build(SPACE, evaluations, "max")
        milestones = sorted(milestone for milestone, _ in built._brackets[0]._rungs)  # type: ignore[attr-defined]
        reached = sorted({-int(-m // 1) for m in milestones})
        assert tuple(m for m in reached if m < evaluations) == rungs


def test_asha_stops_at_its_first_rung_and_not_before() -> None:
    built = Asha().build(SPACE, 8, "max")
    assert (built._max_t, built._time_attr, built._metric) == (8, "evaluation", "objective")  # type: ignore[attr-defined]
    good, bad = (Trial(name) for name in "gb")
    for trial in (good, bad):
        built.on_trial_add(None, trial)  # type: ignore[arg-type]

    def result(trial: Any, evaluation: int, score: float) -> str:
        return str(built.on_trial_result(None, trial, {"evaluation": evaluation, "objective": score}))  # type: ignore[arg-type]

    assert [result(good, 1, 0.9), result(good, 2, 0.9)] == ["CONTINUE", "CONTINUE"]
    assert [result(bad, 1, 0.1), result(bad, 2, 0.1)] == ["CONTINUE", "STOP"]


def test_median_waits_a_quarter_too() -> None:
    assert MedianStopping().build(SPACE, 8, "min")._grace_period == 2  # type: ignore[attr-defined]
    assert MedianStopping(grace=5).build(SPACE, 8, "min")._grace_period == 5  # type: ignore[attr-defined]


def test_a_population_mutates_every_domain_and_stays_inside() -> None:
    from ray.tune.schedulers.pbt import _explore

    built: Any = Pbt().build(SPACE, 10, "max")
    assert built._perturbation_interval == 2
    assert set(built._hyperparam_mutations) == {one.path for one in SPACE.domains}
    config = {
        "objective.alpha": 0.9,
        "objective.temperature": 4.0,
        "train.learning_rate": 1e-2,
        "other": "kept",
    }
    random.seed(0)
    changed = [
        _explore(config, built._hyperparam_mutations, 0.25, (1.2, 0.8), built._custom_explore_fn)[0]
        for _ in range(60)
    ]
    assert all(0.1 <= one["objective.alpha"] <= 0.9 and one["other"] == "kept" for one in changed)
    assert all(1e-4 <= one["train.learning_rate"] <= 1e-2 for one in changed)
    assert {one["objective.temperature"] for one in changed} >= {2.0, 4.0}
    assert len({one["objective.alpha"] for one in changed}) > 5


def test_pb2_has_the_bounds_of_the_domains() -> None:
    pytest.importorskip("sklearn")
    plain = Space({"objective": {"alpha": {"uniform": [0.1, 0.9]}}})
    built: Any = Pb2(interval=3).build(plain, 10, "max")
    assert built._hyperparam_bounds == {"objective.alpha": [0.1, 0.9]} and built._perturbation_interval == 3


def test_who_pauses_and_who_copies_is_said() -> None:
    said = {
        s.kind: (s.pauses, s.needs_population)
        for s in (Fifo(), Asha(), MedianStopping(), HyperBand(), Pbt(), Pb2())
    }
    assert said == {
        "fifo": (False, False), "asha": (False, False), "median": (False, False),
        "hyperband": (True, False), "pbt": (True, True), "pb2": (True, True),
    }  # fmt: skip


def test_hyperband_fills_a_band_of_17_then_begins_another() -> None:
    built: Any = HyperBand().build(SPACE, 9, "max")
    controller = SimpleNamespace(search_alg=None)
    for number in range(18):
        built.on_trial_add(controller, Trial(str(number)))
    sizes = [[len(bracket._all_trials) for bracket in band] for band in built._hyperbands]
    assert sizes == [[9, 5, 3], [1]], "ceil(3 / (s + 1) * 3 ** s) for s = 2, 1, 0 (arXiv:1603.06560)"


@pytest.mark.parametrize(
    ("key", "may"),
    [
        ("objective.alpha", True),
        ("objective.terms.0.lambda_schedule", True),
        ("objective.weighting.tau", True),
        ("train.learning_rate", True),
        ("train.weight_decay", True),
        ("objective.weighting", False),
        ("objective.weighting.kind", False),
        ("objective.weighting.by_teacher.zh", False),
        ("objective.weighting.penalty", False),
        ("objective", False),
        ("train.batch_size", False),
        ("student.hidden", False),
        ("select_teachers", False),
    ],
)
def test_what_may_change_while_a_run_goes_on(key: str, may: bool) -> None:
    assert (MUTABLE.fullmatch(key) is not None) == may
