"""Train job after job on a worker, whatever hosts it: Ray Train's worker group, or one plain actor.

Decision record: everything that a worker needs travels with the call (rows and tokenizers once, through the object
store), so workers read no file outside the run's folder. Points of the curves go to a mailbox, which the driver
empties. Checkpoints are written into the run's folder, one per evaluation (`raykd.runs.checkpoints`); after a loss the
workers go on from them. Training that is not finite is not tried again: the loop has gone back by itself, all ranks
agree, and the error travels in the mailbox.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import ray

from raykd.checkpoint.manifest import CheckpointInfo
from raykd.checkpoint.save import load_checkpoint
from raykd.checkpoint.storage import StorageFolder
from raykd.cluster.mailbox import Event, EventSink, sending_logs
from raykd.cluster.own_processes import started_here
from raykd.config import Run, WorkersConfig
from raykd.driver.jobs import Job
from raykd.errors import RaykdError, TeacherError, TrainingError
from raykd.point import Point
from raykd.runs.checkpoints import (
    CheckpointPlace,
    begin_attempt,
    find_required_world,
    make_checkpoint_saver,
)
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pool_source import PoolSource
from raykd.timeline import WORKER, Timeline, recording, stage

if TYPE_CHECKING:
    from ray import ObjectRef

    from raykd.data.load import Dataset
    from raykd.data.rows import Rows
    from raykd.student.loop import TrainingLoop
    from raykd.text.tokens import Tokenizer


TELL_S = 0.5
"""Seconds between two messages about how many rows are tokenised."""


class Host(Protocol):
    """The process that a rank of the loop runs in."""

    rank: int
    world: int

    def find_device(self) -> str:
        """Return the device of the student, for example ``cuda:0``."""

    def has_notice(self) -> bool:
        """Return whether a node of the workers is about to be taken away, once; all ranks ask together."""

    def report(self, info: CheckpointInfo, best: float | None, folder: StorageFolder) -> None:
        """Take note of a checkpoint that all ranks have written."""


@dataclass(frozen=True)
class Payload:
    """One job as it travels to the workers.

    Attributes:
        name: Name of the job.
        config: The run that trains it.
        rows: References to training and validation rows, by task.
        tokenizer: Reference to the student's tokenizer.
        output: Folder of the saved model.
        pools: The teachers, by task.
    """

    name: str
    config: Run
    rows: dict[str, tuple[ObjectRef[Rows], ObjectRef[Rows]]]
    tokenizer: ObjectRef[Tokenizer]
    output: str
    pools: dict[str, PoolHandle]


def share_data(data: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Return rows as they may be sent to workers: the paths of their files, if all workers are on this machine."""
    return {task: own if started_here() else own.in_memory() for task, own in data.items()}


def pack_job(job: Job, tokenizer: Tokenizer, pools: dict[str, PoolHandle]) -> Payload:
    """Return a job with its rows and tokenizer in the object store."""
    return Payload(
        name=job.name,
        config=job.config,
        rows={
            task: (ray.put(own.train), ray.put(own.validation)) for task, own in share_data(job.data).items()
        },
        tokenizer=ray.put(tokenizer),
        output=str(job.output),
        pools=pools,
    )


@dataclass(frozen=True)
class TrainingCall:
    """What every rank is called with.

    Attributes:
        jobs: The jobs, in order.
        mailbox: Takes events; None where the host has its own.
        place: Where the checkpoints are.
        threads: Threads of torch per worker.
        profile: Whether parts of steps are recorded.
    """

    jobs: Sequence[Payload]
    mailbox: EventSink | None
    place: CheckpointPlace
    threads: int
    profile: bool = False


