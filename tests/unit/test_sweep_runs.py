"""A trial's run in MLflow is the same whether it was recorded at its end or while it went on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.checkpoint.curves import Curves
from raykd.point import Point
from raykd.tracking import Tracker
from raykd.tuning.journal import Journal
from raykd.tuning.recording import trial_runs
from raykd.tuning.recording.trial_runs import TrialRuns

CURVE = [
    Point(1, {"train/loss": 0.7}, 1_000),
    Point(2, {"eval/mean/accuracy": 0.5, "eval/mean/nll": 0.6}, 2_000),
]


class Sweep:
    """The records of a sweep's trials, over a real MLflow and a folder that notes what is written into its state."""

    def __init__(self, parent: Tracker, path: Path, resumed: bool = False) -> None:
        self.folder = SimpleNamespace(path=path, state={})
        self.folder.write_state = lambda **values: self.folder.state.update(values)
        self.journal, self.curves = Journal(path / "trials.jsonl"), Curves(path / "curves.jsonl")
        self.runs = TrialRuns(parent, self.folder, self.journal, self.curves, True, resumed)  # type: ignore[arg-type]

    def train(self, name: str, points: list[Point]) -> None:
        """Let a trial send points and report its evaluation."""
        self.journal.record_begin(name, int(name[1:]), {"objective.alpha": 0.25}, f"tune-{name}")
        for point in points:
            self.curves.add(name, point)
            self.runs.wait(name)
        self.journal.record_result(
            name,
            {
                "evaluation": 1, "trained_steps": 2, "total_steps": 2, "score": 0.5, "nll": 0.6, "objective": 0.5,
                "trained_s": 1.0,
            },
        )  # fmt: skip


@pytest.fixture
def parent(mlflow_uri: str, tmp_path: Path) -> Iterator[Tracker]:
    tracker = Tracker.start(mlflow_uri, "sweeps", "sweep", params={}, tags={}, directory=tmp_path)
    yield tracker
    tracker.finish()


@pytest.fixture
def read(mlflow_uri: str, parent: Tracker) -> Callable[[], dict[str, list[Any]]]:
    """Returns what MLflow holds of each trial: its runs by name, without ids, times and signs of life."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_uri)

    def read_runs() -> dict[str, list[Any]]:
        below = f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
        found: dict[str, list[Any]] = {}
        for run in client.search_runs([parent.experiment_id], below):
            curves = {
                key: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            }
            tags = {k: v for k, v in run.data.tags.items() if k.startswith("raykd.")}
            assert tags.pop("raykd.heartbeat").isdigit()
            best = {key: curves.pop(key)[0][2] for key in ("objective", "best_step") if key in curves}
            found.setdefault(run.info.run_name, []).append(
                (run.info.status, run.data.params, tags, curves, best)
            )
        return found

    return read_runs


def test_a_run_recorded_at_its_end_is_the_one_recorded_while_it_goes_on(
    parent: Tracker, read: Callable[[], dict[str, list[Any]]], tmp_path: Path
) -> None:
    sweep = Sweep(parent, tmp_path)
    for name, status in (("t0", "finished"), ("t1", "finished"), ("t2", "stopped"), ("t3", "stopped")):
        sweep.train(name, CURVE)
        if name in ("t0", "t2"):
            sweep.runs.open_run(name)
        sweep.runs.end(name, status)
    found = read()
    assert found["t0"] == found["t1"] and found["t2"] == found["t3"]
    ((status, params, tags, curves, best),) = found["t1"]
    assert (status, params) == ("FINISHED", {"objective.alpha": "0.25"})
    assert tags == {"raykd.role": "trial", "raykd.trial": "finished"}
    assert curves["train/loss"] == [(1, 1_000, 0.7)] and best == {"objective": 0.5, "best_step": 2.0}
    assert not sweep.runs.waiting and not sweep.runs.open
    assert sweep.folder.state["ended"] == ["t0", "t1", "t2", "t3"]


def test_a_run_recorded_at_its_end_takes_three_calls(
    parent: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    calls: list[str] = []
    for name in (n for n in vars(MlflowClient) if not n.startswith("_")):
        real = getattr(MlflowClient, name)

        def call(*arguments: Any, _name: str = name, _real: Any = real, **named: Any) -> Any:
            calls.append(_name)
            return _real(*arguments, **named)

        monkeypatch.setattr(MlflowClient, name, call)
    sweep = Sweep(parent, tmp_path)
    sweep.train("t0", CURVE)
    sweep.runs.end("t0", "finished")
    assert calls == ["create_run", "log_batch", "set_terminated"]


def test_a_point_after_the_end_goes_into_the_same_run(
    parent: Tracker, read: Callable[[], dict[str, list[Any]]], tmp_path: Path
) -> None:
    sweep = Sweep(parent, tmp_path)
    sweep.train("t0", CURVE)
    sweep.runs.end("t0", "finished")
    sweep.curves.add("t0", Point(3, {"train/loss": 0.6}, 3_000))
    sweep.runs.wait("t0")
    sweep.runs.end("t0", "finished")
    ((status, _, _, curves, _),) = read()["t0"]
    assert status == "FINISHED"
    assert curves["train/loss"] == [(1, 1_000, 0.7), (3, 3_000, 0.6)]


def test_what_mlflow_refuses_of_a_run_costs_that_value_alone(
    parent: Tracker, read: Callable[[], dict[str, list[Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    sweep, real = Sweep(parent, tmp_path), MlflowClient.log_batch
    refused: list[bool] = []

    def refuse_once(*arguments: Any, **named: Any) -> Any:
        if not refused:
            refused.append(True)
            raise MlflowException("no")
        return real(*arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", refuse_once)
    sweep.train("t0", CURVE)
    sweep.runs.end("t0", "finished")
    ((status, params, _, curves, best),) = read()["t0"]  # one run, which the second attempt went on with
    assert status == "FINISHED" and params
    assert curves["train/loss"] == [(1, 1_000, 0.7)] and best["objective"] == 0.5


def test_a_long_trial_and_one_of_an_earlier_start_are_recorded_while_they_go_on(
    parent: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = Sweep(parent, tmp_path)
    now = [100.0]
    monkeypatch.setattr(trial_runs.time, "monotonic", lambda: now[0])
    sweep.train("t0", CURVE)
    assert sweep.runs.list_due() == []
    now[0] += trial_runs.LIVE_AFTER_S
    assert sweep.runs.list_due() == ["t0"]
    again = Sweep(parent, tmp_path, resumed=True)
    again.runs.wait("t0")
    assert again.runs.list_due() == ["t0"]
