"""Sweeps that are killed, trials that crash, fail or diverge: the rest is as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from raykd.driver.command import Start
from raykd.tuning.outcome import SweepOutcome
from raykd.tuning.run import run_sweep
from tests.e2e.conftest import MEDIAN, STILL, still_held, wait_until
from tests.e2e.sweeps import STEADY, TRIAL, Sweeps, actors, curve_of, left_over, plain_loop

STARTED_S = 120.0
"""Longest wait for the first trial of a sweep to come to its second evaluation."""


def lines_of(sweeps: Sweeps, name: str) -> list[dict[str, Any]]:
    """Whole lines of a sweep's journal, as they came."""
    found = []
    with contextlib.suppress(OSError):
        for line in (sweeps.folder(name) / "trials.jsonl").read_text(encoding="utf-8").split("\n"):
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def midway(sweeps: Sweeps, name: str, trial: str) -> bool:
    """Whether a trial has come to two evaluations, so that the checkpoint of the first is there, and is not over."""
    lines = [line for line in lines_of(sweeps, name) if line.get("name") == trial]
    events = [line["event"] for line in lines]
    return events.count("result") >= 2 and "end" not in events


@pytest.fixture(scope="module")
def killed(unbroken: SweepOutcome, sweeps: Sweeps) -> dict[str, Any]:
    """How a sweep is read that equals the unbroken one, but has a store of its own and keeps checkpoints."""
    serving = {"store": f"{sweeps.store}-killed"}
    base = sweeps.base(student=STILL, train=STEADY, serving=serving)
    return {"name": "killed", "base": base, "scheduler": MEDIAN, "checkpoint_s": 0}


def test_a_sweep_whose_driver_was_killed_goes_on_as_if_it_had_not_been(
    killed: dict[str, Any],
    unbroken: SweepOutcome,
    sweeps: Sweeps,
    raykd: Callable[..., subprocess.Popen[str]],
) -> None:
    process = raykd("sweep", str(sweeps.write(**killed)))
    assert wait_until(
        lambda: midway(sweeps, "killed", "t0001") or process.poll() is not None, STARTED_S, pause=0.005
    )
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    before = lines_of(sweeps, "killed")
    over = {line["name"] for line in before if line["event"] == "end"}
    assert "t0000" in over and over != {f"t000{i}" for i in range(4)}
    left = sweeps.journal("killed").unfinished[0]
    assert still_held(30.0) == []

    outcome = run_sweep(sweeps.plan(**killed), Start(resume=True, console=Console(quiet=True)))
    after = lines_of(sweeps, "killed")
    assert after[: len(before)] == before
    again = [line for line in after[len(before) :] if "name" in line]
    assert not over & {line["name"] for line in again}, "what was over is not run again"
    first = next(line for line in again if line["event"] == "result")
    # The trial may have come to one more evaluation, and kept it, than the driver lived to hear of.
    assert first["name"] == left.name
    assert 0 <= first["evaluation"] - max(left.evaluations) <= 2
    assert first["evaluation"] > 1, "it goes on from its checkpoint"

    assert sweeps.scores("killed") == {
        name: pytest.approx(values, abs=1e-6) for name, values in sweeps.scores("unbroken").items()
    }
    as_before = [(t.name, t.status, t.sample, t.score) for t in unbroken.report.trials]
    assert [(t.name, t.status, t.sample, t.score) for t in outcome.report.trials] == as_before
    _teachers_answered_once(sweeps, outcome)
    _every_point_once(sweeps, outcome, over)
    assert left_over(sweeps.folder("killed")) == set()
    assert still_held() == []


def _teachers_answered_once(sweeps: Sweeps, outcome: SweepOutcome) -> None:
    first, second = sweeps.journal("killed").labellings
    assert (first.asked, first.stored, first.forwarded) == (80, 0, 80)
    assert (second.asked, second.stored, second.forwarded) == (80, 80, 0)
    run = sweeps.client().get_run(outcome.mlflow_run_id)
    assert run.data.metrics["sweep/teacher_passes"] == 1.0 and run.data.tags["resumes"] == "1"


def _every_point_once(sweeps: Sweeps, outcome: SweepOutcome, over: set[str]) -> None:
    """Points of a trial that was over may have been on their way when the driver was killed."""
    client, children = sweeps.client(), sweeps.children(outcome)
    assert set(children) == {t.name for t in outcome.report.trials}
    for trial in outcome.report.trials:
        run = children[trial.name]
        assert run.info.status == {"finished": "FINISHED", "stopped": "KILLED"}[trial.status]
        assert run.data.tags["raykd.trial"] == trial.status
        for name, steps in (
            ("train/loss", list(range(1, trial.evaluations[-1].step + 1))),
            ("eval/mean/accuracy", [e.step for e in trial.evaluations]),
        ):
            history = client.get_metric_history(run.info.run_id, name)
            logged = sorted(m.step for m in history)
            there = [step for step in steps if step in logged] if trial.name in over else steps
            assert logged == there, (trial.name, name)


# trials --------------------------------------------------------------------------------------------------------------


