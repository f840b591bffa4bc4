"""Check, before anything starts, that the folders a run writes to can be written.

Decision record: permissions are tried with a temporary file, not read: a read-only file system, a quota and an access
list show only then. Nothing is made in the run's own folder, since a refused run leaves none.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from raykd.config import Run
from raykd.errors import ConfigError, ResourceError

DEEPEST = 320
"""Most bytes of a path below a run's folder: checkpoints of Ray Train, artifacts of MLflow."""
LONGEST_PATH = 4095
"""Bytes of a path that Linux takes."""
PROBE_BYTES = 65_536
"""Bytes of the temporary file: enough that a full disk refuses them."""
_REASONS = {
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.EROFS: "its file system is read-only",
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "your quota is used up",
    errno.ENAMETOOLONG: "a name in it is too long for its file system",
}


def check_places(config: Run) -> str:
    """Check the output folder, the store of the teachers' answers and the folder for temporary files.

    Returns:
        A line for `raykd check`.

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
    """Write and remove a small file in a folder, or in the nearest folder above that exists.

    Args:
        folder: The folder, which may not exist yet.
        key: The setting that names it, for messages.

    Raises:
        ConfigError: A file is in the way, or the folder cannot be written.
        ResourceError: Its disk is full.
    """
    near = folder
    try:
        while not near.exists() and near != near.parent:
            near = near.parent
        if not near.is_dir():
            raise ConfigError(
                f"{key} leads to a file, not to a folder"
                if near == folder
                else f"{key} leads below a file, not to a folder",
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
