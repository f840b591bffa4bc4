"""A plain actor hosts the training loop of a run with one worker, and the driver watches it.

Decision record: for each worker group Ray Train starts a controller, a placement group and an actor that gathers
checkpoints, and asks its workers for news a few times a minute; one worker needs none of them. What Ray Train promises
is kept. A worker that dies, falls silent or raises is started again, at most ``max_failures`` times, and goes on from
the newest whole checkpoint. A loss because the node was taken away does not count. A notice that the node will be
taken away makes a checkpoint at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import ray

from raykd.checkpoint.find import keep_newest
from raykd.checkpoint.manifest import CheckpointInfo
from raykd.checkpoint.storage import StorageFolder
from raykd.compat.ray_private import list_draining_nodes
from raykd.config import WorkersConfig
from raykd.errors import ResourceError, TrainingError
from raykd.runs.checkpoints import KEPT_CHECKPOINTS
from raykd.runs.worker import (
    TrainingCall,
    describe_worker_error,
    list_worker_resources,
    make_training_error,
    run_jobs,
)

log = logging.getLogger("raykd.runs")
PING_S = 1.0
"""Seconds between two looks at the worker."""
SILENT_S = 120.0
"""Seconds without an answer after which a worker is given up (as in Ray Train, whose variable is read too)."""


class SingleHost:
    """The process of the only rank.

    Args:
        start: Folder of the checkpoints of this start of the worker.
    """

    rank, world = 0, 1

    def __init__(self, start: StorageFolder) -> None:
        self._start = start
        self._node, self._noticed = ray.get_runtime_context().get_node_id(), False

    def find_device(self) -> str:
        """Return the GPU that Ray gave this actor."""
        return "cuda:0"

    def has_notice(self) -> bool:
        """Return whether this node is about to be taken away; true once."""
        if self._noticed or self._node not in list_draining_nodes():
            return False
        self._noticed = True
        return True

    def report(self, info: CheckpointInfo, best: float | None, folder: StorageFolder) -> None:
        """Remove the checkpoints before the newest ones, also those of an attempt that was lost."""
        keep_newest(self._start, KEPT_CHECKPOINTS)


class SingleWorker:
    """The actor: one call trains, the other says that the process is alive."""

    def run(self, call: TrainingCall, num_gpus: float) -> None:
        """Train the jobs in a process group of one, which DeepSpeed asks for."""
        import torch

        os.environ["LOCAL_RANK"] = "0"
        backend = "nccl" if num_gpus and torch.cuda.is_available() else "gloo"
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        run_jobs(call, SingleHost(call.place.storage.child(call.place.start)))

    def ping(self) -> None:
        """Answer."""


def run_single_worker(
    call: TrainingCall,
    workers: WorkersConfig,
    max_failures: int,
    wait: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Run the jobs on one actor and block until they are done.

    Args:
        call: What the worker is called with.
        workers: What it holds.
        max_failures: Losses after which the worker is given up.
        wait: Blocks until the cluster has what the worker holds; raises where it never comes.
        say: Takes a line for people.

    Raises:
        TrainingError: The worker was lost too often; the message holds the last cause.
        ResourceError: As ``wait``.
    """
    failures = 0
    while True:
        wait()
        needs = list_worker_resources(workers)
        worker: Any = (
            ray.remote(SingleWorker)
            .options(
                num_cpus=needs.pop("CPU", 0), num_gpus=needs.pop("GPU", 0), resources=needs, max_concurrency=2
            )
            .remote()
        )
        try:
            _watch(worker, worker.run.remote(call, workers.num_gpus))
            return
        except (ray.exceptions.RayError, TrainingError) as error:
            failures += not getattr(error, "preempted", False)
            if failures > max_failures:
                raise make_training_error(error) from error
            log.warning("the worker was lost and is started again", exc_info=error)
            say(f"the worker was lost and is started again: {describe_worker_error(error)}")
        finally:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(worker)


def _watch(worker: Any, running: Any) -> None:
    """Wait for the end of the training.

    Raises:
        RayError: The worker died, or the training raised.
        TrainingError: It has not answered for too long.
        ResourceError: It has not started for as long: others took what was free.
    """
    limit_s = float(os.environ.get("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", SILENT_S))
    ping, asked, started = worker.ping.remote(), time.monotonic(), False
    while not ray.wait([running], timeout=PING_S)[0]:
        if ray.wait([ping], timeout=0)[0]:
            ray.get(ping)
            ping, asked, started = worker.ping.remote(), time.monotonic(), True
        elif time.monotonic() - asked > limit_s:
            if started:
                raise TrainingError("the worker does not answer", got=f"silence for {limit_s:.0f} s")
            raise ResourceError(
                "the worker could not start: others were quicker to take what was free",
                got=f"no answer for {limit_s:.0f} s",
                next_step="the same command with --resume, when the cluster is less busy",
            )
    ray.get(running)
