"""A small world in a folder: a run, a sweep, a Ray cluster of two nodes, and the commands started on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LABELS = ("negative", "positive")
STEPS = 390
"""Curves have a point a step up to 399 steps."""
_SMALL = {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 400, "dropout": 0.0}


def _teacher(name: str, model: dict[str, Any]) -> dict[str, Any]:
    train = {"steps": 40, "batch_size": 16, "learning_rate": 0.03, "evaluations": 2}
    return {"name": name, "languages": "all", "training": {"model": model, "train": train}}


def run_tree(output: Path, **changes: Any) -> dict[str, Any]:
    """A run with two teachers in processes of their own; nothing is stored, so that every step asks them."""
    data = {
        "labels": list(LABELS),
        "languages": ["en", "fr"],
        "train": {"kind": "embedded", "split": "train", "rows_per_language": 200},
        "validation": {"kind": "embedded", "split": "validation", "rows_per_language": 40},
        "test": {"kind": "embedded", "split": "test", "rows_per_language": 40},
    }
    return {
        "name": "unbroken",
        "output": str(output),
        "task": {"kind": "classification", "max_length": 32},
        "data": data,
        "student": {**_SMALL, "dropout": 0.1},
        "teacher_defaults": {"actor": {"num_cpus": 0.5}, "on_poor": "warn"},
        "teachers": [_teacher("one", {"kind": "linear"}), _teacher("two", _SMALL)],
        "serving": {"store": None, "timeout_s": 30.0, "max_restarts": 8},
        "objective": {"alpha": 0.3, "temperature": 2.0, "weighting": {"kind": "uniform"}},
        "train": {
            "steps": STEPS, "batch_size": 16, "learning_rate": 0.01, "evaluations": 13, "max_failures": 8,
        },
        "tracking": {"log_model": False},
        **changes,
    }  # fmt: skip


def sweep_tree(output: Path) -> dict[str, Any]:
    """A sweep of the same run, one trial after another, whose decisions follow from its file alone."""
    train = {"steps": 96, "batch_size": 16, "learning_rate": 0.01, "evaluations": 8}
    return {
        "name": "unbroken-sweep",
        "base": run_tree(output, name="base", train=train, serving={"store": "store", "timeout_s": 30.0}),
        "space": {"objective": {"alpha": {"uniform": [0.0, 0.9]}, "temperature": {"choice": [1.0, 4.0]}}},
        "num_samples": 5,
        "max_concurrent_trials": 1,
        "max_failures": 4,
        "checkpoint_s": 0,
        "scheduler": {"kind": "median", "grace": 3, "min_trials": 1},
    }


@dataclass
class World:
    """Files and a cluster; ``folder/runs`` is where everything is written."""

    folder: Path
    cluster: Any = None
    node: Any = None
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, tree in (("run", run_tree(self.runs)), ("space", sweep_tree(self.runs))):
            (self.folder / f"{name}.yaml").write_text(json.dumps(tree), encoding="utf-8")

    @property
    def runs(self) -> Path:
        """Output folder."""
        return self.folder / "runs"

    @property
    def database(self) -> Path:
        """MLflow's."""
        return self.runs / "mlflow.db"

    def open(self) -> None:
        """A head that runs nothing, and a node with the CPUs."""
        import ray
        from ray.cluster_utils import Cluster

        from raykd.cluster.startup import PROCESS_ENVIRONMENT

        os.environ.update(PROCESS_ENVIRONMENT)
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.node = self.cluster.add_node(num_cpus=4)
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="error", namespace="raykd")
        self.cluster.wait_for_nodes()

    def replace_node(self) -> None:
        """Kills the node with all that runs on it, and starts another."""
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.node = self.cluster.add_node(num_cpus=4)

    def close(self) -> None:
        """Ends everything that was started."""
        import ray

        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
        ray.shutdown()
        if self.cluster is not None:
            self.cluster.shutdown()

    def start(self, kind: str, name: str, resume: bool) -> subprocess.Popen[str]:
        """`raykd train` or `raykd sweep` on the cluster."""
        file = str(self.folder / ("run.yaml" if kind == "train" else "space.yaml"))
        arguments = [kind, file, f"name={name}", *(["--resume"] if resume else [])]
        if kind == "sweep" and resume:
            arguments = [kind, "--resume", str(self.runs / name)]
        process = subprocess.Popen(
            [sys.executable, "-m", "raykd.cli", *arguments],
            cwd=self.folder,
            env={**os.environ, "RAY_ADDRESS": self.cluster.address, "PYTHONPATH": os.getcwd()},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.started.append(process)
        return process

    def actors(self, kind: str) -> list[int]:
        """Process ids of the living actors of a class."""
        import ray

        return [
            int(a["Pid"])
            for a in ray._private.state.actors().values()
            if a["ActorClassName"].endswith(kind) and a["State"] == "ALIVE"
        ]

    def lines(self, kind: str, name: str) -> list[dict[str, Any]]:
        """Whole lines of a run's curves or a sweep's journal."""
        path = self.runs / name / ("curves.jsonl" if kind == "train" else "trials.jsonl")
        found = []
        for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def progress(self, kind: str, name: str) -> int:
        """Training steps of the student, or evaluations of all trials, that the driver has heard of."""
        if kind == "train":
            return max((int(r["step"]) for r in self.lines(kind, name) if r["job"] == "student"), default=0)
        return sum(row["event"] == "result" for row in self.lines(kind, name))

    def end(self, kind: str) -> int:
        """Progress of a whole one, at least."""
        return STEPS if kind == "train" else 25
