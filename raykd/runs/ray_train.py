"""Host the training loop of a run with several workers in Ray Train: one group runs jobs one after the other.

Decision record: Ray Train is told only that a checkpoint is there, and where, so that a worker that is killed leaves
no files elsewhere. Which checkpoint a job goes on from is found by `raykd.checkpoint.find`. A run with one worker is
hosted by a plain actor (`raykd.runs.single_worker`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import ray

from raykd.checkpoint.manifest import CheckpointInfo
from raykd.checkpoint.storage import StorageFolder
from raykd.cluster.interrupts import is_ending
from raykd.cluster.own_processes import started_here
from raykd.compat.ray_train import HostTrainer, make_trainer_class
from raykd.config import WorkersConfig
from raykd.errors import RaykdError, ResourceError
from raykd.runs.checkpoints import KEPT_CHECKPOINTS
from raykd.runs.worker import (
    TrainingCall,
    describe_worker_error,
    list_worker_resources,
    make_training_error,
    run_jobs,
)

if TYPE_CHECKING:
    from ray.train import Checkpoint

IDLE_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""Callbacks for which Ray Train would start a process each, and that a run does not need: data sets (rows come with the
call), and the clean-up after controllers that Tune kills (a run's placement groups end with its job). Without a
dashboard, Ray Train waits 12 s for the end of the second."""
ABORT_S = 1.0
"""Longest wait for Ray Train to end its workers after an interrupt. Then its controller is killed, which ends them."""


class RayTrainHost:
    """A rank of a Ray Train worker group."""

    def __init__(self) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self._noticed: set[str] = set()

    def find_device(self) -> str:
        """Return the device that Ray Train gave this rank."""
        import ray.train.torch

        return str(ray.train.torch.get_device())

    def has_notice(self) -> bool:
        """Return whether Ray Train has news of a node that will be taken away."""
        import ray.train

        info = ray.train.get_preemption_info()
        nodes = set() if info is None else set(info.preempted_node_ids)
        fresh = bool(nodes - self._noticed)
        self._noticed.update(nodes)
        return fresh

    def report(self, info: CheckpointInfo, best: float | None, folder: StorageFolder) -> None:
        """Tell Ray Train where a checkpoint is; it keeps the two newest."""
        import ray.train
        from ray.train import CheckpointUploadMode

        ray.train.report(
            {"job": info.job, "step": info.step, "best": best},
            checkpoint=_ray_checkpoint(folder),
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )


def _ray_checkpoint(folder: StorageFolder) -> Checkpoint:
    """Return the checkpoint as Ray Train names it."""
    from fsspec.core import url_to_fs
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import Checkpoint

    if folder.local_path is not None:
        return Checkpoint.from_directory(folder.url)
    remote, path = url_to_fs(folder.url)
    return Checkpoint(path, PyFileSystem(FSSpecHandler(remote)))


def _run_rank(config: dict[str, TrainingCall]) -> None:
    """The function that Ray Train calls on every rank."""
    call = config["call"]
    assert call.mailbox is not None
    run_jobs(call, RayTrainHost(), call.mailbox)


def run_worker_group(call: TrainingCall, workers: WorkersConfig, max_failures: int) -> None:
    """Run jobs on a Ray Train worker group, and wait until they are done.

    Args:
        call: The jobs, and what they share.
        workers: What the group asks for.
        max_failures: How often Ray Train may restart the group.

    Raises:
        TrainingError: Ray Train gave up; names the cause.
        ResourceError: Others took the free resources.
    """
    import ray.train
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
    from ray.train import RunConfig as TrainRun

    trainer: HostTrainer = make_trainer_class(IDLE_CALLBACKS)(
        _run_rank,
        train_loop_config={"call": call},
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            use_gpu=workers.num_gpus > 0,
            resources_per_worker=list_worker_resources(workers),
        ),
        run_config=TrainRun(
            name=call.place.start,
            storage_path=call.place.storage.url,
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
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
        raise _convert_error(error) from error


def _convert_error(error: BaseException) -> RaykdError:
    """Return our error for one of Ray Train's."""
    late = getattr(error, "controller_failure", None)
    if type(late).__name__ == "WorkerGroupStartupTimeoutError":
        return ResourceError(
            "the workers could not start: others were quicker to take what was free",
            got=describe_worker_error(error),
            next_step="the same command with --resume, when the cluster is less busy",
        )
    return make_training_error(error)


def _abort(controller: Any) -> None:
    """End the worker group now, since in a process that goes on (a notebook) it would keep its resources."""
    if controller is None:
        return
    # The controller ends itself, which Ray reports as an error.
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(controller.abort.remote(), timeout=ABORT_S)
    with contextlib.suppress(ray.exceptions.RayError):
        ray.kill(controller)
