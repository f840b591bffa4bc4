"""Checkpoints of a loop that Ray Train hosts: written into the run's folder, looked for after a loss.

Decision record: every rank writes its part where it stays, and Ray Train is told only that it is there: nothing is
written twice, and a worker that is killed leaves no files elsewhere. A checkpoint that was never finished lacks a
manifest; the next attempt passes over it and removes it. A notice that a node will be taken away is looked for by all
ranks together, and answered with a checkpoint at once, so that nothing is done twice.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.checkpoint.curves import load_points, save_points
from raykd.checkpoint.find import CheckpointMark, folder_name, newest, prune, write_manifest
from raykd.errors import TrainingError
from raykd.point import Point

POINTS = "points.json"
"""Where a checkpoint keeps the points of the curves up to it."""
STOP_AT = "RAYKD_KILL_BEFORE_MANIFEST"
"""For tests: the process ends itself by SIGKILL before the manifest of the checkpoint of this step."""


@dataclass(frozen=True)
class CheckpointLocation:
    """Where the checkpoints of a worker group are. start: the folder below ``storage`` of this start of ``name``."""

    storage: Path
    name: str
    start: str


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job, the same on all ranks. found: the checkpoint that it goes on from."""

    found: Path | None
    number: int
    passed_over: tuple[str, ...]


def attempt_at(
    where: CheckpointLocation, wanted: CheckpointMark, rank: int, *, world: int | None = None
) -> Attempt:
    """Rank 0 looks for the newest whole checkpoint and removes what nobody needs; all ranks must call.

    Args:
        world: of so many ranks, where that may not differ (`bound_to`).
    """
    import torch

    said: list[Attempt | None] = [None]
    if rank == 0:
        passed_over: list[str] = []
        found = newest(where.storage, where.name, wanted.job, passed_over.append, world=world)
        prune(where.storage, where.name, where.start, found)
        said[0] = Attempt(found, time.time_ns(), tuple(passed_over))
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        torch.distributed.broadcast_object_list(said, src=0)
    assert said[0] is not None
    return said[0]


def bound_to(loop: Any) -> int | None:
    """The number of ranks that a loop's checkpoints must be of; None where they are converted (see `Engine.load`)."""
    return loop.world if loop.engine.zero_stage == 3 else None


def restore(loop: Any, folder: Path) -> list[Point]:
    """Takes the loop to a checkpoint; returns the points up to it."""
    loop.load(folder / "loop")
    return load_points(folder / POINTS)


def write_checkpoint(loop: Any, folder: Path, mark: CheckpointMark, points: Sequence[Point]) -> None:
    """This rank's part of a checkpoint, its manifest last; all ranks must call.

    Raises:
        TrainingError: it cannot be written; the checkpoints before are untouched.
    """
    try:
        (folder / "loop").mkdir(parents=True, exist_ok=True)
        loop.save(folder / "loop")
        if loop.rank == 0:
            save_points(folder / POINTS, points)
        if os.environ.get(STOP_AT) == str(mark.step):
            os.kill(os.getpid(), signal.SIGKILL)
        write_manifest(folder, mark, loop.rank, loop.world)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError where a file cannot be written
        shutil.rmtree(folder, ignore_errors=True)
        raise cannot_save(folder, error) from error


def cannot_save(folder: Path, error: Exception) -> TrainingError:
    """What to say of a checkpoint that cannot be written: where, why, how much room there is."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return TrainingError(
        f"the checkpoint {folder} cannot be written",
        got=f"{first} ({free:,} bytes are free in {there})",
        wanted="room for three checkpoints",
        next_step="make room, then raykd train --resume: the checkpoints written before are intact",
    )


def keeper(
    where: CheckpointLocation, wanted: CheckpointMark, attempt: Attempt, points: Sequence[Point]
) -> Callable[[Any], Path]:
    """What a loop calls to keep a checkpoint; returns where its own part is."""

    def keep(loop: Any) -> Path:
        import ray.train
        from ray.train import CheckpointUploadMode

        mark = CheckpointMark(wanted.job, wanted.config, wanted.world, loop.state.step)
        folder = where.storage / where.start / folder_name(mark, attempt.number)
        write_checkpoint(loop, folder, mark, points)
        ray.train.report(
            {"job": mark.job, "step": mark.step, "best": loop.state.best},
            checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )
        return folder / "loop"

    return keep


def preemption() -> Callable[[], bool]:
    """Whether a node of this worker group is about to be taken away, said once; all ranks must ask together."""
    import ray.train

    told: set[str] = set()

    def noticed() -> bool:
        info = ray.train.get_preemption_info()
        nodes = set() if info is None else set(info.preempted_node_ids)
        fresh = bool(nodes - told)
        told.update(nodes)
        return fresh

    return noticed
