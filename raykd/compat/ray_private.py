"""Private names of Ray 2.60."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import logging

    from ray._private.node import Node
    from ray.actor import ActorHandle
    from ray.job_config import JobConfig


def find_local_cluster() -> str | None:
    """Return host and port of the cluster that runs on this machine; None if there is none.

    `ray.init("auto")` connects at once. The address alone is only found here.

    Raises:
        ValueError, OSError: Ray's files on this machine name several clusters, or cannot be read.
    """
    from ray._private import services

    found = services.canonicalize_bootstrap_address("auto")
    return None if found is None else str(found)


def read_cluster_metadata(address: str, timeout_s: float) -> bytes | None:
    """Return the JSON object in which a cluster keeps the versions of Ray and Python that it runs.

    Ray compares them itself, but only while it connects, and then ends the process.

    Args:
        address: Host and port of the head.
        timeout_s: Longest wait for the head, in seconds.
    """
    from ray._private import ray_constants
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    kept: bytes | None = GcsClient(address=address).internal_kv_get(
        b"CLUSTER_METADATA", namespace=ray_constants.KV_NAMESPACE_CLUSTER, timeout=timeout_s
    )
    return kept


def find_log_folder() -> str | None:
    """Return the folder of Ray's logs if this process started Ray or stands on a node of it.

    `ray.get_runtime_context()` does not name it.
    """
    node = _node()
    return None if node is None else str(node.get_logs_dir_path())


def find_dashboard() -> str | None:
    """Return host and port of the dashboard; None if there is none.

    `ray.init` returns it only to whoever starts or joins the cluster.
    """
    node = _node()
    url = None if node is None else node.address_info.get("webui_url")
    return str(url) if url else None


def _node() -> Node | None:
    import ray

    node: Node | None = ray._private.worker.global_worker.node
    return node


def find_head_resource() -> dict[str, float]:
    """Return the resource that places an actor without CPUs on the head node.

    Empty where Ray does not mark its head node (older versions), so that any node will do.
    """
    import ray

    mark = "node:__internal_head__"
    return {mark: 0.001} if mark in ray.cluster_resources() else {}


class ActorRow(TypedDict, total=False):
    """The part of Ray's record of an actor that raykd reads."""

    State: str
    NumRestarts: int


def read_actor_row(actor: ActorHandle[object]) -> ActorRow:
    """Return Ray's record of an actor; empty if Ray has forgotten the actor.

    `ray.util.state.get_actor` asks the dashboard, which need not run.
    """
    import ray

    row: ActorRow = ray._private.state.actors(actor._actor_id.hex())
    return row


def find_memory_kill(actor: ActorHandle[object], since_s: float) -> str | None:
    """Return what Ray says of an actor's last process if its node killed it for memory; None if it did not.

    The caller of an actor may hear first that its process is restarted, and then never why.

    Args:
        actor: The actor, restarted or dead.
        since_s: Earlier ends of processes do not count. Seconds since 1970.
    """
    import ray
    from ray.core.generated.common_pb2 import NODE_OUT_OF_MEMORY  # type: ignore[attr-defined]
    from ray.core.generated.gcs_pb2 import ActorTableData, WorkerTableData  # type: ignore[attr-defined]

    accessor = ray._private.state.state._connect_and_get_accessor()
    found = accessor.get_actor_info(actor._actor_id)
    if found is None:
        return None
    before = ActorTableData.FromString(found).previous_incarnations
    if not before:
        return None
    for row in accessor.get_worker_table():
        worker = WorkerTableData.FromString(row)
        if worker.worker_address.worker_id == before[-1].worker_id:
            lately = worker.end_time_ms >= 1000 * since_s
            return str(worker.exit_detail) if worker.exit_type == NODE_OUT_OF_MEMORY and lately else None
    return None


def read_upload_limit() -> int:
    """Return how many bytes a working directory may have that is sent to a cluster."""
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(GCS_STORAGE_MAX_SIZE)


def exclude_patterns(folder: Path, patterns: list[str]) -> Callable[[Path], bool]:
    """Return the predicate by which Ray leaves out files of a working directory that match patterns."""
    from ray._private.runtime_env.packaging import _get_excludes

    return _get_excludes(folder, patterns)


def read_ignore_files(folder: Path, logger: logging.Logger) -> list[Callable[[Path], bool]]:
    """Return the predicates of the ``.rayignore`` and ``.gitignore`` that lie in a folder."""
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    return get_excludes_from_ignore_files(folder, include_gitignore=True, logger=logger)


def build_init_options(temp_folder: Path) -> dict[str, Any]:
    """Return arguments of `ray.init` for a Ray of this process's own.

    Args:
        temp_folder: Where sessions lie. Ray has an argument for it, whose name is private.
    """
    return {"_temp_dir": str(temp_folder), "job_config": build_job_config()}


@contextlib.contextmanager
def omit_helpers() -> Iterator[None]:
    """Let `ray.init` start no process, in the body, that a Ray of one program on one machine does not need.

    Left out are the API server, which Ray starts and waits for even without a dashboard, the autoscaler's monitor, and
    the log monitor, whose lines nobody takes where ``log_to_driver`` is off. `ray.init` has no arguments for them. They
    take half of the time that a start takes, most of that of an end, 1.4 CPU seconds and 170 MB. Ray is also told that
    it has no dashboard's packages. It finds that out by importing aiohttp, and where it is told that they are there and
    one is missing, as on a machine that they were not copied to, the node's agent dies and Ray never starts.
    """
    from ray._private import utils
    from ray._private.node import Node

    def start_no_api_server(node: Any, **_: object) -> None:
        node._webui_url = ""

    left_out: list[tuple[Any, str, Callable[..., object]]] = [
        (Node, "start_api_server", start_no_api_server),
        (Node, "start_monitor", lambda node: None),
        (Node, "start_log_monitor", lambda node: None),
        (utils, "get_dashboard_dependency_error", lambda: ImportError("no dashboard is wanted")),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in left_out]
    for owner, name, replacement in left_out:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)


def forget_shutdown_at_exit() -> None:
    """Let Ray not be shut down when the interpreter ends, which `import ray` has registered."""
    import ray

    atexit.unregister(ray.shutdown)


def remove_spilled_objects() -> None:
    """Remove the files into which this process's own Ray has spilled objects; `ray.shutdown` does, a killed Ray not."""
    node = _node()
    if node is not None and node.is_head():
        node.destroy_external_storage()


def build_job_config() -> JobConfig:
    """Return a job configuration that searches no folder for modules that this process does not search.

    Ray puts the working directory and the script's folder on the workers' path, whether they are on ours or not.
    """
    from ray.job_config import JobConfig

    class SearchedFolders(JobConfig):
        """Keeps only the folders of `sys.path`."""

        def _serialize(self) -> str:
            searched = {os.path.realpath(path or os.curdir) for path in sys.path}
            self._py_driver_sys_path = [
                path for path in self._py_driver_sys_path if os.path.realpath(path) in searched
            ]
            return super()._serialize()

    return SearchedFolders()


def list_draining_nodes() -> set[str]:
    """Return the ids of the nodes that are about to be taken away. Ray tells only Ray Train's workers."""
    import ray

    return set(ray._private.state.state.get_draining_nodes() or ())
