"""Host the training loop in Ray Train: one worker group runs jobs one after the other.

Decision record: everything that a worker needs travels with the call (rows and tokenizers once, through the object
store), so workers read no file outside the run's folder. Points of the curves go to a mailbox actor, which the driver
empties. Checkpoints are written into the run's folder, one per evaluation (`raykd.runs.checkpoints`); after a loss the
worker group goes on from them. Training that is not finite is not tried again: the loop has gone back by itself, all
ranks agree, and the error travels in the mailbox.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

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

if TYPE_CHECKING:
    from ray import ObjectRef

    from raykd.data.rows import Rows
    from raykd.text.tokens import Tokenizer

IDLE_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""Callbacks for which Ray Train would start a process each, and that a run does not need: data sets (rows come with the
call), and the clean-up after controllers that Tune kills (a run's placement groups end with its job). Without a
dashboard, Ray Train waits 12 s for the end of the second."""
ABORT_S = 1.0
"""Longest wait for Ray Train to end its workers after an interrupt. Then its controller is killed, which ends them."""


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


def pack_job(job: Job, tokenizer: Tokenizer, pools: dict[str, PoolHandle]) -> Payload:
    """Return a job with its rows and tokenizer in the object store."""
    return Payload(
        name=job.name,
        config=job.config,
        rows={task: (ray.put(data.train), ray.put(data.validation)) for task, data in job.data.items()},
        tokenizer=ray.put(tokenizer),
        output=str(job.output),
        pools=pools,
    )


class WorkerCall(TypedDict):
    """What Ray Train passes to every worker.

    Attributes:
        jobs: The jobs, in order.
        mailbox: Actor that takes events.
        place: Where the checkpoints are.
        threads: Threads of torch per worker.
    """

    jobs: list[Payload]
    mailbox: Any
    place: CheckpointPlace
    threads: int


def run_jobs(call: WorkerCall) -> None:
    """Train every job whose model does not exist yet. Ray Train runs this on every worker."""
    import ray.train
    import torch

    torch.set_num_threads(call["threads"])
    # Threads of the tokenizers library would compete with torch's, and warn at every fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    mailbox = call["mailbox"]
    if ray.get(mailbox.hopeless.remote()):
        return  # Ray Train has restarted the workers after an error that would come again
    for payload in call["jobs"]:
        if _is_done(payload):
            continue
        try:
            _run_job(payload, mailbox, call["place"])
        except RaykdError as error:
            # Wait: this process may end before a call that nobody waits for is sent.
            ray.get(mailbox.put.remote(Event("error", payload.name, error=error)))
            # A single worker may end quietly, which spares Ray Train an attempt. Others must not wait for this rank,
            # and after the loss of a teacher another attempt may succeed.
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
        # Wait: once this event has arrived, so have all points before it.
        ray.get(mailbox.put.remote(Event("done", payload.name, Point(loop.state.step, {}), loop.total_steps)))
    loop.engine.close()


def _is_done(payload: Payload) -> bool:
    """Return whether the model exists already. Rank 0 looks, so that all ranks do the same."""
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
    """Run jobs on a Ray Train worker group, and wait until they are done.

    Args:
        payloads: The jobs.
        workers: What the group asks for.
        name: Name of the group.
        storage: Folder of its checkpoints.
        mailbox: Actor that takes events.
        max_failures: How often Ray Train may restart the group.

    Raises:
        TrainingError: Ray Train gave up; names the cause.
        ResourceError: Others took the free resources.
    """
    import ray.train
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
    from ray.train import RunConfig as TrainRun

    start = next_start(StorageFolder(str(storage)), name)
    call = WorkerCall(
        jobs=list(payloads),
        mailbox=mailbox,
        place=CheckpointPlace(StorageFolder(str(storage)), name, start),
        threads=workers.threads,
    )
    trainer: HostTrainer = make_trainer_class(IDLE_CALLBACKS)(
        run_jobs,
        train_loop_config=call,
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
                # By default Ray Train restarts a failing controller without end.
                controller_failure_limit=3,  # type: ignore[call-arg]
            ),
        ),
    )
    try:
        trainer.fit()
    except KeyboardInterrupt:
        if not (is_ending() and started_here()):  # else this process ends its whole Ray next
            _abort(trainer.controller)
        raise
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        raise _training_error(error) from error


def list_worker_resources(workers: WorkersConfig) -> dict[str, float]:
    """Return the resources of one worker, of a run or a trial."""
    needs = {"CPU": workers.num_cpus, "GPU": workers.num_gpus, **workers.resources}
    return {name: amount for name, amount in needs.items() if amount > 0}


def _training_error(error: BaseException) -> RaykdError:
    """Return our error for one of Ray Train's."""
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
    """End the worker group now, since in a process that goes on (a notebook) it would keep its resources."""
    if controller is None:
        return
    with contextlib.suppress(
        ray.exceptions.RayError
    ):  # the controller ends itself, which Ray reports as an error
        ray.get(controller.abort.remote(), timeout=ABORT_S)
    with contextlib.suppress(ray.exceptions.RayError):
        ray.kill(controller)


def _describe_cause(error: BaseException) -> str:
    """Return the last line of a trace, which names the first cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
