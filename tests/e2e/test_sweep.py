"""A whole sweep through everything that is real: what it finds, what it leaves, and what its teachers did for it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from raykd.config.loading import load_run
from raykd.driver.command import Start
from raykd.errors import ConfigError, ResourceError
from raykd.experiments.confirmation import read_confirmation
from raykd.experiments.run import run_comparison
from raykd.preflight.check import preflight
from raykd.tuning.outcome import SweepOutcome
from tests.e2e.conftest import still_held, wait_until
from tests.e2e.sweeps import Sweeps, curve_of, left_over, plain_loop, shared_memory

pytestmark = pytest.mark.usefixtures("ray_cluster")
KEYS = {"objective.alpha", "objective.temperature", "train.learning_rate"}


@pytest.fixture(scope="module")
def memory_before(sweeps: Sweeps) -> set[str]:
    return shared_memory()


def test_trials_are_those_of_the_file(memory_before: set[str], asha: SweepOutcome, sweeps: Sweeps) -> None:
    space = sweeps.plan("asha-again", num_samples=6).space
    trials = asha.report.trials
    assert [t.name for t in trials] == [f"t000{i}" for i in range(6)] and asha.failed == 0
    assert [t.sample for t in trials] == [space.draw(0, index) for index in range(6)]
    assert {t.status for t in trials} <= {"finished", "stopped"} and trials[0].status == "finished"
    rungs = (1, 3)
    for trial in trials:
        assert trial.last_evaluation == 4 if trial.status == "finished" else trial.last_evaluation in rungs
        assert [e.step for e in trial.evaluations] == [6, 12, 18, 24][: trial.last_evaluation]
    assert asha.report.rungs == rungs
    assert asha.report.best == max(trials, key=lambda t: (t.score, -(t.nll or 0.0)))


def test_each_teacher_answers_each_text_once_for_all_trials(asha: SweepOutcome, sweeps: Sweeps) -> None:
    metrics = sweeps.client().get_run(asha.mlflow_run_id).data.metrics
    assert metrics["sweep/teacher_passes"] == 1.0
    # 40 texts a language; by language the monolingual teacher is asked where there is one. Before that both are scored
    # on the validation texts of their languages, 60 a language.
    for name, validation in (("en", 60), ("multi", 120)):
        assert metrics[f"teacher/{name}/rows_forwarded"] == 40.0 + validation
        assert 0.0 <= metrics[f"teacher/{name}/validation/accuracy"] <= 1.0
        (counters,) = [start[name] for start in sweeps.journal("asha").teachers]
        assert (counters["loaded"], counters["computed_while_parked"]) == (1, 0)


def test_a_second_sweep_needs_no_forward_and_no_weights(unbroken: SweepOutcome, sweeps: Sweeps) -> None:
    metrics = sweeps.client().get_run(unbroken.mlflow_run_id).data.metrics
    assert metrics["sweep/teacher_passes"] == 0.0
    (start,) = sweeps.journal("unbroken").teachers
    assert all((c["forwarded"], c["loaded"], c["computed_while_parked"]) == (0, 0, 0) for c in start.values())
    assert {t.status for t in unbroken.report.trials} == {"finished", "stopped"}


def test_mlflow_holds_the_sweep_and_a_child_a_trial(asha: SweepOutcome, sweeps: Sweeps) -> None:
    parent = sweeps.client().get_run(asha.mlflow_run_id)
    assert (parent.info.status, parent.data.tags["raykd.role"]) == ("FINISHED", "sweep")
    assert parent.data.tags["raykd.best"] == asha.report.best.name  # type: ignore[union-attr]
    assert parent.data.metrics["sweep/best"] == asha.report.best.score  # type: ignore[union-attr]
    assert json.loads(parent.data.params["sweep.scheduler"])["kind"] == "asha"
    children = sweeps.children(asha)
    assert set(children) == {t.name for t in asha.report.trials}
    for trial in asha.report.trials:
        run = children[trial.name]
        assert run.info.status == {"finished": "FINISHED", "stopped": "KILLED"}[trial.status]
        assert (run.data.tags["raykd.role"], run.data.tags["raykd.trial"]) == ("trial", trial.status)
        assert run.data.params == {key: str(value) for key, value in trial.sample.items()}
        assert set(run.data.params) == KEYS
        assert (run.data.metrics["objective"], run.data.metrics["best_step"]) == (
            trial.score,
            trial.best_step,
        )
    artifacts = {item.path for item in sweeps.client().list_artifacts(asha.mlflow_run_id)}
    assert {"best.yaml", "space.yaml", "trials.json", "trials.csv", "report.html"} <= artifacts


def test_mlflow_holds_every_point_of_every_trial_once(asha: SweepOutcome, sweeps: Sweeps) -> None:
    client, children = sweeps.client(), sweeps.children(asha)
    for trial in asha.report.trials:
        run_id, last = children[trial.name].info.run_id, trial.evaluations[-1].step
        for name, steps in (
            ("train/loss", list(range(1, last + 1))),
            ("train/temperature", list(range(1, last + 1))),
            ("eval/fr/accuracy", [e.step for e in trial.evaluations]),
        ):
            assert sorted(m.step for m in client.get_metric_history(run_id, name)) == steps, name
        history = client.get_metric_history(run_id, "eval/mean/accuracy")
        assert [m.value for m in sorted(history, key=lambda m: m.step)] == [
            e.score for e in trial.evaluations
        ]


def test_a_trial_learns_what_the_same_run_learns_alone(asha: SweepOutcome, sweeps: Sweeps) -> None:
    """With dropout; the loop is the one of `raykd train`, its teachers answer from the same store."""
    plan = sweeps.plan("asha-again", num_samples=6)
    for name in ("t0000", "t0003"):
        trial = sweeps.journal("asha").trials[name]
        alone = curve_of(plain_loop(plan.space.build_run(trial.sample)))
        of_trial = sweeps.scores("asha")[name]
        assert of_trial == pytest.approx(alone[: len(of_trial)], abs=1e-6) and len(of_trial) >= 2


def test_best_yaml_is_a_run(asha: SweepOutcome, sweeps: Sweeps) -> None:
    assert asha.best == sweeps.folder("asha") / "best.yaml"
    run = load_run(asha.best)
    preflight(run)
    best = asha.report.best
    assert best is not None and run.name == "asha-best"
    assert run.objective.alpha.value_at(0.0) == best.sample["objective.alpha"]
    assert run.train.learning_rate == best.sample["train.learning_rate"]
    loop = plain_loop(run)
    assert (loop.state.best, loop.state.best_step) == (pytest.approx(best.score, abs=1e-6), best.best_step)


def test_page_and_tables_are_there(asha: SweepOutcome, sweeps: Sweeps) -> None:
    folder = sweeps.folder("asha")
    page = asha.page.read_text(encoding="utf-8")
    assert page.count('<div class="chart">') >= 2 and all(t.name in page for t in asha.report.trials)
    rows = list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 6
    assert (folder / "results.md").read_text(encoding="utf-8").count("t000") >= 6
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"] == "finished"


def test_nothing_is_left(memory_before: set[str], unbroken: SweepOutcome, sweeps: Sweeps) -> None:
    for name in ("asha", "unbroken"):
        assert left_over(sweeps.folder(name)) == set()
    assert still_held() == []
    # Unit tests may run beside these: what is theirs goes by itself.
    assert wait_until(lambda: shared_memory() <= memory_before, 20.0), shared_memory() - memory_before


def test_a_finished_sweep_is_not_touched_without_a_flag(asha: SweepOutcome, sweeps: Sweeps) -> None:
    before = (sweeps.folder("asha") / "trials.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"exists already[\s\S]*finished[\s\S]*--resume"):
        sweeps.run("asha", scheduler={"kind": "asha"}, num_samples=6, max_concurrent_trials=2)
    assert (sweeps.folder("asha") / "trials.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "keys", "words"),
    [
        ({"workers": {"num_cpus": 8}}, {}, "needs more CPU"),
        ({"workers": {"num_cpus": 8}, "ray": {"num_cpus": 64}}, {}, "not one trial fits"),
        ({}, {"max_concurrent_trials": 5}, "5 trials at once do not fit"),
        ({}, {"max_concurrent_trials": 4, "label": "on_demand"}, "4 trials at once do not fit"),
    ],
    ids=["this machine", "the cluster", "too many", "too many beside teachers"],
)
def test_a_sweep_that_cannot_start_says_so_before_teachers_work(
    sweeps: Sweeps,
    tmp_path: Path,
    changes: dict,
    keys: dict,
    words: str,  # type: ignore[type-arg]
) -> None:
    store = tmp_path / "store"
    base = sweeps.base(serving={"store": str(store)}, **changes)
    with pytest.raises(ResourceError, match=words):
        sweeps.run("cannot", base, **keys)
    assert not store.exists() and not sweeps.folder("cannot").exists() and still_held() == []


def test_the_winner_is_confirmed_with_fresh_seeds(asha: SweepOutcome, sweeps: Sweeps) -> None:
    result = run_comparison(read_confirmation(sweeps.folder("asha"), 2), Start(console=Console(quiet=True)))
    report, folder = result.report, sweeps.folder("asha") / "confirm"
    assert ([arm.name for arm in report.arms], report.seeds) == (["winner", "default"], (1001, 1002))
    assert result.failed == 0
    for arm in report.arms:
        for seed in report.seeds:
            values = arm.students[seed].scores
            assert {"validation/macro/accuracy", "test/en/accuracy", "test/fr/nll", "test/macro/nll"} <= set(
                values
            )
    winner, default = (arm.read_scores("test/macro/accuracy") for arm in report.arms)
    (difference,) = report.main_differences
    assert (difference.arm, difference.against, difference.seeds) == ("winner", "default", 2)
    assert difference.mean == pytest.approx(sum(winner[s] - default[s] for s in report.seeds) / 2)
    _confirmed_by_a_plain_loop(sweeps, result)
    run = sweeps.client().get_run(json.loads((folder / "run.json").read_text())["mlflow_run_id"])
    assert (run.info.status, run.data.tags["raykd.role"]) == ("FINISHED", "confirmation")
    assert run.data.metrics["confirm/difference"] == pytest.approx(difference.mean)
    assert (folder / "report.html").exists() and (folder / "results.md").exists()
    assert left_over(folder) == set() and still_held() == []


def _confirmed_by_a_plain_loop(sweeps: Sweeps, result) -> None:  # type: ignore[no-untyped-def]
    """What the table says of the default's first seed is what that run alone comes to."""
    base = sweeps.plan("asha-again").base.model_copy(update={"seed": 1001})
    loop = plain_loop(base)
    said = result.report.find_arm("default").read_scores("validation/macro/accuracy")[1001]
    assert said == pytest.approx(loop.state.best, abs=1e-6)
