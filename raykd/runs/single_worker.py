"""A plain actor hosts the training loop of a run with one worker, and the driver watches it.

Decision record: for each worker group Ray Train starts a controller, a placement group and an actor that gathers
checkpoints, and asks its workers for news a few times a minute; one worker needs none of them. What Ray Train promises
is kept. A worker that dies, falls silent or raises is started again, at most ``max_failures`` times, and goes on from
the newest whole checkpoint. A loss because the node was taken away does not count. A notice that the node will be
taken away makes a checkpoint at once.

The process is started as soon as Ray is there and imports while the driver opens teachers and MLflow (`ReadyWorker`).
It goes from one group of jobs to the next where both ask for the same, on CPUs alone: on a GPU the allocator would keep
what an earlier model needed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from raykd.checkpoint.find import keep_newest
from raykd.checkpoint.manifest import CheckpointInfo
from raykd.checkpoint.storage import StorageFolder
from raykd.cluster.mailbox import Event, Mailbox
from raykd.compat.ray_private import list_draining_nodes
from raykd.config import WorkersConfig
from raykd.driver.progress import JobProgress
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
CALLS_AT_ONCE = 5
"""Of the actor: the training, the imports ahead of it, a look at whether it is alive, two at what it has to tell."""
NEEDED = ("transformers.modeling_utils", "raykd.driver.loop")
"""Modules that take seconds to import, beside DeepSpeed."""
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
    """The actor: one call trains, others say that the process is alive and what it has to tell."""

    def __init__(self) -> None:
        self._mailbox = Mailbox()
        self._importing, self._is_warm = threading.Lock(), False

    def warm_up(self, device: str) -> None:
        """Import what every training needs, once; a second call waits for the first.

        Two threads must not import at once: transformers' lazy modules then miss names that the other is about to add.
        """
        with self._importing:
            if self._is_warm:
                return
            gc.disable()  # what is imported stays, and looking through it again and again takes a tenth of the time
            import torch

            from raykd.student.engine import import_deepspeed

            for name in NEEDED:
                importlib.import_module(name)
            import_deepspeed(torch.device(device))
            gc.freeze()
            gc.enable()
            self._is_warm = True

    def run(self, call: TrainingCall, device: str) -> None:
        """Train the jobs, in a process group of one."""
        self.warm_up(device)
        run_jobs(call, SingleHost(call.place.storage.child(call.place.start)), self._mailbox)

    def drain(self) -> list[Event]:
        """Take what the training has told."""
        return self._mailbox.drain()

    def sent(self) -> int:
        """Return the number of events so far, taken or not."""
        return self._mailbox.sent()

    def ping(self) -> None:
        """Answer."""


class ReadyWorker:
    """A worker that is there before its jobs, and stays for the next ones that ask for the same.

    Used as a context manager, which ends it.

    Args:
        meanwhile: What the driver does as soon as the worker has something to do.
    """

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.meanwhile = meanwhile
        self._workers: WorkersConfig | None = None
        self._actor: Any = None

    def __enter__(self) -> ReadyWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def prepare(self, workers: WorkersConfig) -> None:
        """Start a worker, if one is enough and the cluster has what it asks for now; return at once."""
        if workers.num_workers != 1 or self._actor is not None:
            return
        free = ray.available_resources()
        if all(free.get(name, 0.0) >= amount for name, amount in list_worker_resources(workers).items()):
            self._workers, self._actor = workers, start_worker(workers)
            self._actor.warm_up.remote(choose_device_kind(workers))

    def keep(self, workers: WorkersConfig, actor: Any) -> None:
        """Take a worker for later jobs; one that has used a GPU is ended."""
        self._workers, self._actor = workers, actor
        if workers.num_gpus > 0:
            self.end()

    def take(self, workers: WorkersConfig) -> Any:
        """Return the worker if it holds what these jobs ask for; else end it and return None."""
        self.end_unless(workers)
        actor, self._actor = self._actor, None
        return actor

    def end_unless(self, workers: WorkersConfig) -> None:
        """End a worker that later jobs could not use, so that what starts before them does not wait for its CPUs."""
        if self._workers != workers:
            self.end()

    def end(self) -> None:
        """End the worker, if there is one."""
        if self._actor is not None:
            end_worker(self._actor)
        self._actor = None


def choose_device_kind(workers: WorkersConfig) -> str:
    """Return the kind of device that a worker trains on."""
    return "cuda" if workers.num_gpus > 0 else "cpu"


def start_worker(workers: WorkersConfig) -> Any:
    """Start the actor, without waiting for it."""
    needs = list_worker_resources(workers)
    return (
        ray.remote(SingleWorker)
        .options(
            num_cpus=needs.pop("CPU", 0),
            num_gpus=needs.pop("GPU", 0),
            resources=needs,
            max_concurrency=CALLS_AT_ONCE,
        )
        .remote()
    )


def end_worker(actor: Any) -> None:
    """End the actor's process, if it is alive."""
    with contextlib.suppress(ray.exceptions.RayError):
        ray.kill(actor)


def run_single_worker(
    call: TrainingCall,
    workers: WorkersConfig,
    max_failures: int,
    ready: ReadyWorker,
    progress: JobProgress,
    wait: Callable[[], None],
) -> None:
    """Run the jobs on one actor and block until they are done.

    Args:
        call: What the worker is called with.
        workers: What it holds.
        max_failures: Losses after which the worker is given up.
        ready: Has a worker that is there already, perhaps, and takes this one for later jobs.
        progress: Receives what the worker has to tell.
        wait: Blocks until the cluster has what a fresh worker holds; raises where it never comes.

    Raises:
        TrainingError: The worker was lost too often; the message holds the last cause.
        ResourceError: As ``wait``.
    """
    failures, worker = 0, ready.take(workers)
    while True:
        if worker is None:
            wait()
            worker = start_worker(workers)
        try:
            progress.attach(worker)
            _run_watched(
                worker, worker.run.remote(call, choose_device_kind(workers)), progress, ready.meanwhile
            )
            ready.keep(workers, worker)
            return
        except (ray.exceptions.RayError, TrainingError) as error:
            failures += not getattr(error, "preempted", False)
            if failures > max_failures:
                raise make_training_error(error) from error
            worker = None
            log.warning("the worker was lost and is started again", exc_info=error)
            progress.say(f"the worker was lost and is started again: {describe_worker_error(error)}")


def _run_watched(worker: Any, running: Any, progress: JobProgress, meanwhile: Callable[[], None]) -> None:
    """Run the jobs, and hear all that the worker tells; one that did not end them is ended."""
    try:
        meanwhile()
        _watch(worker, running)
        progress.settle()
    except ray.exceptions.RayTaskError:  # the process is alive
        progress.settle()
        end_worker(worker)
        raise
    except BaseException:
        end_worker(worker)
        raise


def _watch(worker: Any, running: Any) -> None:
    """Wait for the end of the training.

    Raises:
        RayError: The worker died, or the training raised.
        TrainingError: It has not answered for too long.
        ResourceError: It has not started for as long: others took what was free, or the machine is too busy.
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
                "the worker could not start: others took what was free, or the machine is too busy",
                got=f"no answer for {limit_s:.0f} s",
                next_step="the same command with --resume when less runs; or wait longer: "
                "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S=900",
            )
    ray.get(running)
