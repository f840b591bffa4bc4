"""Lock a run's folder, so that one driver at a time writes its checkpoints and curves.

Decision record: the lock is the kernel's (`flock`, through `filelock`). It ends with its process, however that ended,
so a killed driver leaves nothing to clear away. The lock file lies beside the run's folder, which may be emptied, and
says who holds it. On a file system without locks (some network ones) the run goes on with a warning.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from raykd.errors import ConfigError

log = logging.getLogger("raykd.runs")


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder while the body runs.

    Raises:
        ConfigError: Another driver holds it; names its process.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_of(folder)
    path = Path(lock.lock_file)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"another raykd works in {folder}",
            got=_describe_holder(path),
            wanted="one driver a folder",
            next_step="wait for it or end it; or take another name (name=...)",
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        log.warning("%s has no locks (%s): see yourself that no two runs share a name", path.parent, error)
    try:
        if lock.is_locked:
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            holder = {"pid": os.getpid(), "host": platform.node(), "since": since}
            path.write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        if lock.is_locked:
            # Removed before the release: whoever gets the lock next checks that its file is still there.
            path.unlink(missing_ok=True)
            lock.release()


def is_held(folder: Path) -> bool:
    """Return whether another process holds a run's folder. A lock that cannot be tried counts as held."""
    lock = _lock_of(folder)
    path = Path(lock.lock_file)
    if not os.path.lexists(path):
        return False
    try:
        with lock:
            return False
    except Timeout:  # held, perhaps by this process
        return f'"pid": {os.getpid()},' not in path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True


def _lock_of(folder: Path) -> FileLock:
    # No soft lock (a file alone): it would outlive a killed driver.
    return FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0, mode=0o600, fallback_to_soft=False)


def _describe_holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not said who it is"