class Killer(threading.Thread):
    """Kills the process of a trial with -9, once, when the trial is midway."""

    def __init__(self, sweeps: Sweeps, name: str, trial: str) -> None:
        super().__init__(daemon=True)
        self._midway = lambda: midway(sweeps, name, trial)
        self._known = set(actors(TRIAL))
        self.killed: list[int] = []

    def run(self) -> None:
        if wait_until(self._midway, STARTED_S, pause=0.005):
            alive = {name: pid for name, pid in actors(TRIAL, alive=True).items() if name not in self._known}
            self.killed = list(alive.values())
            for pid in self.killed:
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def broken(sweeps: Sweeps) -> tuple[int, list[int], str]:
    """Four trials: one whose process is killed, one that diverges, one that is well, one that can never begin."""
    from raykd.cli import main

    rates = [{"learning_rate": 0.02}, {"learning_rate": 1e30}, {"learning_rate": 0.01}]
    path = sweeps.write(
        "broken",
        sweeps.base(teachers=[], objective={"alpha": 1.0}, train={**STEADY, "steps": 60, "evaluations": 10}),
        space={"train": {"grid": [*rates, {"batch_size": 4096}]}},
        search={"kind": "grid"},
        num_samples=1,
        checkpoint_s=0,
        max_failures=1,
    )
    killer = Killer(sweeps, "broken", "t0000")
    killer.start()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        # Nobody looks at the trials before, so the last one fails in its process.
        patch.setattr("raykd.tuning.run.check_known_trials", lambda plan, data: None)
        patch.setattr("raykd.tuning.driver.TrialCheck", lambda run_factory, base, data: lambda sample: None)
        patch.setattr("sys.argv", ["raykd", "sweep", str(path)])
        main()
    killer.join(timeout=5.0)
    return int(str(ended.value.code)), killer.killed, str(path)


def test_a_failed_trial_fails_alone_and_the_command_says_so(
    broken: tuple[int, list[int], str], sweeps: Sweeps
) -> None:
    code, _, _ = broken
    assert code == 4
    trials = sweeps.journal("broken").trials
    assert [t.status for t in trials.values()] == ["finished", "diverged", "finished", "failed"]
    assert "batch" in str(trials["t0003"].error) and trials["t0003"].evaluations == {}
    whole = "next:   lower train.batch_size"
    assert whole in str(trials["t0003"].error)
    for name in ("report.html", "log.txt", "trials.csv"):
        assert whole in (sweeps.folder("broken") / name).read_text(encoding="utf-8"), name
    assert "not finite" in str(trials["t0001"].error)
    folder = sweeps.folder("broken")
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"] == "finished"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "diverged" in page and "failed" in page


def test_a_trial_whose_process_was_killed_ends_as_if_it_had_not_been(
    broken: tuple[int, list[int], str], sweeps: Sweeps
) -> None:
    _, pids, path = broken
    assert len(pids) == 1, "its process was killed midway"
    from raykd.tuning.config import load_sweep

    plan = load_sweep(sweeps.world.folder / path)
    for name in ("t0000", "t0002"):
        trial = sweeps.journal("broken").trials[name]
        alone = curve_of(plain_loop(plan.space.build_run(trial.sample)))
        assert sweeps.scores("broken")[name] == pytest.approx(alone, abs=1e-6) and len(alone) == 20


def test_a_trial_that_diverged_is_never_the_best(broken: tuple[int, list[int], str], sweeps: Sweeps) -> None:
    trials = sweeps.journal("broken").trials
    rows = {name: trial.row() for name, trial in trials.items()}
    assert not rows["t0001"].is_eligible
    best = max((rows["t0000"], rows["t0002"]), key=lambda r: (r.score, -(r.nll or 0.0)))
    text = (sweeps.folder("broken") / "best.yaml").read_text(encoding="utf-8")
    assert f"learning_rate: {[0.02, 0.01][best.name == 't0002']}" in text


def test_mlflow_says_what_became_of_each(broken: tuple[int, list[int], str], sweeps: Sweeps) -> None:
    client = sweeps.client()
    state = json.loads((sweeps.folder("broken") / "run.json").read_text(encoding="utf-8"))
    parent = client.get_run(state["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert (parent.data.metrics["sweep/failed"], parent.data.metrics["sweep/diverged"]) == (1.0, 1.0)
    tag = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    children = {c.info.run_name: c for c in client.search_runs([parent.info.experiment_id], tag)}
    assert {name: (c.info.status, c.data.tags["raykd.trial"]) for name, c in children.items()} == {
        "t0000": ("FINISHED", "finished"), "t0001": ("FAILED", "diverged"),
        "t0002": ("FINISHED", "finished"), "t0003": ("FAILED", "failed"),
    }  # fmt: skip
    assert "batch" in children["t0003"].data.tags["raykd.error"]


def test_nothing_of_a_broken_sweep_is_left(broken: tuple[int, list[int], str], sweeps: Sweeps) -> None:
    assert left_over(sweeps.folder("broken")) == set()
    assert still_held() == []
