"""What the sweeps of the end-to-end tests share: one small run, what MLflow holds of them, what they must not leave."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from raykd.config import RunConfig
from raykd.data.load import load_data
from raykd.driver.command import Start
from raykd.driver.jobs import make_teacher_job
from raykd.driver.loop import make_task_model
from raykd.driver.pool import make_placements
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from raykd.teachers.source import LocalSource
from raykd.teachers.teacher import Teacher
from raykd.tuning.config import Sweep, load_sweep
from raykd.tuning.journal import JOURNAL, Journal
from raykd.tuning.outcome import SweepOutcome
from raykd.tuning.run import run_sweep

if TYPE_CHECKING:
    from tests.e2e.conftest import World

SHORT = {"steps": 24, "batch_size": 16, "learning_rate": 0.02, "evaluations": 4}
STEADY = {**SHORT, "steps": 48, "evaluations": 8}
"""Longer, so that a trial can be caught midway."""
KNOBS = {
    "objective": {"alpha": {"uniform": [0.0, 0.9]}, "temperature": {"choice": [1.0, 4.0]}},
    "train": {"learning_rate": {"log_uniform": [0.002, 0.05]}},
}


@dataclass(frozen=True)
class Sweeps:
    """Sweeps over the world's rows. Their teachers and what these answered lie beside the runs, in ``store``."""

    world: World
    store: Path

    def base(self, **changes: Any) -> dict[str, Any]:
        """The run that trials begin with."""
        own = {
            "baseline": False,
            "train": SHORT,
            "serving": {"store": str(self.store)},
            # As many as the cluster of the tests has; the machine may have fewer.
            "ray": {"num_cpus": 4},
        }
        return self.world.tree("base", **{**own, **changes})

    def write(self, name: str, base: Mapping[str, Any] | None = None, **keys: Any) -> Path:
        """A sweep's file."""
        tree = {
            "name": name, "base": dict(base or self.base()), "space": KNOBS, "num_samples": 4,
            "max_concurrent_trials": 1, "scheduler": {"kind": "fifo"}, **keys,
        }  # fmt: skip
        path = self.world.folder / f"{name}-space.yaml"
        path.write_text(json.dumps(tree), encoding="utf-8")
        return path

    def plan(self, name: str, base: Mapping[str, Any] | None = None, **keys: Any) -> Sweep:
        """A sweep, read."""
        return load_sweep(self.write(name, base, **keys))

    def run(self, name: str, base: Mapping[str, Any] | None = None, **keys: Any) -> SweepOutcome:
        """A sweep, run in this process."""
        return run_sweep(self.plan(name, base, **keys), Start(console=Console(quiet=True)))

    def folder(self, name: str) -> Path:
        """Where a sweep lies."""
        return self.world.folder / "runs" / name

    def journal(self, name: str) -> Journal:
        """What a sweep wrote of its trials."""
        return Journal(self.folder(name) / JOURNAL)

    def scores(self, name: str) -> dict[str, list[float]]:
        """Validation scores and NLLs of each trial, evaluation by evaluation."""
        return {
            trial.name: [v for e in trial.row().evaluations for v in (e.score, e.nll)]
            for trial in self.journal(name).trials.values()
        }

    def client(self) -> Any:
        """Of the database that all runs of the world are recorded in."""
        from mlflow import MlflowClient

        return MlflowClient(f"sqlite:///{self.world.folder}/runs/mlflow.db")

    def children(self, outcome: SweepOutcome) -> dict[str, Any]:
        """MLflow runs of the trials by name."""
        client = self.client()
        parent = client.get_run(outcome.mlflow_run_id)
        tag = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
        return {run.info.run_name: run for run in client.search_runs([parent.info.experiment_id], tag)}


def plain_loop(config: RunConfig) -> TrainingLoop:
    """The run without Ray: the same rows, teachers in this process over the same store; trained to its end."""
    data = load_data(config.data, Path.cwd())
    tokenizer = config.student.fit_tokenizer(list(data.train.texts))
    source = None
    if not config.plain:
        jobs = [make_teacher_job(config, teacher) for teacher in config.trained_teachers]
        placed = make_placements(config, {job.name: job.output for job in jobs})
        source = LocalSource([Teacher(p.spec) for p in placed], config.objective.weighting)
    prepared = prepare_rows(config, data.train, data.validation, tokenizer)
    loop = TrainingLoop(config, prepared, make_task_model(config, tokenizer), source)
    loop.run()
    return loop


def curve_of(loop: TrainingLoop, metric: str = "accuracy") -> list[float]:
    """Validation scores and NLLs of a loop, evaluation by evaluation, as `Sweeps.scores` has them."""
    return [h[f"eval/mean/{name}"] for h in loop.state.history for name in (metric, "nll")]


def shared_memory() -> set[str]:
    """Names in /dev/shm that torch, DeepSpeed, gloo, Python or raykd itself would give; Ray's own is its store."""
    ours = ("raykd", "torch", "deepspeed", "ds_", "shm_", "gloo", "psm_", "sem.", "pym-")
    return {name for name in os.listdir("/dev/shm") if name.lower().startswith(ours)}


def left_over(folder: Path) -> set[str]:
    """What a finished sweep's folder must not hold."""
    return {name for name in ("checkpoints", "tune", "spool") if (folder / name).exists()}


TRIAL, RANK = "ResourceTrainable", "Rank"
"""Classes of a trial's actors: Tune's own wrapper of rank 0, and the other ranks."""


def actors(kind: str, alive: bool = False) -> dict[str, int]:
    """Process ids of all actors of a class that there ever were, by actor id."""
    import ray

    return {
        name: int(actor["Pid"])
        for name, actor in ray._private.state.actors().items()
        if actor["ActorClassName"].endswith(kind) and (actor["State"] == "ALIVE" or not alive)
    }
