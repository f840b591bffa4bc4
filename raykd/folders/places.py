"""Whether the places that a run writes to can be written, tried before anything starts.

Decision record: permissions are not read but tried, with a file that is removed at once: a read-only file system, a
quota and an access list refuse only then. Nothing is made in the run's own folder, since a run that is refused leaves
none.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from raykd.config import Run
from raykd.errors import ConfigError, ResourceError

DEEPEST = 320
"""Bytes that the paths below a run's folder take at most: checkpoints of Ray Train, artifacts of MLflow."""
LONGEST_PATH = 4095
PROBE_BYTES = 65_536
_REASONS = {
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.EROFS: "its file system is read-only",
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "your quota is used up",
    errno.ENAMETOOLONG: "a name in it is too long for its file system",
}


def check_places(config: Run) -> str:
    """Try the folder of all runs, the teachers' answers and Python's folder for temporary files.

    Raises:
        ConfigError: A place cannot be a folder, or cannot be written.
        ResourceError: Its disk is full.
    """
    output = Path(config.output)
    folder = output.resolve() / config.name
    if len(os.fsencode(folder)) + DEEPEST > LONGEST_PATH:
        raise ConfigError(
            "output and name make paths that are too long",
            got=f"{len(os.fsencode(folder))} bytes: {str(folder)[:40]}...",
            wanted=f"at most {LONGEST_PATH - DEEPEST} bytes",
            next_step="set output to a folder nearer to the root",
        )
    try_folder(output.resolve(), "output")
    for part in ("teachers", config.name):
        try_folder(output.resolve() / part, "output")
    store = config.serving.store
    if store is not None and config.active_teachers:
        try_folder((output.resolve() / store).resolve(), "serving.store")
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise ConfigError(
            "no folder for temporary files can be written",
            got=str(error),
            wanted="TMPDIR, /tmp or the working directory with room for files",
            next_step="set TMPDIR to a folder that you may write",
        ) from None
    return f"{output.resolve()} can be written"


def try_folder(folder: Path, key: str) -> None:
    """Write a small file where a folder is, or will be made, and remove it.

    Args:
        key: What names the folder, for people.

    Raises:
        ConfigError: It is below a file, or cannot be written.
        ResourceError: Its disk is full.
    """
    near = folder
    try:
        while not near.exists() and near != near.parent:
            near = near.parent
        if not near.is_dir():
            raise ConfigError(
                f"{key} leads {'to' if near == folder else 'below'} a file, not to a folder",
                got=str(near),
                wanted="a folder, or a path where one can be made",
                next_step=f"set {key} to another folder, or move the file",
            )
        with tempfile.TemporaryFile(dir=near) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        kind = ResourceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else ConfigError
        raise kind(
            f"{key} cannot be written: {_REASONS.get(error.errno or 0, os.strerror(error.errno or 0))}",
            got=f"{near}" + (f" ({folder} is to be made in it)" if near != folder else ""),
            wanted="a folder on a disk with room, that you may write",
            next_step=f"set {key} to such a folder" + ("" if kind is ConfigError else ", or free space"),
        ) from None
