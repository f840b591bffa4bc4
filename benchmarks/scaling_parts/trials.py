"""Sweeps of many small trials: what each of them costs the driver."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from raykd.driver.command import Start
from raykd.tuning.config import load_sweep
from raykd.tuning.run import run_sweep

BASE = {
    "name": "small",
    "task": {"kind": "classification", "max_length": 32},
    "data": {
        "labels": ["negative", "positive"],
        "languages": ["en"],
        "train": {"kind": "embedded", "split": "train", "rows_per_language": 64},
        "validation": {"kind": "embedded", "split": "validation", "rows_per_language": 40},
    },
    "student": {"kind": "linear"},
    "objective": {"alpha": 1.0},
    "train": {"steps": 8, "batch_size": 16, "evaluations": 2, "learning_rate": 0.02},
}


@dataclass(frozen=True)
class Cost:
    """Of a sweep of so many trials: its time, and what its driver needed.

    wall_s: end to end. cpu_s: of the driver's process. resident: bytes that it grew by. journal: bytes on disk.
    database: bytes of MLflow's. files: left in the sweep's folder.
    """

    trials: int
    wall_s: float
    cpu_s: float
    resident: int
    journal: int
    database: int
    files: int


def resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(folder: Path, trials: int, concurrent: int) -> Cost:
    """One sweep without teachers, in a folder of its own, on the Ray that this process is connected to."""
    output = folder / f"of-{trials}"
    output.mkdir(parents=True)
    path = output / "space.yaml"
    tree = {
        "name": "many",
        "base": {**BASE, "output": str(output / "runs"), "ray": {"num_cpus": 4}},
        "space": {"train": {"learning_rate": {"log_uniform": [0.002, 0.05]}}},
        "num_samples": trials,
        "max_concurrent_trials": min(trials, concurrent),
        "scheduler": {"kind": "fifo"},
    }
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    before, cpu, begun = resident(), time.process_time(), time.perf_counter()
    outcome = run_sweep(load_sweep(path), Start(console=Console(quiet=True)))
    assert len(outcome.report.trials) == trials and outcome.failed == 0
    del outcome
    made = output / "runs" / "many"
    return Cost(
        trials=trials,
        wall_s=time.perf_counter() - begun,
        cpu_s=time.process_time() - cpu,
        resident=resident() - before,
        journal=(made / "trials.jsonl").stat().st_size,
        database=(output / "runs" / "mlflow.db").stat().st_size,
        files=sum(1 for found in made.rglob("*") if found.is_file()),
    )


def slope(costs: list[Cost], of: str) -> float:
    """What one more trial adds, by least squares over all sweeps."""
    import numpy as np

    return float(np.polyfit([c.trials for c in costs], [float(getattr(c, of)) for c in costs], 1)[0])
