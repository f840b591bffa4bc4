"""A run that is stopped, killed and resumed ends with the weights of one that was never touched."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from safetensors.torch import load_file

from raykd.checkpoint.curves import Curves
from raykd.runs.train import run_training
from raykd.scoring.outcome import Outcome
from tests.e2e.conftest import Server, World, still_held, wait_until

Start = Callable[..., subprocess.Popen[str]]
STARTED_S, ENDED_S, KILLED_AFTER_S = 120.0, 15.0, 3.0
"""Longest waits for a worker group to write a checkpoint, for a stopped process to end, and of `ray job stop`."""


def _client(uri: str):  # type: ignore[no-untyped-def]
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _stop_after_checkpoints(process: subprocess.Popen[str], world: World, count: int, number: int) -> float:
    """Sends the signal once so many new checkpoints were there; returns the seconds until the process ended."""
    seen: set[str] = set()
    before = world.checkpoints("stopped")

    def enough() -> bool:
        seen.update(world.checkpoints("stopped") - before)
        return len(seen) >= count or process.poll() is not None

    assert wait_until(enough, STARTED_S), (world.run("stopped") / "log.txt").read_text(encoding="utf-8")
    assert process.poll() is None, process.communicate()
    begun = time.monotonic()
    process.send_signal(number)
    if number == signal.SIGTERM:  # who sends it may send SIGKILL three seconds later
        assert wait_until(lambda: world.state("stopped")["status"] == "interrupted", KILLED_AFTER_S)
        print(f"the state was written {time.monotonic() - begun:.2f} s after the signal")
    process.wait(timeout=ENDED_S)
    print(f"the process ended {time.monotonic() - begun:.2f} s after the signal")
    return time.monotonic() - begun


def test_interrupted_killed_and_resumed_equals_unbroken(
    first: Outcome, world: World, raykd: Start, server: Server
) -> None:
    uri = server.wait()
    # Long enough that a signal arrives well before the end.
    train = {**world.tree("stopped")["train"], "steps": 600}
    unbroken = run_training(world.config("unbroken", train=train, baseline=False))
    path = str(world.write("stopped", tracking={"uri": uri}, baseline=False, train=train))
    teachers = {p: p.stat().st_mtime_ns for p in (world.folder / "runs" / "teachers").glob("*/*")}

    process = raykd("train", path)
    took = _stop_after_checkpoints(process, world, 2, signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 130 and took < 8.0, (out, err, took)
    assert "interrupted" in err and "--resume" in err and "Traceback" not in err
    state = world.state("stopped")
    assert state["status"] == "interrupted"
    client = _client(uri)
    assert client.get_run(state["mlflow_run_id"]).info.status == "KILLED"
    assert still_held(60.0) == []

    _stop_after_checkpoints(raykd("train", path, "--resume"), world, 3, signal.SIGKILL)
    assert world.state("stopped")["status"] == "running"
    assert not (world.run("stopped") / "student").exists()
    assert still_held(60.0) == []

    process = raykd("train", path, "--resume")
    out, err = process.communicate(timeout=STARTED_S)
    assert process.returncode == 0, err
    assert "distilled student" in out and err == ""
    assert {p: p.stat().st_mtime_ns for p in (world.folder / "runs" / "teachers").glob("*/*")} == teachers
    _equal_weights(unbroken, world)
    _each_point_once(client, world)


def _equal_weights(outcome: Outcome, world: World) -> None:
    unbroken = load_file(outcome.student / "model.safetensors")
    resumed = load_file(world.run("stopped") / "student" / "model.safetensors")
    assert unbroken.keys() == resumed.keys()
    for name, weight in unbroken.items():
        assert resumed[name].numpy() == pytest.approx(weight.numpy(), abs=1e-6), name


def _each_point_once(client, world: World) -> None:  # type: ignore[no-untyped-def]
    state = world.state("stopped")
    run = client.get_run(state["mlflow_run_id"])
    assert run.info.status == "FINISHED" and run.data.tags["resumes"] == "2"
    points = Curves(world.run("unbroken") / "curves.jsonl").by_job["student"]
    for name in ("train/loss", "teacher/en/weight", "train/temperature", "eval/mean/accuracy"):
        steps = [m.step for m in client.get_metric_history(run.info.run_id, name)]
        assert sorted(steps) == [point.step for point in points if name in point.values], name
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == run.info.run_id
    assert {"report.html", "results.json"} <= {i.path for i in client.list_artifacts(run.info.run_id)}


def test_ctrl_c_while_workers_start(first: Outcome, world: World, raykd: Start) -> None:
    process = raykd("train", str(world.write("early", baseline=False)))
    log = world.run("early") / "log.txt"
    assert wait_until(lambda: log.exists() and "workers for student" in log.read_text("utf-8"), STARTED_S)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=ENDED_S)
    assert process.returncode == 130 and time.monotonic() - begun < 8.0, (out, err)
    assert "interrupted" in err and "Traceback" not in err
    assert world.state("early")["status"] == "interrupted"
    client = _client(f"sqlite:///{world.folder}/runs/mlflow.db")
    assert client.get_run(world.state("early")["mlflow_run_id"]).info.status == "KILLED"
    assert still_held(60.0) == []
