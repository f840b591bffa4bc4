"""The demo's ensemble preset, killed twice and resumed: finished trainings stay, no teacher answers a text again."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raykd.driver.command import Start
from raykd.experiments.config import load_experiment
from raykd.experiments.presets import run_experiment
from raykd.experiments.run import ComparisonOutcome, run_comparison
from raykd.report.comparisons.plain_data import list_differences
from raykd.report.comparisons.tables import ComparisonTables
from raykd.results import ComparisonResult
from raykd.teachers.store.inventory import list_stores
from raykd.tuning.journal import JOURNAL, Journal
from tests.e2e.conftest import World, still_held, wait_until
from tests.e2e.sweeps import Sweeps, left_over, plain_loop

pytestmark = [pytest.mark.nightly, pytest.mark.usefixtures("ray_cluster")]
ROWS = {"unlabeled": 300, "validation": 60, "test": 100}
HELD_OUT = ROWS["validation"] + ROWS["test"]
LABELLED = 200
SETTINGS = [
    "seeds=2",
    "checkpoint_s=0",
    "set.ray.num_cpus=4",
    "set.train.steps=80",
    "set.train.epochs=null",
    "set.train.evaluations=4",
    "set.data.train.rows_per_language=2000",
    *(f"set.data.{part}.rows_per_language={count}" for part, count in ROWS.items()),
    "set.teacher_defaults.training.train.epochs=1",
    "set.teacher_defaults.on_poor=warn",
]
"""The demo in short: its teachers learn for an epoch, its students for 80 steps."""
ARMS = [
    "base", "only_zh", "only_en", "only_multi", "without_zh", "without_en", "without_multi", "no_teachers",
    "weighting_uniform",
]  # fmt: skip
STARTED_S = 200.0
"""Longest wait for something to happen in a started command."""


def settings(world: World, name: str) -> list[str]:
    """Keys of a comparison with a store of its own; its trained teachers are shared."""
    return [*SETTINGS, f"name={name}", f"set.output={world.folder}/runs", f"set.serving.store=store-{name}"]


def compare(world: World, name: str, *, resume: bool = False) -> ComparisonOutcome:
    start = Start(resume=resume, console=Console(quiet=True))
    return run_experiment("demo", settings(world, name), start=start, preset="ensemble")


@pytest.fixture(scope="module")
def whole(world: World) -> ComparisonOutcome:
    """The comparison that nothing interrupts."""
    return compare(world, "whole")


def events(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of a comparison's journal, as they came."""
    found = []
    with contextlib.suppress(OSError):
        for line in (folder / JOURNAL).read_text(encoding="utf-8").split("\n"):
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Kill the command with -9 as soon as the condition holds."""
    assert wait_until(lambda: condition() or process.poll() is not None, STARTED_S, pause=0.002)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert still_held(60.0) == []


def test_a_killed_comparison_goes_on_and_its_table_is_the_unbroken_ones(
    world: World, whole: ComparisonOutcome, raykd: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = world.run("killed")
    command = ["compare", "demo", "--preset", "ensemble", *settings(world, "killed"), "--resume"]
    store = world.folder / "runs" / "store-killed"

    # Killed while the teachers answer: after the held-out texts and some of the training texts.
    def has_answered_some() -> bool:
        begun = any(e["event"] == "labelling" for e in events(folder))
        return begun and sum(one.entries or 0 for one in list_stores(store)) >= 5 * HELD_OUT + 600

    kill_when(raykd(*command), has_answered_some)
    assert [e["event"] for e in events(folder)] == ["labelling"], "not all was answered, nothing was trained"

    # Killed in the middle of a training, when others are finished.
    def is_midway() -> bool:
        seen = events(folder)
        over = {e["name"] for e in seen if e["event"] == "end"}
        training = {e["name"] for e in seen if e["event"] == "result"} - over
        return len(over) >= 4 and bool(training)

    kill_when(raykd(*command), is_midway)
    before = events(folder)
    over = {e["name"] for e in before if e["event"] == "end"}
    assert 4 <= len(over) < 18

    resumed = compare(world, "killed", resume=True)
    again = [e for e in events(folder)[len(before) :] if "name" in e]
    assert not over & {e["name"] for e in again}, "finished trainings are kept"
    journal = Journal(folder / JOURNAL)
    assert {trial.status for trial in journal.trials.values()} == {"finished"} and len(journal.trials) == 18

    _every_text_was_answered_once(journal)
    one, other = ComparisonTables(whole.report), ComparisonTables(resumed.report)
    assert other.main_cells() == one.main_cells()
    assert other.language_cells() == one.language_cells() and other.class_cells() == one.class_cells()
    for row, wanted in zip(list_differences(other.report), list_differences(one.report), strict=True):
        assert row == {
            key: pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
            for key, value in wanted.items()
        }
    assert left_over(folder) == set() and still_held() == []


def _every_text_was_answered_once(journal: Journal) -> None:
    """No start computes what an earlier one has stored; the sum over the starts is what any arm asks for."""
    first, second, third = journal.labellings
    texts = LABELLED + ROWS["unlabeled"]
    wanted = {"zh": texts, "en": texts, "multi": 3 * texts}
    assert first.asked == second.asked == third.asked == sum(wanted.values())
    assert 600 <= second.stored < second.asked, "the first start was killed midway"
    assert second.forwarded == second.asked - second.stored, "what the first start stored is not asked again"
    assert (third.stored, third.forwarded) == (third.asked, 0)
    assert journal.passes == 1.0
    forwarded: dict[str, float] = {}
    for start in journal.teachers:
        for name, counters in start.items():
            forwarded[name] = forwarded.get(name, 0) + counters["forwarded"]
            assert counters.get("computed_while_parked", 0) == 0
    # Held-out texts are asked once too, when teachers are reviewed and become rows of the table.
    held_out = {"zh": 1, "en": 1, "multi": 3}
    assert forwarded == {name: wanted[name] + held_out[name] * HELD_OUT for name in wanted}


def test_it_leaves_a_page_tables_and_a_child_run_per_training(world: World, whole: ComparisonOutcome) -> None:
    assert [arm.name for arm in whole.report.arms] == ARMS and whole.failed == 0
    folder = world.run("whole")
    result = ComparisonResult.of(whole)
    assert set(result.arms) == set(ARMS) and len(result.differences) == 8
    tree = json.loads(result.path.read_text(encoding="utf-8"))
    assert [arm["name"] for arm in tree["arms"]] == ARMS
    assert all(set(arm["students"]) == {"1", "2"} for arm in tree["arms"])
    page = whole.page.read_text(encoding="utf-8")
    assert page.count('<div class="chart">') >= 2 and all(name in page for name in ARMS)
    assert (folder / "experiment.yaml").exists() and (folder / "arms.yaml").exists()

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{world.folder}/runs/mlflow.db")
    parent = client.get_run(whole.mlflow_run_id)
    assert (parent.info.status, parent.data.tags["raykd.role"]) == ("FINISHED", "comparison")
    for d in result.differences:
        assert parent.data.metrics[f"compare/{d.arm}/difference"] == pytest.approx(d.mean)
    artifacts = {item.path for item in client.list_artifacts(whole.mlflow_run_id)}
    assert {"report.html", "comparison.json", "comparison.md"} <= artifacts
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    )
    by_name = {child.info.run_name: child for child in children}
    assert set(by_name) == {f"{arm}-seed{seed}" for arm in ARMS for seed in (1, 2)}
    for arm in whole.report.arms:
        for seed, student in arm.students.items():
            child = by_name[f"{arm.name}-seed{seed}"]
            assert child.info.status == "FINISHED"
            assert child.data.params == {"arm": arm.name, "seed": str(seed)}
            assert child.data.metrics["test/mean/accuracy"] == pytest.approx(
                student.scores["test/macro/accuracy"]
            )
            assert len(client.get_metric_history(child.info.run_id, "train/loss")) == 80


def test_every_arm_chooses_among_its_trials_and_repeats_the_best_with_its_seeds(
    world: World, sweeps: Sweeps
) -> None:
    rates = [0.0001, 0.02]
    tree = {
        "name": "fair",
        "base": sweeps.base(serving={"store": f"{sweeps.store}-fair"}),
        "generate": ["no_teachers", {"labelled": [20]}],
        "trials": [{"train": {"learning_rate": rate}} for rate in rates],
        "seeds": [1, 2],
        "tuning_seed": 5,
    }
    path = world.folder / "fair.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    found = run_comparison(load_experiment(path), Start(console=Console(quiet=True)))
    assert found.failed == 0
    names = ["base", "no_teachers", "labelled_20", "labelled_20_no_teachers"]
    assert [arm.name for arm in found.report.arms] == names
    folder = world.run("fair")
    journal = Journal(folder / JOURNAL)
    assert set(journal.trials) == {
        *(f"{arm}-trial{trial}" for arm in names for trial in (0, 1)),
        *(f"{arm}-seed{seed}" for arm in names for seed in (1, 2)),
    }
    scores = {name: journal.trials[name].row().score or 0.0 for name in journal.trials}
    chosen = json.loads((folder / "run.json").read_text(encoding="utf-8"))["chosen"]
    assert set(chosen) == set(names)
    for arm in found.report.arms:
        best = max((0, 1), key=lambda trial, name=arm.name: scores[f"{name}-trial{trial}"])
        assert scores[f"{arm.name}-trial{chosen[arm.name]}"] == scores[f"{arm.name}-trial{best}"]
        assert f"chosen: train.learning_rate={rates[chosen[arm.name]]}" in arm.changes
        assert set(arm.students) == {1, 2}
    # What the base repeats with a seed is what that run alone comes to.
    plan = load_experiment(path)
    alone = plan.find_arm("base").choose_trial(chosen["base"]).run.model_copy(update={"seed": 1})
    loop = plain_loop(alone)
    said = found.report.find_arm("base").read_scores("validation/macro/accuracy")[1]
    assert said == pytest.approx(loop.state.best, abs=1e-6)
    # All arms trained as many steps as the base, whatever number of labelled rows they have.
    assert {trial.total_steps for trial in journal.trials.values()} == {24}
    # The teachers answered the texts of all arms once: those of fewer labels are among those of more.
    assert journal.passes == 1.0
    assert all(start[name]["computed_while_parked"] == 0 for start in journal.teachers for name in start)