def run_jobs(call: TrainingCall, host: Host, mailbox: EventSink) -> None:
    """Train every job whose model does not exist yet. Runs on every rank."""
    import torch

    torch.set_num_threads(call.threads)
    # Threads of the tokenizers library would compete with torch's, and warn at every fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if mailbox.hopeless():
        return  # restarted after an error that would come again
    for payload in call.jobs:
        if _is_done(payload):
            continue
        timeline = Timeline(WORKER if host.rank == 0 else f"{WORKER} {host.rank}", profile=call.profile)
        try:
            # Other ranks would say the same.
            told = sending_logs(mailbox, payload.name) if host.rank == 0 else contextlib.nullcontext()
            with recording(timeline), told:
                _run_job(payload, mailbox, call.place, host)
        except RaykdError as error:
            # Wait: this process may end before a call that nobody waits for is sent.
            mailbox.put(Event("error", payload.name, error=error), wait=True)
            # A single worker may end quietly, which spares it another attempt. Others must not wait for this rank,
            # and after the loss of a teacher another attempt may succeed.
            if host.world == 1 and not isinstance(error, TeacherError):
                return
            raise
        finally:
            with contextlib.suppress(ray.exceptions.RayError):  # wait: this process may end now
                mailbox.put(Event("spans", payload.name, spans=timeline.take()), wait=True)


def _run_job(payload: Payload, mailbox: EventSink, place: CheckpointPlace, host: Host) -> None:
    with stage("worker's imports"):
        from raykd.driver.loop import make_loop, save_student
        from raykd.student.prepare import prepare_rows

    config, rank = payload.config, host.rank
    points: list[Point] = []

    def publish(point: Point) -> None:
        points.append(point)
        mailbox.put(Event("point", payload.name, point, loop.total_steps))

    told = 0.0

    def tell_tokens(done: int, rows: int) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            mailbox.put(Event("tokens", payload.name, Point(done, {}), rows))

    with stage("tokens"):
        tokenizer = ray.get(payload.tokenizer)
        prepared = {
            task: prepare_rows(
                config.members[task], ray.get(train), ray.get(validation), tokenizer, tell_tokens
            )
            for task, (train, validation) in payload.rows.items()
        }
    device = host.find_device() if config.workers.num_gpus else "cpu"
    with stage("student made"):
        loop = make_loop(
            config, prepared, tokenizer, payload.pools, rank=rank, world=host.world, device=device, publish=publish,
            noticed=host.has_notice,
        )  # fmt: skip
    wanted = CheckpointInfo(payload.name, config.fingerprint(), host.world)
    attempt = begin_attempt(place, wanted, rank, world=find_required_world(loop))
    for line in attempt.passed_over if rank == 0 else ():
        mailbox.put(Event("note", payload.name, text=line))
    if attempt.found is not None:
        earlier = load_checkpoint(loop, attempt.found)
        for point in earlier if rank == 0 else ():
            publish(point)
    if rank == 0:
        mailbox.put(Event("started", payload.name, Point(loop.state.step, {}), loop.total_steps))
    loop.run(make_checkpoint_saver(place, wanted, attempt, points, host.report))
    if rank == 0:
        for line in list_computed_answers(loop):
            mailbox.put(Event("note", payload.name, text=line))
        with stage("student saved"):
            save_student(loop, Path(payload.output))
        # Wait: once this event has arrived, so have all points before it.
        mailbox.put(Event("done", payload.name, Point(loop.state.step, {}), loop.total_steps), wait=True)
    loop.engine.close()


def list_computed_answers(loop: TrainingLoop) -> list[str]:
    """Return a line for each teacher whose answers were computed in this process, where no other is there for it."""
    return [
        f"teacher {name}: {count} answers were gone from the store and were computed by the worker"
        for trainer in loop.trainers.values()
        if isinstance(trainer.source, PoolSource)
        for name, count in trainer.source.count_computed_here().items()
        if count
    ]


def _is_done(payload: Payload) -> bool:
    """Return whether the model exists already. Rank 0 looks, so that all ranks do the same."""
    import torch

    there = [(Path(payload.output) / "config.json").exists()]
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.broadcast_object_list(there, src=0)
    return there[0]


def list_worker_resources(workers: WorkersConfig) -> dict[str, float]:
    """Return the resources of one worker, of a run or a trial."""
    needs = {"CPU": workers.num_cpus, "GPU": workers.num_gpus, **workers.resources}
    return {name: amount for name, amount in needs.items() if amount > 0}


def describe_worker_error(error: BaseException) -> str:
    """Return the last line of a trace, which names the first cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__


def make_training_error(error: BaseException) -> TrainingError:
    """Return what is raised where workers were given up."""
    return TrainingError(
        "training failed on its workers",
        got=describe_worker_error(error),
        next_step="the log file has the whole trace; the same command with --resume goes on from the last checkpoint",
    )
