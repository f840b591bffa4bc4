"""Ray Tune searches alpha, temperature and the lambda schedule's shape, over teachers that answer once.

What each trial did is read back from MLflow and compared with the schedules' formulas, written out here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from raykd.config.loading import load_run
from raykd.tuning.outcome import SweepOutcome
from tests.e2e.conftest import still_held
from tests.e2e.sweeps import SHORT, Sweeps, left_over

pytestmark = pytest.mark.usefixtures("ray_cluster")
STEPS = SHORT["steps"]
LAMBDA = "objective.terms.0.lambda_schedule"
SPACE: dict[str, Any] = {
    "objective": {
        "alpha": {"uniform": [0.0, 0.6]},
        "temperature": {"choice": [2.0, {"kind": "linear", "start": {"uniform": [2.0, 8.0]}, "end": 1.0}]},
        "terms": [
            {
                "divergence": {"kind": "forward_kl"},
                "lambda_schedule": {
                    "choice": [
                        1.0,
                        {"kind": "linear", "start": 1.0, "end": {"choice": [0.0, 0.3]}},
                        {"kind": "cosine", "start": 1.0, "end": {"uniform": [0.0, 0.5]}},
                        {"kind": "step", "values": [1.0, 0.25], "at": [0.5]},
                    ]
                },
            }
        ],
    }
}
POINTS = [
    {"objective.alpha": 0.1, "objective.temperature": {"kind": "linear", "start": 6.0}, LAMBDA: {"kind": "linear", "end": 0.0}},
    {LAMBDA: {"kind": "cosine", "end": 0.2}},
    {LAMBDA: "step", "objective.temperature": 2.0},
]  # fmt: skip
SHAPES: Mapping[Any, Callable[[float, Mapping[str, Any]], float]] = {
    1.0: lambda u, sample: 1.0,
    "linear": lambda u, sample: 1.0 - u * (1.0 - sample[f"{LAMBDA}[linear].end"]),
    "cosine": lambda u, sample: (
        sample[f"{LAMBDA}[cosine].end"]
        + (1.0 - sample[f"{LAMBDA}[cosine].end"]) * (1.0 + math.cos(math.pi * u)) / 2.0
    ),
    "step": lambda u, sample: 1.0 if u < 0.5 else 0.25,
}
"""Lambda at progress u, by the option that a trial has."""


def temperature(u: float, sample: Mapping[str, Any]) -> float:
    """Temperature at progress u."""
    if sample["objective.temperature"] == 2.0:
        return 2.0
    start: float = sample["objective.temperature[linear].start"]
    return start + u * (1.0 - start)


@pytest.fixture(scope="module")
def schedules(sweeps: Sweeps) -> SweepOutcome:
    """The base, a trial of each shape, and one that Optuna chooses; the store is new, so that teachers must answer."""
    base = sweeps.base(serving={"store": f"{sweeps.store}-schedules"})
    search = {"kind": "optuna", "base_first": True, "points_to_evaluate": POINTS}
    return sweeps.run("schedules", base, space=SPACE, search=search, num_samples=5)


def test_the_base_comes_first_then_each_shape(schedules: SweepOutcome, sweeps: Sweeps) -> None:
    trials = schedules.report.trials
    assert [t.status for t in trials] == ["finished"] * 5 and schedules.failed == 0
    shapes = [t.sample[LAMBDA] for t in trials]
    assert shapes[:4] == [1.0, "linear", "cosine", "step"] and shapes[4] in SHAPES
    plan = sweeps.plan(
        "schedules-again", sweeps.base(serving={"store": f"{sweeps.store}-schedules"}), space=SPACE
    )
    assert plan.space.build_run(trials[0].sample) == plan.base
    assert trials[1].sample["objective.alpha"] == 0.1
    assert trials[1].sample["objective.temperature[linear].start"] == 6.0
    assert len({json.dumps(t.sample) for t in trials}) == 5


def test_teachers_answer_once_for_all_of_it(schedules: SweepOutcome, sweeps: Sweeps) -> None:
    metrics = sweeps.client().get_run(schedules.mlflow_run_id).data.metrics
    assert metrics["sweep/teacher_passes"] == 1.0
    (labelling,) = sweeps.journal("schedules").labellings
    assert (labelling.asked, labelling.stored, labelling.forwarded) == (80, 0, 80)
    for name, validation in (("en", 60), ("multi", 120)):
        assert metrics[f"teacher/{name}/rows_forwarded"] == 40.0 + validation
    counters = [start for starts in sweeps.journal("schedules").teachers for start in starts.values()]
    assert counters and all((c["loaded"], c["computed_while_parked"]) == (1, 0) for c in counters)


def test_the_curves_of_each_trial_are_its_schedules_formulas(schedules: SweepOutcome, sweeps: Sweeps) -> None:
    client, children = sweeps.client(), sweeps.children(schedules)
    for trial in schedules.report.trials:
        run, sample = children[trial.name], trial.sample
        wanted_params = {key.replace("[", ".").replace("]", ""): str(value) for key, value in sample.items()}
        assert run.data.params == wanted_params
        shape = SHAPES[sample[LAMBDA]]
        for name, formula in (
            ("train/alpha", lambda u, sample: sample["objective.alpha"]),
            ("train/temperature", temperature),
            ("train/lambda/forward_kl", shape),
        ):
            history = sorted(client.get_metric_history(run.info.run_id, name), key=lambda m: m.step)
            assert [m.step for m in history] == list(range(1, STEPS + 1)), (trial.name, name)
            wanted = [formula((step - 1) / STEPS, sample) for step in range(1, STEPS + 1)]
            assert [m.value for m in history] == pytest.approx(wanted, abs=1e-9), (trial.name, name)


def test_what_was_searched_changes_what_is_learnt(schedules: SweepOutcome) -> None:
    nlls = {trial.evaluations[-1].nll for trial in schedules.report.trials}
    assert len(nlls) == 5


def test_mlflow_names_the_best_and_its_yaml_holds_its_schedules(
    schedules: SweepOutcome, sweeps: Sweeps
) -> None:
    client, children = sweeps.client(), sweeps.children(schedules)
    assert {run.info.status for run in children.values()} == {"FINISHED"} and len(children) == 5
    ranked = sorted(
        (-round(evaluation.score, 4), evaluation.nll, trial.name, evaluation.step)
        for trial in schedules.report.trials
        for evaluation in trial.evaluations
    )
    score, _, name, step = ranked[0]
    parent = client.get_run(schedules.mlflow_run_id)
    assert parent.data.tags["raykd.best"] == name
    assert parent.data.metrics["sweep/best"] == pytest.approx(-score, abs=1e-4)
    assert children[name].data.metrics["best_step"] == step
    assert schedules.best is not None
    run, sample = load_run(schedules.best), sweeps.journal("schedules").trials[name].sample
    (term,) = run.objective.terms
    for u in (0.0, 0.25, 0.5, 0.9):
        assert run.objective.alpha.value_at(u) == sample["objective.alpha"]
        assert run.objective.temperature.value_at(u) == pytest.approx(temperature(u, sample))
        assert term.lambda_schedule.value_at(u) == pytest.approx(SHAPES[sample[LAMBDA]](u, sample))


def test_nothing_of_it_is_left(schedules: SweepOutcome, sweeps: Sweeps) -> None:
    assert left_over(sweeps.folder("schedules")) == set()
    assert still_held() == []
