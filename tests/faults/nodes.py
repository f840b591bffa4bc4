"""A program: two workers, or one, on one of two nodes, which is killed, drained, or taken away with the head and all.

Usage: nodes.py FAULT FOLDER, FAULT one of kill, drain, kill-alone, drain-alone, head. Prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

QUICK = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
}
os.environ.update(QUICK)

import ray  # noqa: E402
from ray._raylet import GcsClient  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from ray.core.generated import autoscaler_pb2  # noqa: E402

from raykd.checkpoint.curves import Curves  # noqa: E402
from raykd.checkpoint.manifest import find_problem  # noqa: E402
from raykd.checkpoint.storage import StorageFolder  # noqa: E402
from raykd.runs.train import run_training  # noqa: E402
from raykd.student import loop  # noqa: E402
from tests.e2e.conftest import World, wait_until  # noqa: E402
from tests.faults.test_workers import LONG, LONG_ALONE, checkpoints, last_step  # noqa: E402

HOSTS = ("RayTrainWorker", "SingleWorker")
ALONE = "-alone"
"""At the end of a fault's name: the run has one worker."""


def config_of(fault: str) -> dict[str, Any]:
    return LONG_ALONE if fault.endswith(ALONE) else LONG


def cluster_of_two() -> Cluster:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    cluster.add_node(num_cpus=2)
    return cluster


def node_of_workers() -> str:
    actors = ray._private.state.actors().values()
    return str(
        next(
            a["Address"]["NodeID"]
            for a in actors
            if any(kind in a["ActorClassName"] for kind in HOSTS) and a["State"] == "ALIVE"
        )
    )


def strike(fault: str, cluster: Cluster, world: World, told: dict[str, Any]) -> None:
    assert wait_until(lambda: bool(checkpoints(world, fault)), 180.0)
    at = node_of_workers()
    node = next(n for n in cluster.worker_nodes if n.node_id == at)
    told["before"] = last_step(world, fault)
    if fault.startswith("drain"):
        known = set(checkpoints(world, fault))
        deadline = int((time.time() + 60) * 1000)
        GcsClient(address=cluster.address).drain_node(
            at, autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), "taken away", deadline
        )
        wait_until(
            lambda: any(
                find_problem(StorageFolder(str(p))) is None for p in set(checkpoints(world, fault)) - known
            ),
            30.0,
        )
        told["at_once"] = [p.name for p in sorted(set(checkpoints(world, fault)) - known)]
    begun = time.monotonic()
    cluster.remove_node(node, allow_graceful=False)
    before = last_step(world, fault)
    wait_until(lambda: last_step(world, fault) > before, 240.0)
    told["recovered_s"] = round(time.monotonic() - begun, 1)


def lose_the_head(world: World) -> dict[str, Any]:
    """All of the cluster goes while the command runs; the same command with --resume goes on, on a new one."""
    told: dict[str, Any] = {"fault": "head"}
    path = str(world.write("head", **LONG))
    for flags in ([], ["--resume"]):
        cluster = cluster_of_two()
        process = subprocess.Popen(
            [sys.executable, "-m", "raykd.cli", "train", path, *flags],
            cwd=world.folder, env={**os.environ, "RAY_ADDRESS": cluster.address}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        begun = time.monotonic()
        if not flags:
            assert wait_until(lambda: len(checkpoints(world, "head")) >= 2, 180.0)
            told["before"], begun = last_step(world, "head"), time.monotonic()
            for node in [*cluster.worker_nodes, cluster.head_node]:
                node.kill_all_processes(check_alive=False, allow_graceful=False)
        out, _ = process.communicate(timeout=240)
        told["resumed" if flags else "lost"] = [
            process.returncode,
            round(time.monotonic() - begun, 1),
            out[-600:],
        ]
        if flags:
            cluster.shutdown()
    return told


def main(fault: str, folder: Path) -> None:
    if fault == "head":
        world = World(folder)
        told = lose_the_head(world)
        tell(world, fault, told)
        return
    world, told = World(folder), {"fault": fault}
    cluster = cluster_of_two()
    os.environ["RAY_ADDRESS"] = cluster.address
    striking = threading.Thread(target=strike, args=(fault, cluster, world, told), daemon=True)
    striking.start()
    with contextlib.suppress(KeyboardInterrupt):
        run_training(world.config(fault, **config_of(fault)))
    striking.join(10.0)
    tell(world, fault, told)
    ray.shutdown()
    cluster.shutdown()


def tell(world: World, fault: str, told: dict[str, Any]) -> None:
    points = Curves(world.run(fault) / "curves.jsonl").by_job["student"]
    told["scores"] = {p.step: p.values["eval/mean/nll"] for p in points if "eval/mean/nll" in p.values}
    told["status"] = world.state(fault)["status"]
    print("TOLD " + json.dumps(told), flush=True)


if __name__ == "__main__":
    loop.NOTICE_S = 1.0
    main(sys.argv[1], Path(sys.argv[2]))
