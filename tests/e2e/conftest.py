"""One tiny world, one Ray cluster, one MLflow server and one finished run for all end-to-end tests.

A worker group and a server take many seconds to start, so tests share them; the server starts first and is waited
for last.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raykd.config.loading import resolve_paths, validate_run
from raykd.runs.train import run_training
from raykd.scoring.outcome import Outcome
from raykd.tuning.outcome import SweepOutcome
from tests.commands import started_commands
from tests.e2e.sweeps import STEADY, Sweeps
from tests.fakes import LABELS, texts_and_labels

STILL = {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 120, "dropout": 0.0}
"""A student without dropout: the number of ranks changes nothing."""
MEDIAN = {"kind": "median", "grace": 5, "min_trials": 1}
CANARY = "c4naryB1rd77inACage"
"""A secret in the environment of all processes of the end-to-end tests, the cluster's included."""
os.environ.update({"AWS_SECRET_ACCESS_KEY": CANARY, "MY_SERVICE_API_KEY": CANARY})
ROWS = {"train": 160, "validation": 60, "test": 80}
LANGUAGES = ("en", "fr")


@dataclass(frozen=True)
class World:
    """A folder with rows in two languages; runs of it lie in ``folder/runs``."""

    folder: Path

    def tree(self, name: str, **changes: Any) -> dict[str, Any]:
        """The YAML of a run with two teachers, a baseline and a student."""
        sources = {
            split: {"kind": "files", "paths": [f"{lang}-{split}.jsonl" for lang in LANGUAGES]}
            for split in ROWS
        }
        small = {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 120}
        short = {"steps": 20, "batch_size": 16, "learning_rate": 0.03, "evaluations": 2}
        base = {
            "name": name,
            "output": str(self.folder / "runs"),
            "task": {"kind": "classification", "max_length": 32},
            "data": {
                **sources,
                "labels": list(LABELS),
                "languages": list(LANGUAGES),
                "labelled_per_language": 40,
            },
            "student": {**small, "dropout": 0.1},
            "baseline": True,
            # The second teacher learns little in so few steps, and has to teach all the same.
            "teacher_defaults": {"actor": {"num_cpus": 0.5, "group": "teachers"}, "on_poor": "warn"},
            "teachers": [
                {
                    "name": "en",
                    "languages": ["en"],
                    "training": {"model": {"kind": "linear"}, "train": short},
                },
                {"name": "multi", "languages": "all", "training": {"model": small, "train": short}},
            ],
            "objective": {"alpha": 0.3, "temperature": 2.0},
            "train": {"steps": 60, "batch_size": 16, "learning_rate": 0.01, "evaluations": 12},
        }
        return {**base, **changes}

    def config(self, name: str, **changes: Any) -> Any:
        """The same as a RunConfig."""
        return resolve_paths(validate_run(self.tree(name, **changes), "test"), self.folder)

    def write(self, name: str, **changes: Any) -> Path:
        """The same as a file for the command line."""
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(self.tree(name, **changes)), encoding="utf-8")  # JSON is YAML
        return path

    def run(self, name: str) -> Path:
        """A run's folder."""
        return self.folder / "runs" / name

    def state(self, name: str) -> dict[str, Any]:
        """What a run's folder says of the run."""
        state: dict[str, Any] = json.loads((self.run(name) / "run.json").read_text(encoding="utf-8"))
        return state

    def checkpoints(self, name: str) -> set[str]:
        """The student's checkpoints that are there now."""
        return {
            path.name for path in (self.run(name) / "ray").glob("student-*/checkpoint_*") if path.is_dir()
        }


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    for at, lang in enumerate(LANGUAGES):
        for split, count in ROWS.items():
            texts, labels = texts_and_labels(count, seed=10 * at + len(split))
            rows = [{"text": t, "label": LABELS[y], "lang": lang} for t, y in zip(texts, labels, strict=True)]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{lang}-{split}.jsonl").write_text(lines, encoding="utf-8")
    return World(folder)


@dataclass(frozen=True)
class Server:
    """A real MLflow server on this machine."""

    uri: str
    process: subprocess.Popen[bytes]

    def wait(self) -> str:
        """Blocks until it answers."""
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return self.uri
            except OSError:
                assert self.process.poll() is None, "the MLflow server ended"
                time.sleep(0.5)
        raise TimeoutError(self.uri)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Its job runner is eight processes that nothing here asks for.
            env={
                **os.environ,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
        )
        yield Server(f"http://127.0.0.1:{port}", process)
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="session")
def first(world: World, server: Server, ray_cluster: None) -> Outcome:
    """A whole run through real actors, Ray Train, DeepSpeed and MLflow on SQLite, never interrupted."""
    return run_training(world.config("first"))


@pytest.fixture(scope="session")
def sweeps(world: World, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Sweeps:
    """Sweeps of the world, with a store of their own."""
    return Sweeps(world, tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="session")
def asha(sweeps: Sweeps) -> SweepOutcome:
    """The first sweep over the world: its teachers have answered nothing yet."""
    return sweeps.run("asha", scheduler={"kind": "asha"}, num_samples=6, max_concurrent_trials=2)


@pytest.fixture(scope="session")
def unbroken(asha: SweepOutcome, sweeps: Sweeps) -> SweepOutcome:
    """A later sweep, one trial after another, so that every decision follows from its file; never interrupted."""
    return sweeps.run("unbroken", sweeps.base(student=STILL, train=STEADY), scheduler=MEDIAN)


@pytest.fixture
def raykd(world: World, ray_cluster: None) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command line as a process on the shared cluster."""
    import ray

    address = ray.get_runtime_context().gcs_address
    with started_commands({**os.environ, "RAY_ADDRESS": address}) as start:
        yield partial(start, world.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def held() -> list[str]:
    """What runs and sweeps still have on the cluster: live actors, placement groups, CPUs.

    Ray's own helpers do not count: they hold nothing, and one of them ends only where there is a dashboard to ask.
    """
    import ray

    alive = [a for a in ray._private.state.actors().values() if a["State"] != "DEAD"]
    found = [
        f"actor {a['ActorClassName']} {a['State']}, driver {a['JobID']}, process {a['Pid']}"
        for a in alive
        if not a["ActorClassName"].startswith("_") and a["ActorClassName"] != "PlacementGroupCleaner"
    ]
    groups = ray.util.placement_group_table().values()
    found += [f"placement group {g['state']} {g['bundles']}" for g in groups if g["state"] != "REMOVED"]
    free, there = ray.available_resources().get("CPU", 0.0), ray.cluster_resources()["CPU"]
    return found if free == there else [*found, f"{there - free:g} of {there:g} CPUs"]


def still_held(seconds: float = 20.0) -> list[str]:
    """What is still held after so long; empty as soon as nothing is."""
    wait_until(lambda: not held(), seconds, pause=0.1)
    return held()


def wait_until(what: Callable[[], bool], seconds: float, pause: float = 0.02) -> bool:
    """Whether it came true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if what():
            return True
        time.sleep(pause)
    return what()
