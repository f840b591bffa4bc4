"""A run that starts a Ray of its own: told to end at some moment, or killed, it leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raykd.cluster.own_processes import find_own_processes
from tests.e2e.conftest import wait_until

pytestmark = pytest.mark.nightly
SHORT = {"epochs": 2, "batch_size": 32, "learning_rate": 0.05, "evaluations": 1}
LINEAR = {"kind": "linear", "buckets": 4096}
RUN = {
    "name": "own",
    "data": {
        "labels": ["negative", "positive"],
        "languages": ["en"],
        **{
            split: {"kind": "embedded", "split": split, "rows_per_language": 50}
            for split in ("train", "validation", "test")
        },
    },
    "student": LINEAR,
    "teachers": [{"name": "multi", "languages": "all", "actor": {"num_cpus": 0.25},
                  "training": {"model": LINEAR, "train": SHORT}}],
    "teacher_defaults": {"on_poor": "warn"},
    "objective": {"alpha": 0.3, "temperature": 2.0},
    "train": {**SHORT, "epochs": 20000, "evaluations": 400},
    "ray": {"address": "local", "num_cpus": 2},
}  # fmt: skip
STARTED_S, ENDED_S = 180.0, 15.0
"""Longest waits for the student's workers to train, and for a told process and its Ray to be gone."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_of_its_own_ray_outlives_a_run(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(json.dumps(RUN), encoding="utf-8")  # JSON is YAML
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "raykd.cli", "train", "run.yaml"], cwd=tmp_path, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        log = tmp_path / "runs" / "own" / "log.txt"
        assert wait_until(
            lambda: process.poll() is not None or (log.exists() and "workers for student" in log.read_text()),
            STARTED_S,
        )
        assert process.poll() is None, process.communicate()
        time.sleep(2.0)
        assert "raylet" in find_own_processes(process.pid).values()
        begun = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=ENDED_S)
        took = time.monotonic() - begun
        left = find_own_processes(process.pid)
    finally:
        process.kill()
    if number == signal.SIGKILL:
        assert wait_until(lambda: not find_own_processes(process.pid), ENDED_S), find_own_processes(
            process.pid
        )
        return
    assert process.returncode == 130 and took < ENDED_S and err.count("interrupted") == 1, (took, err)
    assert left == {}, left
    assert json.loads((tmp_path / "runs" / "own" / "run.json").read_text())["status"] == "interrupted"
