"""Student workers that are killed or frozen, and checkpoints that are broken: the run ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from raykd.checkpoint.curves import Curves
from raykd.cluster.wait import wait_for_resources
from raykd.errors import ResourceError
from raykd.runs.train import run_training
from raykd.scoring.outcome import Outcome
from tests.e2e.conftest import World, still_held, wait_until

STEPS = 60
PLAIN: dict[str, Any] = {
    "teachers": [],
    "baseline": False,
    "objective": {"alpha": 1.0},
    "ray": {"num_cpus": 4},
    "student": {
        "kind": "transformer",
        "layers": 1,
        "hidden": 16,
        "heads": 2,
        "dropout": 0.1,
        "vocab_size": 120,
    },
    "train": {"steps": STEPS, "batch_size": 16, "learning_rate": 0.002, "evaluations": 12, "zero_stage": 2},
    "workers": {"num_workers": 2},
    "tracking": {"log_model": False},
}


LONG = {**PLAIN, "train": {**PLAIN["train"], "steps": 1000, "evaluations": 4, "max_failures": 3}}
"""Long enough for a cluster to notice what became of a node."""
LONG_ALONE = {
    **LONG,
    "workers": {"num_workers": 1},
    "train": {**LONG["train"], "zero_stage": 0, "steps": 6000},
}


def worker_pids() -> list[int]:
    """Ray Train's worker processes that are alive."""
    import ray

    actors = ray._private.state.actors().values()
    return [a["Pid"] for a in actors if "RayTrainWorker" in a["ActorClassName"] and a["State"] == "ALIVE"]


def checkpoints(world: World, name: str) -> list[Path]:
    return sorted(path for path in world.run(name).glob("ray/student-*/checkpoint_*") if path.is_dir())


def finished(world: World, name: str, ranks: int = 2) -> list[Path]:
    """Those that all ranks have put their manifests into."""
    return [c for c in checkpoints(world, name) if len(list(c.glob("manifest-*.json"))) == ranks]


def last_step(world: World, name: str) -> int:
    path = world.run(name) / "curves.jsonl"
    points = Curves(path).by_job.get("student", []) if path.exists() else []
    return max((point.step for point in points), default=0)


class Fault(threading.Thread):
    """Strikes once two checkpoints are there, then takes the time until a step is trained that was not before."""

    def __init__(self, world: World, name: str, strike: Callable[[], None], ranks: int = 2) -> None:
        super().__init__(daemon=True)
        self.world, self.name_, self.strike, self.ranks = world, name, strike, ranks
        self.at_step, self.recovered_s = -1, -1.0

    def run(self) -> None:
        assert wait_until(lambda: len(finished(self.world, self.name_, self.ranks)) >= 2, 120.0)
        self.strike()
        struck, self.at_step = time.monotonic(), last_step(self.world, self.name_)
        # Points on their way when it struck still come in.
        time.sleep(1.0)
        before = last_step(self.world, self.name_)
        assert before < STEPS, "the run was quicker than the fault"
        assert wait_until(lambda: last_step(self.world, self.name_) > before, 240.0)
        self.recovered_s = time.monotonic() - struck


@pytest.fixture(scope="module")
def whole(world: World, ray_cluster: None) -> Outcome:
    """The run without a fault."""
    return run_training(world.config("whole", **PLAIN))


def same(outcome: Outcome, whole: Outcome, world: World, name: str) -> None:
    a, b = (load_file(o.student / "model.safetensors") for o in (whole, outcome))
    assert a.keys() == b.keys()
    for weight in a:
        assert b[weight].numpy() == pytest.approx(a[weight].numpy(), abs=1e-6), weight
    curves = [
        Curves(world.run(run) / "curves.jsonl").by_job["student"] for run in (whole.report.parent.name, name)
    ]
    for metric in ("train/loss", "eval/mean/nll"):
        unbroken, broken = ({p.step: p.values[metric] for p in c if metric in p.values} for c in curves)
        assert broken == pytest.approx(unbroken, abs=1e-6)
    points = [(p.step, metric) for p in curves[1] for metric in p.values]
    assert len(points) == len(set(points)), "a point came twice"
    assert (
        not list(world.run(name).rglob("*.tmp")) and not (world.run(name).parent / f".{name}.lock").exists()
    )


