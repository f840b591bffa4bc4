"""A project with a killed run, a finished run and half a sweep goes on after it was moved, from any folder."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.commands import started_commands
from tests.fakes import LABELS, texts_and_labels

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]
LONGEST_S = 300.0
LONG = ["train.steps=1500", "train.evaluations=15"]


def write_project(folder: Path) -> None:
    """Rows, a run whose teacher is trained first, and a space, all by relative paths."""
    folder.mkdir()
    for name, count, seed in (("train", 200, 1), ("validation", 60, 2), ("test", 60, 3)):
        texts, labels = texts_and_labels(count, seed)
        rows = [{"text": t, "label": LABELS[y], "lang": "en"} for t, y in zip(texts, labels, strict=True)]
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    linear = {"kind": "linear", "buckets": 512}
    short = {"steps": 20, "batch_size": 16, "evaluations": 2, "learning_rate": 0.05}
    run = {
        "name": "whole",
        "data": {
            **{part: {"kind": "files", "paths": [f"{part}.jsonl"]} for part in ("train", "validation", "test")},
            "labels": list(LABELS), "languages": ["en"],
        },
        "student": linear,
        "teacher_defaults": {"actor": {"num_cpus": 0.25}, "on_poor": "warn"},
        "teachers": [{"name": "t", "languages": "all", "training": {"model": linear, "train": short}}],
        "objective": {"alpha": 0.3, "temperature": 2.0},
        "train": {**short, "steps": 40},
        "ray": {"num_cpus": 2},
    }  # fmt: skip
    space = {
        "name": "sw", "base": "run.yaml", "num_samples": 6, "max_concurrent_trials": 1,
        "set": {"train": {"steps": 60}}, "scheduler": {"kind": "fifo"}, "search": {"kind": "random"},
        "space": {"objective": {"alpha": {"uniform": [0.0, 0.9]}}},
    }  # fmt: skip
    for name, tree in (("run", run), ("space", space)):
        (folder / f"{name}.yaml").write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML


@pytest.fixture
def raykd() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command line in a folder, with a Ray of its own."""
    logs = itertools.count()
    environment = {
        key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    }

    with started_commands(environment) as start:

        def logged(folder: Path, *arguments: str) -> subprocess.Popen[str]:
            log = folder.parent / f"log-{next(logs)}"
            with log.open("w", encoding="utf-8") as stream:
                process = start(folder, *arguments, stdout=stream, stderr=subprocess.STDOUT)
            process.log = log  # type: ignore[attr-defined]
            return process

        yield logged


def done(process: Any) -> str:
    """What a command printed that ended well."""
    process.wait(timeout=LONGEST_S)
    said: str = process.log.read_text(encoding="utf-8")
    assert process.returncode == 0 and "Traceback" not in said, said
    return said


def kill_when(process: Any, ready: Callable[[], bool]) -> None:
    """Ends a command by SIGKILL in the midst of its work."""
    until = time.monotonic() + LONGEST_S
    while not ready():
        assert process.poll() is None and time.monotonic() < until, process.log.read_text(encoding="utf-8")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def counted(project: Path, name: str) -> dict[str, float]:
    """The teacher's counters in MLflow, and the passes of a sweep, as the last of the run's values say."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/runs/mlflow.db")
    state = json.loads((project / "runs" / name / "run.json").read_text(encoding="utf-8"))
    run = client.get_run(state["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert [a.path for a in client.list_artifacts(run.info.run_id)], "its artifacts are found"
    return {
        key: value for key, value in run.data.metrics.items()
        if key.endswith(("rows_answered", "rows_forwarded", "teacher_passes"))
    }  # fmt: skip


def test_all_of_a_moved_project_goes_on(tmp_path: Path, raykd: Callable[..., Any]) -> None:
    project, reference = tmp_path / "project", tmp_path / "reference" / "project"
    reference.parent.mkdir()
    for folder in (project, reference):
        write_project(folder)
    sweeping = raykd(project, "sweep", "space.yaml")
    kill_when(sweeping, lambda: "t0002 finished" in sweeping.log.read_text(encoding="utf-8"))
    done(raykd(project, "train", "run.yaml"))
    killed = project / "runs" / "killed"
    kill_when(
        raykd(project, "train", "run.yaml", "name=killed", *LONG),
        lambda: len(list(killed.glob("ray/student-*/checkpoint_*/manifest-0.json"))) >= 2,
    )
    before = (project / "runs" / "sw" / "trials.jsonl").read_text(encoding="utf-8")

    moved = tmp_path / "elsewhere" / "project"
    moved.parent.mkdir()
    shutil.move(project, moved)
    (tmp_path / "far").mkdir()
    assert "finished already" in done(raykd(moved, "train", "run.yaml", "--resume"))
    said = done(raykd(tmp_path / "far", "train", "../elsewhere/project/runs/killed", "--resume"))
    assert "it lay in" in said and "kept from an earlier run" in said
    said = done(raykd(tmp_path / "far", "sweep", "--resume", "../elsewhere/project/runs/sw"))
    assert "going on" in said and "t0005 finished" in said and "t0000 finished" not in said
    assert not project.exists() and not list((tmp_path / "far").iterdir())
    assert (
        (moved / "runs" / "sw" / "trials.jsonl")
        .read_text(encoding="utf-8")
        .startswith(before.rpartition("\n")[0])
    )
    assert str(project) not in (moved / "runs" / "sw" / "best.yaml").read_text(encoding="utf-8")

    done(raykd(reference, "sweep", "space.yaml"))
    done(raykd(reference, "train", "run.yaml"))
    done(raykd(reference, "train", "run.yaml", "name=killed", *LONG))
    weights, same = (
        load_file(at / "runs" / "killed" / "student" / "model.safetensors") for at in (moved, reference)
    )
    assert weights.keys() == same.keys() and all(weights[key].equal(same[key]) for key in weights)
    unbroken = {
        "teacher/t/rows_answered": 260.0,
        "teacher/t/rows_forwarded": 260.0,
        "sweep/teacher_passes": 1.0,
    }
    assert counted(moved, "sw") == counted(reference, "sw") == unbroken, "training and validation rows, once"
    for name in ("whole", "killed"):
        assert counted(moved, name) == counted(reference, name)
