"""Save a training loop's checkpoint, and load it.

Decision record: every rank writes its files in place and its manifest last. A process that is killed meanwhile leaves
a checkpoint without a manifest, which is passed over and removed. A checkpoint also holds the points of the curves so
far, since points on their way to the driver are lost with the process.
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
"""File in a checkpoint with the points of the curves so far."""
STOP_AT = "RAYKD_KILL_BEFORE_MANIFEST"
"""Environment variable for tests: a step. The process kills itself before it writes that checkpoint's manifest."""


class SavedLoop(Protocol):
    """The part of a training loop that a checkpoint needs; see `raykd.student.loop.TrainingLoop`."""

    rank: int
    kept: Path | None

    def save(self, directory: Path) -> None:
        """Write this rank's files."""

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote."""


def save_checkpoint(
    folder: StorageFolder,
    info: CheckpointInfo,
    loop: SavedLoop,
    points: Sequence[Point],
    files: Mapping[str, str] | None = None,
) -> None:
    """Write this rank's files of a checkpoint, its manifest last. All ranks must call.

    Args:
        folder: The checkpoint's folder.
        info: What its manifest says of it.
        loop: The loop to save.
        points: Points of the curves so far; only rank 0 writes them.
        files: Further files, name to content; only rank 0 writes them.

    Raises:
        TrainingError: The checkpoint cannot be written. Earlier ones are untouched.
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
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError if a file cannot be written
        folder.remove()
        raise checkpoint_write_error(folder, error) from error


def load_checkpoint(loop: SavedLoop, folder: StorageFolder) -> list[Point]:
    """Restore a loop from a checkpoint, and return the points of the curves so far. All ranks must call."""
    with folder.fetch() as local:
        loop.load(local / "loop")
        points = load_points(local / POINTS)
    if folder.local_path is None:
        loop.kept = None  # the local copy is gone
    return points


def checkpoint_write_error(folder: StorageFolder, error: Exception) -> TrainingError:
    """Return the error of a checkpoint that cannot be written, with the free bytes of its disk."""
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
