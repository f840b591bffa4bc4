"""The public functions from a script outside the repository, and inside a program that has its own Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import raykd
from raykd.errors import ConfigError
from tests.e2e.conftest import World, still_held

SCRIPT = """\
import raykd

for seed in (1, 2):
    run = raykd.train("run.yaml", name=f"script-{seed}", seed=seed, train={"steps": 8, "evaluations": 2})
    print("accuracy", run.metrics["test/mean/accuracy"], run.mlflow_run_id)
    for row in raykd.load(run.student).predict(["the room was good", "the food was awful"]):
        print(row["label"], row["text"])
"""


def small(world: World, name: str, **changes: Any) -> dict[str, Any]:
    return world.tree(
        name, baseline=False, train={"steps": 4, "batch_size": 16, "learning_rate": 0.01}, **changes
    )


@pytest.fixture
def own_folder(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the repository, from which the world's files are found."""
    for file in world.folder.glob("*.jsonl"):
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_script_trains_and_predicts_twice_in_one_process(
    world: World, ray_cluster: None, own_folder: Path
) -> None:
    import ray

    (own_folder / "run.yaml").write_text(json.dumps(small(world, "script")), encoding="utf-8")
    (own_folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=own_folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert sum(line.startswith("accuracy ") for line in lines) == 2
    assert sum(line.endswith(" the room was good") for line in lines) == 2
    assert {path.name for path in (world.folder / "runs").glob("script-*")} == {"script-1", "script-2"}
    assert still_held() == []


def test_a_program_keeps_its_ray_and_its_signal_handlers(
    world: World, ray_cluster: None, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers], signal.set_wakeup_fd(-1)
    address = ray.get_runtime_context().gcs_address
    run = raykd.train(small(world, "inside"), progress=False)
    assert capsys.readouterr().out == ""
    assert ([signal.getsignal(number) for number in numbers], signal.set_wakeup_fd(-1)) == before
    assert ray.is_initialized() and ray.get_runtime_context().gcs_address == address
    assert run.student.is_dir() and run.report.is_file() and 0.0 <= run.metrics["test/mean/accuracy"] <= 1.0
    assert run.load().labels == ("negative", "positive")
    again = raykd.train(small(world, "inside"), resume=True, progress=False)
    assert again == run and again == raykd.Run.read(run.folder)  # finished: nothing is trained
    with pytest.raises(ConfigError, match="exists already"):
        raykd.train(small(world, "inside"), progress=False)
    assert still_held() == []


def test_a_sweep_gives_a_best_run_that_can_be_trained(
    world: World, ray_cluster: None, own_folder: Path
) -> None:
    base = small(world, "base")
    result = raykd.sweep(
        {"name": "api-sweep", "base": base, "space": {"objective": {"alpha": {"grid": [0.2, 0.8]}}}},
        search={"kind": "grid"},
        scheduler={"kind": "fifo"},
        progress=False,
    )
    assert result.failed == 0 and [row["status"] for row in result.table] == ["finished", "finished"]
    assert result.best is not None and result.score == result.table[0]["score"]
    alpha = result.best.model_dump(mode="json")["objective"]["alpha"]
    assert alpha["value"] == result.table[0]["objective.alpha"]
    findings = raykd.check(result.best)
    assert [f.error for f in findings if f.error is not None] == []
