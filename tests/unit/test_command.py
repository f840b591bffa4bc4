"""The driver of train, sweep and compare: the order of its steps, and what is left however a command ends."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from raykd.driver import command as driver
from raykd.driver.command import Command, FolderContents, Start, TrackedRun, run_command
from raykd.errors import ConfigError, DataError
from raykd.experiments.arms import Arm, ExperimentPlan
from raykd.experiments.run import CompareCommand
from raykd.folders.folder import find_run_path
from raykd.folders.lock import is_held, lock_folder
from raykd.runs.train import TrainCommand
from raykd.tuning.config import load_sweep
from raykd.tuning.run import SweepCommand
from tests.worlds import run_config


@dataclass(frozen=True)
class Made:
    """A result."""

    lines: tuple[str, ...] = ("report   page",)


class Noting(Command[Made]):
    """Writes down what it is asked to do; fails where it is told to."""

    def __init__(self, output: Path, fails: dict[str, BaseException] | None = None) -> None:
        self.base = run_config().model_copy(update={"output": str(output)})
        self.owner, self.fails = self.base, fails or {}
        self.done: list[str] = []

    def note(self, what: str) -> None:
        self.done.append(what)
        if what in self.fails:
            raise self.fails[what]

    def check(self) -> Sequence[str]:
        self.note("check")
        return ["mind the step"]

    def prepare(self, earlier: Any) -> FolderContents:
        self.note("prepare")
        return FolderContents({"data": "rows"}, {"run.yaml": json.dumps(self.base.model_dump(mode="json"))})

    def introduce(self, folder: Any, console: Console) -> None:
        self.note("introduce")
        console.print("what is done")

    def record(self) -> TrackedRun:
        return TrackedRun("name", {}, {})

    def run(self, session: Any) -> Made:
        session.folder.write_state(mlflow_run_id="abc")
        logging.getLogger("raykd.runs").info("in the log")
        self.note("run")
        return Made()


class NoSession:
    """Stands for Ray and MLflow; keeps how it was ended."""

    ends: list[BaseException | None]

    def __init__(self, config: Any, folder: Any, console: Any, start: Any) -> None:
        self.folder, self.console = folder, console

    def end(self, error: BaseException | None = None) -> None:
        NoSession.ends.append(error)


@pytest.fixture(autouse=True)
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    NoSession.ends = []
    monkeypatch.setattr(driver, "Session", NoSession)


def ran(command: Noting, **flags: bool) -> tuple[Made, str]:
    text = io.StringIO()
    start = Start(console=Console(file=text, width=100), **flags)
    return run_command(command, start), text.getvalue()


def state(command: Noting) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (find_run_path(command.owner) / "run.json").read_text(encoding="utf-8")
    )
    return found


def test_a_command_checks_prepares_introduces_and_runs_in_a_folder_that_is_its_own(tmp_path: Path) -> None:
    command = Noting(tmp_path)
    made, text = ran(command)
    assert command.done == ["check", "prepare", "introduce", "run"]
    assert text.index("mind the step") < text.index("what is done")
    assert state(command)["status"] == "finished" and state(command)["lines"] == list(made.lines)
    assert NoSession.ends == [None] and not is_held(find_run_path(command.owner))
    assert "in the log" in (find_run_path(command.owner) / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "status"), [(DataError("wrong"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_the_folder_and_the_session_say_how_a_command_ended(
    tmp_path: Path, error: BaseException, status: str
) -> None:
    command = Noting(tmp_path, {"run": error})
    with pytest.raises(type(error)):
        ran(command)
    assert state(command)["status"] == status and NoSession.ends == [error]
    again = Noting(tmp_path)
    with pytest.raises(ConfigError, match="exists already"):
        ran(again)
    assert again.done == ["check"], "rows are not read for a folder that is refused"
    ran(Noting(tmp_path), resume=True)
    assert state(command)["status"] == "finished"


@pytest.mark.parametrize("step", ["check", "prepare", "introduce"])
def test_what_fails_before_anything_is_recorded_leaves_no_folder(tmp_path: Path, step: str) -> None:
    command = Noting(tmp_path, {step: DataError("wrong")})
    with pytest.raises(DataError):
        ran(command)
    assert not find_run_path(command.owner).exists() and NoSession.ends == []


def test_a_folder_that_another_driver_holds_is_refused(tmp_path: Path) -> None:
    command = Noting(tmp_path)
    with (
        lock_folder(find_run_path(command.owner)),
        pytest.raises(ConfigError, match="another raykd works in"),
    ):
        ran(command)
    assert command.done == ["check"]


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("kind", ["train", "sweep", "compare"])
def test_every_command_starts_mlflow_as_tracking_required_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, required: bool
) -> None:
    base = {**run_config().model_dump(mode="json"), "tracking": {"required": required}}
    space = {"name": "s", "base": base, "space": {"objective": {"alpha": {"uniform": [0.1, 0.9]}}}}
    (tmp_path / "space.yaml").write_text(json.dumps(space), encoding="utf-8")
    plan = load_sweep(tmp_path / "space.yaml")
    command: Command[Any] = {
        "train": TrainCommand(plan.base),
        "sweep": SweepCommand(plan),
        "compare": CompareCommand(
            ExperimentPlan("x", str(tmp_path), plan.base, (Arm("a", plan.base),), (1, 2))
        ),
    }[kind]
    started: dict[str, Any] = {}
    monkeypatch.setattr(driver.Tracker, "start", lambda *args, **kwargs: started.update(kwargs))
    folder: Any = SimpleNamespace(state={}, path=tmp_path)
    driver._start_tracker(command, folder)
    assert started["required"] is required
