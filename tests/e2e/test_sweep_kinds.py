"""Other kinds of sweeps: a population that changes on its way, hyperband, trials of two ranks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raykd.config.loading import load_run
from raykd.tuning.outcome import SweepOutcome, build_best_run
from tests.e2e.conftest import MEDIAN, STILL, still_held
from tests.e2e.sweeps import (
    RANK,
    SHORT,
    STEADY,
    TRIAL,
    Sweeps,
    actors,
    curve_of,
    left_over,
    plain_loop,
)

ONE_AT_ONCE = {"num_cpus": 2.5}
"""Of the cluster's four CPUs: schedulers that put trials aside take no max_concurrent_trials."""


@pytest.fixture(scope="module")
def population(asha: SweepOutcome, sweeps: Sweeps) -> dict[str, Any]:
    """A population of three whose learning rates are far apart, so that the worst copies the best."""
    train = {**SHORT, "steps": 36, "evaluations": 6, "metric": "nll"}
    keys: dict[str, Any] = {
        "base": sweeps.base(train=train, workers=ONE_AT_ONCE),
        "space": {
            "objective": {"alpha": {"uniform": [0.1, 0.9]}},
            "train": {"learning_rate": {"log_uniform": [1e-5, 0.05]}},
        },
        "scheduler": {"kind": "pbt", "interval": 1, "resample": 0.0},
        "num_samples": 3,
        "max_concurrent_trials": None,
    }
    sweeps.run("population", **keys)
    return keys


def test_a_population_copies_its_best_and_goes_on_from_there(
    population: dict[str, Any], sweeps: Sweeps
) -> None:
    trials = sweeps.journal("population").trials
    changed = [t for t in trials.values() if len(t.segments) > 1]
    assert changed, "the worst copied the best at least once"
    for trial in trials.values():
        assert trial.status == "finished" and sorted(trial.evaluations) == [1, 2, 3, 4, 5, 6]
    for trial in changed:
        begins = [step for step, _ in trial.segments]
        assert begins[0] == 0 and begins == sorted(begins) and begins[-1] in (6, 12, 18, 24, 30)
        for (_, before), (_, after) in zip(trial.segments, trial.segments[1:], strict=False):
            assert before != after and 0.1 <= after["objective.alpha"] <= 0.9
            assert 1e-5 <= after["train.learning_rate"] <= 0.05


def test_what_a_population_found_trains_again_from_scratch(
    population: dict[str, Any], sweeps: Sweeps
) -> None:
    """Each history, copied weights and changed numbers and all, is a run with phases; so is the winner's."""
    plan = sweeps.plan("population-again", **population)
    trials = sweeps.journal("population").trials
    scores = sweeps.scores("population")
    for name, trial in trials.items():
        run = build_best_run(plan, trial)
        assert len(run.phases) == max(0, len(trial.segments) - 1)
        assert scores[name] == pytest.approx(curve_of(plain_loop(run), "nll"), abs=1e-6)
    best = load_run(sweeps.folder("population") / "best.yaml")
    rows = {name: trial.row(higher_is_better=False) for name, trial in trials.items()}
    winner = min(rows.values(), key=lambda row: row.score)  # type: ignore[arg-type, return-value]
    assert best.phases == build_best_run(plan, trials[winner.name]).phases
    assert plain_loop(best).state.best == pytest.approx(winner.score, abs=1e-6)


def test_nothing_of_a_population_is_left(population: dict[str, Any], sweeps: Sweeps) -> None:
    assert left_over(sweeps.folder("population")) == set()
    assert still_held() == []


@pytest.mark.nightly
def test_hyperband_runs_the_best_of_a_bracket_to_the_end(asha: SweepOutcome, sweeps: Sweeps) -> None:
    """Brackets of 3 and 2 trials: the first is cut to one of three after one evaluation, the second has no cut."""
    outcome = sweeps.run(
        "hyperband",
        sweeps.base(
            teachers=[],
            objective={"alpha": 1.0},
            train={**SHORT, "steps": 12, "evaluations": 3},
            workers=ONE_AT_ONCE,
        ),
        space={"train": {"learning_rate": {"log_uniform": [1e-5, 0.05]}}},
        scheduler={"kind": "hyperband"},
        num_samples=5,
        max_concurrent_trials=None,
    )
    reached = [(t.status, t.last_evaluation) for t in outcome.report.trials]
    assert sorted(reached[:3]) == [("finished", 3), ("stopped", 1), ("stopped", 1)]
    assert reached[3:] == [("finished", 3), ("finished", 3)]
    first = {t.name: t.score_at(1) for t in outcome.report.trials[:3]}
    (kept,) = [t.name for t in outcome.report.trials[:3] if t.status == "finished"]
    assert first[kept] == max(first.values())  # type: ignore[type-var]
    assert left_over(sweeps.folder("hyperband")) == set()
    assert still_held() == []


@pytest.mark.nightly
def test_trials_of_two_ranks_learn_what_trials_of_one_learn(unbroken: SweepOutcome, sweeps: Sweeps) -> None:
    before = {kind: set(actors(kind)) for kind in (TRIAL, RANK)}
    sweeps.run(
        "two-ranks",
        sweeps.base(student=STILL, train=STEADY, workers={"num_workers": 2}),
        scheduler=MEDIAN,
        num_samples=2,
    )
    started = {kind: len(set(actors(kind)) - before[kind]) for kind in (TRIAL, RANK)}
    assert started == {TRIAL: 1, RANK: 1}, "the second trial begins in the processes of the first"
    one = sweeps.scores("unbroken")
    two = sweeps.scores("two-ranks")
    assert set(two) == {"t0000", "t0001"}
    assert two == {name: pytest.approx(one[name], abs=1e-5) for name in two}
    state = json.loads((sweeps.folder("two-ranks") / "run.json").read_text(encoding="utf-8"))
    metrics = sweeps.client().get_run(state["mlflow_run_id"]).data.metrics
    assert metrics["sweep/teacher_passes"] == 0.0
    assert still_held() == []
