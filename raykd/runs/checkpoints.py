"""Checkpoints of a loop that Ray Train hosts: one an evaluation, looked for after a loss.

Decision record: Ray Train is told only that a checkpoint is there, and where: a worker that is killed leaves no files
elsewhere. A notice that a node will be taken away is looked for by all ranks together, and answered with a checkpoint
at once, so that nothing is done twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.checkpoint.find import checkpoint_name, find_checkpoint, list_starts, prune
from raykd.checkpoint.manifest import CheckpointInfo
from raykd.checkpoint.save import save_checkpoint
from raykd.checkpoint.storage import StorageFolder
from raykd.point import Point

if TYPE_CHECKING:
    from raykd.student.loop import TrainingLoop


@dataclass(frozen=True)
class CheckpointPlace:
    """Where the checkpoints of a worker group are.

    Attributes:
        storage: Of all worker groups of a run.
        name: Of the group.
        start: Folder below ``storage`` of this start of the group.
    """

    storage: StorageFolder
    name: str
    start: str


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job, the same on all ranks.

    Attributes:
        found: The checkpoint that it goes on from.
        number: Grows with time.
        passed_over: What to say of newer checkpoints that cannot be used.
    """

    found: StorageFolder | None
    number: int
    passed_over: tuple[str, ...]


def begin_attempt(
    place: CheckpointPlace, wanted: CheckpointInfo, rank: int, *, world: int | None = None
) -> Attempt:
    """Find the newest whole checkpoint and remove what nobody needs, on rank 0; all ranks must call.

    Args:
        place: Where checkpoints are.
        wanted: Whose checkpoints.
        rank: Of this process.
        world: Of so many ranks, where that may not differ (`find_required_world`).
    """
    import torch

    told: list[Attempt | None] = [None]
    if rank == 0:
        passed_over: list[str] = []
        starts = list_starts(place.storage, place.name)
        found = find_checkpoint(starts, wanted.job, passed_over.append, world=world)
        prune(place.storage, place.name, place.start, found)
        told[0] = Attempt(found, time.time_ns(), tuple(passed_over))
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.broadcast_object_list(told, src=0)
    assert told[0] is not None
    return told[0]


def find_required_world(loop: TrainingLoop) -> int | None:
    """Return the ranks that a loop's checkpoints must be of; None where they are converted (see `Engine.load`)."""
    return loop.world if loop.engine.zero_stage == 3 else None


def make_checkpoint_saver(
    place: CheckpointPlace, wanted: CheckpointInfo, attempt: Attempt, points: Sequence[Point]
) -> Callable[[TrainingLoop], Path | None]:
    """Return what a loop calls to keep a checkpoint; it returns the local folder to go back to, if there is one."""

    def save(loop: TrainingLoop) -> Path | None:
        import ray.train
        from ray.train import CheckpointUploadMode

        info = CheckpointInfo(wanted.job, wanted.config, wanted.world, loop.state.step)
        folder = place.storage.child(place.start).child(checkpoint_name(info, attempt.number))
        save_checkpoint(folder, info, loop, points)
        ray.train.report(
            {"job": info.job, "step": info.step, "best": loop.state.best},
            checkpoint=_ray_checkpoint(folder),
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )
        local = folder.local_path
        return None if local is None else local / "loop"

    return save


def _ray_checkpoint(folder: StorageFolder) -> Any:
    """Return the checkpoint as Ray Train names it."""
    from fsspec.core import url_to_fs
    from pyarrow.fs import FSSpecHandler, PyFileSystem
    from ray.train import Checkpoint

    if folder.local_path is not None:
        return Checkpoint.from_directory(folder.url)
    remote, path = url_to_fs(folder.url)
    return Checkpoint(path, PyFileSystem(FSSpecHandler(remote)))


def make_preemption_check() -> Callable[[], bool]:
    """Return what says whether a node of this worker group is about to be taken away, once; all ranks ask together."""
    import ray.train

    told: set[str] = set()

    def noticed() -> bool:
        info = ray.train.get_preemption_info()
        nodes = set() if info is None else set(info.preempted_node_ids)
        fresh = bool(nodes - told)
        told.update(nodes)
        return fresh

    return noticed
