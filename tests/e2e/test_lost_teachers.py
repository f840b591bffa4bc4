"""Teachers whose processes are killed in the middle of a run."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raykd.errors import TeacherError
from raykd.runs.train import run_training
from raykd.scoring.outcome import Outcome
from tests.e2e.conftest import World, still_held, wait_until

pytestmark = pytest.mark.timeout(600)
AT_STEP = 3
LEFT = ("teacher/", "train/wait_s")
"""What says how teachers answered, which a fault changes."""


def curve(folder: Path) -> dict[int, dict[str, float]]:
    """The student's curve."""
    lines = (folder / "curves.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["job"] == "student":
            found.setdefault(int(row["step"]), {}).update(row["values"])
    return found


def reached(folder: Path, step: int) -> bool:
    """Whether the student is so far."""
    return (folder / "curves.jsonl").exists() and max(curve(folder), default=0) >= step


def processes() -> list[int]:
    """Teachers' processes."""
    import ray

    rows = ray._private.state.actors().values()
    ours = [a for a in rows if a["ActorClassName"] == "TeacherActor" and a["State"] == "ALIVE"]
    return [int(a["Pid"]) for a in ours]


class Killer(threading.Thread):
    """Kills a process of a teacher once the student has done some steps."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self.killed = folder, 0

    def run(self) -> None:
        if wait_until(lambda: reached(self._folder, AT_STEP), 120.0):
            self.killed = processes()[0]
            os.kill(self.killed, signal.SIGKILL)


def ran(world: World, name: str, **changes: Any) -> Outcome:
    """A run of which a teacher process is killed on the way; answers are not kept, so each step asks for its own."""
    serving = {"store": None, "prefetch": 1, **changes.pop("serving", {})}
    killer = Killer(world.run(name))
    killer.start()
    try:
        return run_training(world.config(name, baseline=False, serving=serving, **changes))
    finally:
        assert killer.killed


def test_a_teacher_killed_on_the_way_changes_nothing_that_the_student_learns(
    first: Outcome, world: World
) -> None:
    """The run that nobody was killed in read its answers from the store."""
    outcome = ran(world, "killed")
    clean, found = curve(world.run("first")), curve(world.run("killed"))
    assert list(found) == list(clean) and len(clean) == 60
    for step, values in clean.items():
        for name, value in values.items():
            if not name.startswith(LEFT):
                assert found[step][name] == pytest.approx(value, abs=1e-6), (step, name)
    report = json.loads((world.run("killed") / "report.json").read_text(encoding="utf-8"))
    assert report["facts"]["teacher en restarts"] == report["facts"]["teacher multi restarts"] == "1"
    assert recorded(outcome).data.metrics["teacher_restarts"] == 1.0  # one process of two teachers
    assert still_held() == []


def recorded(outcome: Outcome) -> Any:
    """The MLflow run."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{outcome.report.parent.parent / 'mlflow.db'}"
    return MlflowClient(uri).get_run(outcome.mlflow_run_id)


ALONE = {"actor": {"num_cpus": 0.5}, "on_poor": "warn"}
"""Each teacher in a process of its own."""


def test_without_a_lost_teacher_the_others_teach_alone_and_all_records_say_so(
    first: Outcome, world: World
) -> None:
    """Two teachers of all languages, so that it does not matter which of the two processes is killed."""
    trained = {path.name.split("-")[0]: path for path in (world.folder / "runs" / "teachers").glob("*-*")}
    teachers = [{"name": n, "languages": "all", "path": str(trained[n])} for n in ("en", "multi")]
    serving = {"max_restarts": 0, "on_teacher_loss": "drop_and_renormalise"}
    outcome = ran(world, "dropped", serving=serving, teachers=teachers, teacher_defaults=ALONE)
    run = recorded(outcome)
    lost = run.data.tags["raykd.lost_teachers"]
    (left,) = {"en", "multi"} - {lost}
    found = curve(world.run("dropped"))
    last = found[max(found)]
    assert last[f"teacher/{lost}/lost"] == 1.0 and last[f"teacher/{lost}/weight"] == 0.0
    assert last[f"teacher/{left}/weight"] == 1.0 and last["train/uncovered"] == 0.0
    since = min(step for step, values in found.items() if f"teacher/{lost}/lost" in values)
    assert since > AT_STEP
    for step in range(1, since):
        assert found[step][f"teacher/{left}/weight"] == pytest.approx(0.5)
    assert all(np.isfinite(values["train/loss"]) for values in found.values() if "train/loss" in values)
    note = f"teacher {lost} was lost by step {since}"
    assert any(note in said for said in outcome.notes)
    assert note in (world.run("dropped") / "report.html").read_text(encoding="utf-8")
    assert note in (world.run("dropped") / "results.md").read_text(encoding="utf-8")
    assert [p.name for p, _ in outcome.table.systems if p.role == "teacher"] == [left]
    assert run.data.metrics[f"teacher/{lost}/lost"] == 1.0 and run.info.status == "FINISHED"
    assert still_held() == []


@pytest.mark.nightly
def test_a_lost_teacher_ends_the_run_unless_it_may_go_on(first: Outcome, world: World) -> None:
    with pytest.raises(TeacherError, match=r"teacher (en|multi) is gone") as caught:
        ran(
            world, "lost", serving={"max_restarts": 0}, teacher_defaults=ALONE,
            train={"steps": 60, "batch_size": 16, "learning_rate": 0.01, "evaluations": 12, "max_failures": 0},
        )  # fmt: skip
    assert caught.value.exit_code == 5
    for part in ("--resume", "serving.on_teacher_loss=drop_and_renormalise"):
        assert part in str(caught.value)
    assert world.state("lost")["status"] == "failed"
    assert still_held() == []
