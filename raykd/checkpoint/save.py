"""Save a training loop's checkpoint, and load it.

Decision record: every rank writes its part where it stays, its manifest last, so that a process that is killed on the
way leaves a checkpoint without a manifest, which is passed over and removed. A checkpoint holds also the points of the
curves up to it: those on their way to the driver are lost with the process.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from raykd.checkpoint.curves import load_points, save_points
from raykd.checkpoint.manifest import CheckpointInfo, describe_files, write_manifest
from raykd.checkpoint.storage import StorageFolder
from raykd.errors import TrainingError
from raykd.point import Point

POINTS = "points.json"
"""Where a checkpoint keeps the points of the curves up to it."""
STOP_AT = "RAYKD_KILL_BEFORE_MANIFEST"
"""For tests: the process ends itself by SIGKILL before the manifest of the checkpoint of this step."""


class SavedLoop(Protocol):
    """What of a training loop is saved: `raykd.student.loop.TrainingLoop`."""

    rank: int
    kept: Path | None

    def save(self, directory: Path) -> None:
        """Write this rank's part."""

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote."""


def save_checkpoint(
    folder: StorageFolder,
    info: CheckpointInfo,
    loop: SavedLoop,
    points: Sequence[Point],
    files: Mapping[str, str] | None = None,
) -> None:
    """Write this rank's part of a checkpoint, its manifest last; all ranks must call.

    Args:
        folder: The checkpoint's own folder.
        info: What the checkpoint says of itself.
        loop: What is saved.
        points: Of the curves up to here; rank 0's count.
        files: What else it holds, name to content; rank 0's count.

    Raises:
        TrainingError: It cannot be written; the checkpoints before are untouched.
    """
    try:
        with folder.stage() as local:
            (local / "loop").mkdir(exist_ok=True)
            loop.save(local / "loop")
            if loop.rank == 0:
                save_points(local / POINTS, points)
                for name, content in (files or {}).items():
                    (local / name).write_text(content, encoding="utf-8")
            manifest = describe_files(StorageFolder(str(local)), info, loop.rank)
        if os.environ.get(STOP_AT) == str(info.step):
            os.kill(os.getpid(), signal.SIGKILL)
        write_manifest(folder, manifest, loop.rank)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError where a file cannot be written
        folder.remove()
        raise checkpoint_write_error(folder, error) from error


def load_checkpoint(loop: SavedLoop, folder: StorageFolder) -> list[Point]:
    """Take a loop to a checkpoint; all ranks must call. Return the points up to it."""
    with folder.fetch() as local:
        loop.load(local / "loop")
        points = load_points(local / POINTS)
    if folder.local_path is None:
        loop.kept = None  # what was fetched is gone
    return points


def checkpoint_write_error(folder: StorageFolder, error: Exception) -> TrainingError:
    """Make the error of a checkpoint that cannot be written: where, why, how much room there is."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    local = folder.local_path
    room = ""
    if local is not None:
        there = next((path for path in (local, *local.parents) if path.exists()), Path("/"))
        room = f" ({shutil.disk_usage(there).free:,} bytes are free in {there})"
    return TrainingError(
        f"the checkpoint {folder.url} cannot be written",
        got=f"{first}{room}",
        wanted="room for three checkpoints",
        next_step="make room, then raykd train --resume: the checkpoints written before are intact",
    )
