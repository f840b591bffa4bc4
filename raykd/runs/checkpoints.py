"""Save and find the checkpoints of a run's loop, one per evaluation.

Decision record: the host is only told where a checkpoint is, so a killed worker leaves no files elsewhere. All ranks
look together for a notice that a node will be taken away, and save a checkpoint at once, so that no step is repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.checkpoint.find import checkpoint_name, find_checkpoint, list_starts, prune
from raykd.checkpoint.manifest import CheckpointInfo
from raykd.checkpoint.save import save_checkpoint
from raykd.checkpoint.storage import StorageFolder
from raykd.point import Point

if TYPE_CHECKING:
    from raykd.student.loop import TrainingLoop

KEPT_CHECKPOINTS = 2
"""Whole checkpoints of a start that stay: the newest, and the one before it, should the newest be broken."""


@dataclass(frozen=True)
class CheckpointPlace:
    """Where the checkpoints of a worker group are.

    Attributes:
        storage: Folder of all worker groups of a run.
        name: Name of the group.
        start: Name of the folder in ``storage`` for this start of the group.
    """

    storage: StorageFolder
    name: str
    start: str


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job, the same on all ranks.

    Attributes:
        found: The checkpoint that it goes on from; None begins anew.
        number: Grows with time.
        passed_over: Notes on newer checkpoints that cannot be used.
    """

    found: StorageFolder | None
    number: int
    passed_over: tuple[str, ...]


def begin_attempt(
    place: CheckpointPlace, wanted: CheckpointInfo, rank: int, *, world: int | None = None
) -> Attempt:
    """Find the newest whole checkpoint, and remove those that no attempt needs. All ranks must call.

    Args:
        place: Where the checkpoints are.
        wanted: Whose checkpoints are wanted.
        rank: Rank of this process. Rank 0 looks and tells the others.
        world: Number of ranks that must match (`find_required_world`); None takes any.
    """
    import torch

    agreed: list[Attempt | None] = [None]
    if rank == 0:
        passed_over: list[str] = []
        starts = list_starts(place.storage, place.name)
        found = find_checkpoint(starts, wanted.job, passed_over.append, world=world)
        prune(place.storage, place.name, place.start, found)
        agreed[0] = Attempt(found, time.time_ns(), tuple(passed_over))
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.broadcast_object_list(agreed, src=0)
    assert agreed[0] is not None
    return agreed[0]


def find_required_world(loop: TrainingLoop) -> int | None:
    """Return the number of ranks that must have saved a loop's checkpoint; None if it is converted (`Engine.load`)."""
    return loop.world if loop.engine.zero_stage == 3 else None


def make_checkpoint_saver(
    place: CheckpointPlace,
    wanted: CheckpointInfo,
    attempt: Attempt,
    points: Sequence[Point],
    report: Callable[[CheckpointInfo, float | None, StorageFolder], None],
) -> Callable[[TrainingLoop], Path | None]:
    """Return the function by which a loop saves a checkpoint.

    That function returns the local folder that the loop can go back to; None on a remote file system.

    Args:
        place: Where the checkpoints are.
        wanted: The job and the configuration of the checkpoints.
        attempt: This attempt at the job.
        points: Points of the curves so far.
        report: Is told of each checkpoint, with the best score so far.
    """

    def save(loop: TrainingLoop) -> Path | None:
        info = CheckpointInfo(wanted.job, wanted.config, wanted.world, loop.state.step)
        folder = place.storage.child(place.start).child(checkpoint_name(info, attempt.number))
        save_checkpoint(folder, info, loop, points)
        report(info, loop.state.best, folder)
        local = folder.local_path
        return None if local is None else local / "loop"

    return save
