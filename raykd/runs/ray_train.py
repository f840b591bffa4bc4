"""Ray Train hosts the training loop: one worker group runs jobs one after the other.

Decision record: everything a worker needs travels with the call (rows and tokenizers through the object store,
once), so workers read no file but the run folder. Points of the curves go to a mailbox actor that the driver
drains; checkpoints are written into the run's folder, one an evaluation (`raykd.runs.checkpoints`), and are what a
lost worker group goes on from. Training that is not finite is not tried again: the loop has gone back by itself, all
ranks agree, and the error travels in the mailbox.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from raykd.checkpoint.find import next_start
from raykd.checkpoint.manifest import CheckpointInfo
from raykd.checkpoint.save import load_checkpoint
from raykd.checkpoint.storage import StorageFolder
from raykd.cluster.interrupts import is_ending
from raykd.cluster.mailbox import Event
from raykd.cluster.own_processes import started_here
from raykd.compat.ray_train import HostTrainer, make_trainer_class
from raykd.config import Run, WorkersConfig
from raykd.driver.jobs import Job
from raykd.errors import RaykdError, ResourceError, TeacherError, TrainingError
from raykd.point import Point
from raykd.runs.checkpoints import (
    CheckpointPlace,
    begin_attempt,
    find_required_world,
    make_checkpoint_saver,
    make_preemption_check,
)
from raykd.teachers.handle import PoolHandle

IDLE_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""What Ray Train would start a process each for: data sets, of which a run has none (rows come with the call), and the
placement groups of controllers that Tune kills (a run's own end with its job). Without a dashboard the latter is asked
for 12 s whether it has ended."""
ABORT_S = 1.0
"""Longest wait for Ray Train to end its workers after an interrupt; then its controller is ended, and they with it."""


@dataclass(frozen=True)
class Payload:
    """One job as it travels to the workers; rows and tokenizer are object references.

    Attributes:
        rows: Of each task those to train on and those to validate on.
        pools: Of each task its teachers.
    """

    name: str
    config: Run
    rows: dict[str, tuple[Any, Any]]
    tokenizer: Any
    output: str
    pools: dict[str, PoolHandle]


def pack_job(job: Job, tokenizer: Any, pools: dict[str, PoolHandle]) -> Payload:
    """Return a job with its rows and tokenizer in the object store."""
    return Payload(
        name=job.name,
        config=job.config,
        rows={task: (ray.put(data.train), ray.put(data.validation)) for task, data in job.data.items()},
        tokenizer=ray.put(tokenizer),
        output=str(job.output),
        pools=pools,
    )