@pytest.mark.nightly
def test_a_worker_killed_and_the_newest_checkpoint_broken(
    whole: Outcome,
    world: World,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All ranks go on from the checkpoint before the broken one, and say so."""
    broken: list[Path] = []

    def strike() -> None:
        pids = worker_pids()
        assert len(pids) == 2
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # so that it is the newest that is broken
        newest = finished(world, "killed")[-1]
        engine = next((newest / "loop" / "engine").glob("*optim_states.pt"))
        data = bytearray(engine.read_bytes())
        data[len(data) // 2] ^= 1
        engine.write_bytes(data)
        broken.append(newest)
        os.kill(pids[1], signal.SIGKILL)
        os.kill(pids[0], signal.SIGCONT)

    fault = Fault(world, "killed", strike)
    fault.start()
    outcome = run_training(world.config("killed", **PLAIN))
    fault.join(5.0)
    same(outcome, whole, world, "killed")
    said = capsys.readouterr().out
    assert f"passed over checkpoint {broken[0]}" in said and "is not as it was written" in said
    assert "passed over" in (world.run("killed") / "log.txt").read_text(encoding="utf-8")
    assert fault.recovered_s > 0 and still_held() == []
    print(f"killed at step {fault.at_step}; training again after {fault.recovered_s:.1f} s")


@pytest.mark.nightly
def test_a_frozen_worker(whole: Outcome, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped answers nobody and ends nothing; Ray Train's health check ends it after a time."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "5")
    fault = Fault(world, "frozen", lambda: os.kill(worker_pids()[1], signal.SIGSTOP))
    fault.start()
    outcome = run_training(world.config("frozen", **PLAIN))
    fault.join(5.0)
    same(outcome, whole, world, "frozen")
    assert fault.recovered_s > 0 and still_held() == []
    print(f"frozen at step {fault.at_step}; training again after {fault.recovered_s:.1f} s")


def test_a_busy_cluster_is_waited_for_aloud_and_not_for_ever(ray_cluster: None) -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    said: list[str] = []
    other = placement_group([{"CPU": 3}])
    ray.get(other.ready())
    try:
        wait_for_resources([{"CPU": 1, "GPU": 0}], "one", said.append, 5.0)
        assert said == []
        with pytest.raises(ResourceError, match=r"workers could not start[\s\S]*2 CPU, 1 free after [23] s"):
            wait_for_resources([{"CPU": 1}] * 2, "workers", said.append, 2.0, every_s=1.0)
        assert said and set(said) == {"workers: waiting for 2 CPU, 1 free"}
        threading.Timer(1.5, remove_placement_group, [other]).start()
        wait_for_resources([{"CPU": 2}] * 2, "workers", said.append, 30.0)
    finally:
        remove_placement_group(other)
    assert still_held() == []


@pytest.fixture(scope="module")
def long(world: World, ray_cluster: None) -> Callable[[str], dict[str, float]]:
    """The scores of the long runs without a fault."""

    @cache
    def scores(name: str) -> dict[str, float]:
        run_training(world.config(name, **(LONG_ALONE if name == "long-alone" else LONG)))
        curve = Curves(world.run(name) / "curves.jsonl").by_job["student"]
        return {str(p.step): p.values["eval/mean/nll"] for p in curve if "eval/mean/nll" in p.values}

    return scores


@pytest.mark.nightly
@pytest.mark.parametrize("fault", ["kill", "drain", "kill-alone", "drain-alone", "head"])
def test_a_node_or_the_whole_cluster_lost(
    fault: str, long: Callable[[str], dict[str, float]], world: World
) -> None:
    """Two nodes beside a head without CPUs: the workers' node goes, and they go on on the other; or all goes."""
    wanted = long("long-alone" if fault.endswith("-alone") else "long")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.nodes", fault, str(world.folder)],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    line = next((row for row in done.stdout.splitlines() if row.startswith("TOLD ")), None)
    assert line is not None, done.stdout[-3000:] + done.stderr[-3000:]
    told = json.loads(line.removeprefix("TOLD "))
    assert told["scores"] == pytest.approx(wanted, abs=1e-6)
    assert told["status"] == "finished"
    if fault == "head":
        assert told["lost"][0] not in (0, None) and told["resumed"][0] == 0, told
    if fault.startswith("drain"):  # a checkpoint between two evaluations
        every = 1500 if fault == "drain-alone" else 250
        assert any(int(name.split("_")[1].split("-")[0]) % every for name in told["at_once"]), told
    print({name: value for name, value in told.items() if name != "scores"})
