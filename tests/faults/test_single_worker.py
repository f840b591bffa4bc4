"""The only worker of a run is killed, frozen, raises or loses its node: the run ends as if nothing had been, or says why."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from raykd.driver.command import Start
from raykd.errors import TrainingError
from raykd.runs.train import run_training
from raykd.scoring.outcome import Outcome
from tests.e2e.conftest import World, still_held, wait_until
from tests.faults.test_workers import PLAIN, Fault, checkpoints, same

ALONE: dict[str, Any] = {**PLAIN, "workers": {"num_workers": 1}}
ALONE["train"] = {**PLAIN["train"], "zero_stage": 0}


def worker_pid() -> int | None:
    """The process of the training actor, where one is alive."""
    import ray

    actors = ray._private.state.actors().values()
    found = [a["Pid"] for a in actors if "SingleWorker" in a["ActorClassName"] and a["State"] == "ALIVE"]
    return found[0] if found else None


def strike(how: signal.Signals) -> None:
    pid = worker_pid()
    assert pid is not None
    os.kill(pid, how)


@pytest.fixture(scope="module")
def whole(world: World, ray_cluster: None) -> Outcome:
    """The run without a fault."""
    return run_training(world.config("whole-alone", **ALONE))


def test_it_is_killed(whole: Outcome, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fault = Fault(world, "killed", lambda: strike(signal.SIGKILL), ranks=1)
    fault.start()
    outcome = run_training(world.config("killed", **ALONE))
    fault.join(5.0)
    same(outcome, whole, world, "killed")
    assert "the worker was lost and is started again" in capsys.readouterr().out
    assert fault.recovered_s > 0 and still_held() == []
    assert len(checkpoints(world, "killed")) <= 2
    print(f"killed at step {fault.at_step}; training again after {fault.recovered_s:.1f} s")


@pytest.mark.nightly
def test_it_is_frozen(whole: Outcome, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "15")
    fault = Fault(world, "frozen", lambda: strike(signal.SIGSTOP), ranks=1)
    fault.start()
    outcome = run_training(world.config("frozen", **ALONE))
    fault.join(5.0)
    same(outcome, whole, world, "frozen")
    assert fault.recovered_s > 0 and still_held() == []


@pytest.mark.nightly
def test_it_is_killed_again_and_again(world: World, ray_cluster: None) -> None:
    """After more losses than `max_failures` the run is given up, and says so; its checkpoints stay."""
    over = threading.Event()

    def kill_each() -> None:
        killed: set[int] = set()
        while not over.wait(0.2):
            pid = worker_pid()
            if pid is not None and pid not in killed and checkpoints(world, "lost"):
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_each, daemon=True)
    killer.start()
    try:
        with pytest.raises(TrainingError, match="training failed on its workers"):
            run_training(world.config("lost", **ALONE))
    finally:
        over.set()
        killer.join()
    assert checkpoints(world, "lost") and still_held() == []
    assert run_training(world.config("lost", **ALONE), Start(resume=True)).student == Path(
        world.run("lost") / "student"
    )
    assert wait_until(lambda: worker_pid() is None, 10.0)