def run_jobs(call: dict[str, Any]) -> None:
    """The Ray Train function: trains every job whose model is not there yet. Runs on every worker."""
    import ray.train
    import torch

    threads: int = call["threads"]
    torch.set_num_threads(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    mailbox = call["mailbox"]
    if ray.get(mailbox.hopeless.remote()):
        return  # Ray Train started the workers again after an error that would only come again
    for payload in call["jobs"]:
        if _is_done(payload):
            continue
        try:
            _run_job(payload, mailbox, call["place"])
        except RaykdError as error:
            # Waits: this process may end before a call that nobody waits for is sent.
            ray.get(mailbox.put.remote(Event("error", payload.name, error=error)))
            if ray.train.get_context().get_world_size() == 1 and not isinstance(error, TeacherError):
                return
            raise


def _run_job(payload: Payload, mailbox: Any, place: CheckpointPlace) -> None:
    import ray.train
    import torch

    from raykd.driver.loop import make_loop, save_student
    from raykd.student.prepare import prepare_rows

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    config = payload.config
    device = (
        str(ray.train.torch.get_device()) if torch.cuda.is_available() and config.workers.num_gpus else "cpu"
    )
    points: list[Point] = []

    def publish(point: Point) -> None:
        points.append(point)
        mailbox.put.remote(Event("point", payload.name, point, loop.total_steps))

    tokenizer = ray.get(payload.tokenizer)
    prepared = {
        task: prepare_rows(config.members[task], ray.get(train), ray.get(validation), tokenizer)
        for task, (train, validation) in payload.rows.items()
    }
    loop = make_loop(
        config, prepared, tokenizer, payload.pools, rank=rank, world=world, device=device, publish=publish,
        noticed=make_preemption_check(),
    )  # fmt: skip
    wanted = CheckpointInfo(payload.name, config.fingerprint(), world)
    attempt = begin_attempt(place, wanted, rank, world=find_required_world(loop))
    for line in attempt.passed_over if rank == 0 else ():
        mailbox.put.remote(Event("note", payload.name, text=line))
    if attempt.found is not None:
        earlier = load_checkpoint(loop, attempt.found)
        for point in earlier if rank == 0 else ():
            publish(point)
    if rank == 0:
        mailbox.put.remote(Event("started", payload.name, Point(loop.state.step, {}), loop.total_steps))
    loop.run(make_checkpoint_saver(place, wanted, attempt, points))
    if rank == 0:
        save_student(loop, Path(payload.output))
        # Waits: with this event all points before it have arrived.
        ray.get(mailbox.put.remote(Event("done", payload.name, Point(loop.state.step, {}), loop.total_steps)))
    loop.engine.close()


def _is_done(payload: Payload) -> bool:
    """Return whether the model is there already: rank 0 looks, so that all ranks do the same."""
    import torch

    there = [(Path(payload.output) / "config.json").exists()]
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.broadcast_object_list(there, src=0)
    return there[0]


def run_worker_group(
    payloads: Sequence[Payload],
    workers: WorkersConfig,
    *,
    name: str,
    storage: Path,
    mailbox: Any,
    max_failures: int,
) -> None:
    """Run the jobs on a Ray Train worker group and block until they are done.

    Raises:
        TrainingError: Ray Train gave up; the message holds the first cause.
        ResourceError: Others took what was free.
    """
    import ray.train
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
    from ray.train import RunConfig as TrainRun

    start = next_start(StorageFolder(str(storage)), name)

    trainer: HostTrainer = make_trainer_class(IDLE_CALLBACKS)(
        run_jobs,
        train_loop_config={
            "jobs": list(payloads),
            "mailbox": mailbox,
            "place": CheckpointPlace(StorageFolder(str(storage)), name, start),
            "threads": max(1, int(workers.num_cpus + 1e-6)),
        },
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.num_gpus > 0,
            resources_per_worker=list_worker_resources(workers),
        ),
        run_config=TrainRun(
            name=start,
            storage_path=str(storage),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(
                max_failures=max_failures,
                controller_failure_limit=3,  # type: ignore[call-arg]
            ),
        ),
    )
    try:
        trainer.fit()
    except KeyboardInterrupt:
        if not (is_ending() and started_here()):  # else all of it is killed next
            _abort(trainer.controller)
        raise
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        raise _training_error(error) from error


def list_worker_resources(workers: WorkersConfig) -> dict[str, float]:
    """Return what one worker holds, of a run or of a trial."""
    needs = {"CPU": workers.num_cpus, "GPU": workers.num_gpus, **workers.resources}
    return {name: amount for name, amount in needs.items() if amount > 0}


def _training_error(error: BaseException) -> RaykdError:
    late = getattr(error, "controller_failure", None)
    if type(late).__name__ == "WorkerGroupStartupTimeoutError":
        return ResourceError(
            "the workers could not start: others were quicker to take what was free",
            got=_describe_cause(error),
            next_step="the same command with --resume, when the cluster is less busy",
        )
    return TrainingError(
        "training failed on its workers",
        got=_describe_cause(error),
        next_step="the log file has the whole trace; the same command with --resume goes on from the last checkpoint",
    )


def _abort(controller: Any) -> None:
    """End the worker group now: a process that goes on (a notebook) would keep its resources."""
    if controller is None:
        return
    with contextlib.suppress(ray.exceptions.RayError):  # the controller ends itself, which is an error to us
        ray.get(controller.abort.remote(), timeout=ABORT_S)
    with contextlib.suppress(ray.exceptions.RayError):
        ray.kill(controller)


def _describe_cause(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
