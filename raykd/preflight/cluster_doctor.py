"""The part of `raykd doctor` that inspects a cluster: its nodes and its dashboard.

Decision record: a task without CPUs runs on each node, so that a busy cluster answers too. A node that does not answer
within a minute is a finding, not a hang.
"""

from __future__ import annotations

import os
import platform
import socket
import urllib.error
import urllib.request
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.cluster.connection import connect_ray
from raykd.compat.ray_private import find_dashboard
from raykd.config import RayConfig
from raykd.errors import RaykdError, ResourceError
from raykd.preflight.doctor import write_probe_file
from raykd.preflight.finding import Finding

ANSWER_S = 60.0
"""Longest wait for a node, which may have to start a process and import raykd."""
COMPARED = ("raykd", "ray", "torch", "transformers", "deepspeed")


def inspect_cluster(output: Path, address: str) -> list[Finding]:
    """Collect the findings about the cluster at an address, node by node."""
    here = ray.is_initialized()
    try:
        connect_ray(RayConfig(address=address))
    except RaykdError as error:
        return [Finding("cluster", "", error=error)]
    try:
        return [*_nodes(output), _dashboard()]
    finally:
        if not here:
            ray.shutdown()


def inspect_node(path: str) -> dict[str, str]:
    """Describe what a node sees. Runs there as a Ray task.

    Args:
        path: A file that this machine wrote; its content is returned as "seen".
    """
    seen = Path(path).read_text(encoding="utf-8") if Path(path).is_file() else ""
    versions = {name: version(name) for name in COMPARED}
    return {"host": socket.gethostname(), "seen": seen, "python": platform.python_version(), **versions}


def _nodes(output: Path) -> list[Finding]:
    alive = [node for node in ray.nodes() if node["Alive"]]
    probe = write_probe_file(output)
    try:
        task = ray.remote(num_cpus=0)(inspect_node)
        asked = {
            node["NodeID"]: task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(probe))
            for node in alive
        }
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_S)
        return [_node(node, asked[node["NodeID"]], probe, len(alive)) for node in alive]
    finally:
        probe.unlink(missing_ok=True)


def _node(node: dict[str, Any], answer: Any, probe: Path, nodes: int) -> Finding:
    name = f"node {node['NodeManagerAddress']}"
    held = ", ".join(f"{k} {v:g}" for k, v in sorted(node["Resources"].items()) if k in ("CPU", "GPU"))
    try:
        said = ray.get(answer, timeout=1.0)
    except Exception as error:  # of Ray, or whatever its Python lacks
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Finding(name, "", error=ResourceError(
            f"{name} did not answer", got=lines[-1][:300], wanted="a node with this raykd installed",
            next_step="use one image (the same packages) for all nodes; raykd's Dockerfile is in cluster/",
        ))  # fmt: skip
    own = {"python": platform.python_version(), **{n: version(n) for n in COMPARED}}
    others = [f"{n} {said[n]} (here {own[n]})" for n in own if said[n] != own[n]]
    if others:
        return Finding(name, "", error=ResourceError(
            f"{name} has other versions", got=", ".join(others), wanted="the same on all nodes",
            next_step="use one image for head, teachers and students",
        ))  # fmt: skip
    if said["seen"] != probe.name:
        return Finding(name, "", error=ResourceError(
            f"{name} does not see the output folder", got=f"no {probe} there",
            wanted="one file system that this machine and all nodes see at the same path",
            next_step="mount it on every node, and set output to a folder on it",
        ))  # fmt: skip
    alone = ", the only one: a shared file system is not needed" if nodes == 1 else ", sees the output folder"
    return Finding(name, f"{said['host']}: {held or 'no CPU'}, same versions{alone}")


def _dashboard() -> Finding:
    """Check whether a stranger may use the dashboard's Jobs API, which runs any command."""
    url = find_dashboard()
    if url is None:
        return Finding(
            "dashboard", "there is none; raykd submit and sweeps of several workers need it", doubt=True
        )
    answered = _status(f"http://{url}/api/jobs/")
    host = url.rpartition(":")[0].strip("[]")
    open_to_all = answered == 200
    if not open_to_all:
        return Finding("dashboard", f"{url} refuses whoever has no token (HTTP {answered})")
    if host == "localhost" or ip_address(host).is_loopback:
        return Finding("dashboard", f"{url} is open without a token, to this machine's users alone")
    return Finding("dashboard", "", error=ResourceError(
        f"the dashboard {url} lets everybody who reaches it run commands",
        got=f"HTTP 200 without a token, RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', 'unset')}",
        wanted="token authentication, or an address that only this machine reaches",
        next_step="start the cluster with RAY_AUTH_MODE=token, or with --dashboard-host=127.0.0.1",
    ))  # fmt: skip


def _status(url: str) -> int | str:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError) as error:
        return f"no answer: {error}"
