"""One driver a folder: two that write one run would mix their checkpoints and curves.

Decision record: the lock is the kernel's (`flock`), so it is gone with its process, however that ended; nobody has to
clear away what a killed driver left. The file lies beside the run's folder, which may be emptied, and says who holds
it. A file system that has no locks (some network ones) is warned of, and the run goes on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from raykd.errors import ConfigError

log = logging.getLogger("raykd.runs")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run's folder while the body runs.

    Raises:
        ConfigError: another driver holds it; says which.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lock")
    descriptor = _take(path, folder)
    try:
        if descriptor is not None:
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            holder = {"pid": os.getpid(), "host": platform.node(), "since": started}
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        if descriptor is not None:
            path.unlink(
                missing_ok=True
            )  # before it is let go: who waits for it looks whether it is still there
            os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether another process holds a run's folder; a lock that cannot be looked at counts as held."""
    path = folder.with_name(f".{folder.name}.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return f'"pid": {os.getpid()},' not in path.read_text(encoding="utf-8", errors="replace")
    finally:
        os.close(descriptor)
    return False


def _take(path: Path, folder: Path) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(path)
            os.close(descriptor)
            raise ConfigError(
                f"another raykd works in {folder}",
                got=holder,
                wanted="one driver a folder",
                next_step="wait for it or end it; or take another name (name=...)",
            ) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            log.warning(
                "%s has no locks (%s): see yourself that no two runs share a name", path.parent, error
            )
            return None
        if _same(descriptor, path):
            return descriptor
        os.close(descriptor)  # its holder ended and removed it meanwhile


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return f"process {said['pid']} on {said['host']}, since {said['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not said who it is"
