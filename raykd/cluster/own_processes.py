"""The processes of the Ray that this process started: found, ended, told.

Decision record: Ray ends its processes one after the other and takes 3 s; where it is told to end in the middle of its
own start it leaves some; and now and then one of its workers hangs in its own exit for good. So what is left is looked
for by what cannot be mistaken: each of its processes is a child of this one or a descendant of one, or writes its
output into the folder of the session, whose name holds the id of the process that started it. Other Rays, and a
stranger who reads a log of this one, are left alone.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from raykd.cluster.interrupts import owns_process, run_before_exit
from raykd.compat.ray_private import forget_shutdown_at_exit, remove_spilled_objects
from raykd.timeline import stage

log = logging.getLogger("raykd.runs")
KILLED_S = 0.8
"""Longest wait for killed processes to be gone."""
SHUTDOWN_S, ENDING_S = 10.0, 1.0
"""How long Ray may take to shut down, and its processes to end by themselves after that."""
_SUBREAPER = 36
_own = False
_ended = threading.Event()


def started_here() -> bool:
    """Return whether this process started a Ray of its own, which is there still."""
    return _own


def claim_own_ray() -> None:
    """Note that this process is about to start a Ray of its own, which ends with it."""
    global _own
    _end_with_process()
    _own = True
    _ended.clear()


@functools.cache
def _end_with_process() -> None:
    """Arrange once, however many Rays a process starts one after the other, that they end with it."""
    if owns_process():
        forget_shutdown_at_exit()  # `leave_own_ray` kills it
    else:
        atexit.register(end_own_ray)  # before Ray's own, since later
    run_before_exit(kill_own_ray)


@contextlib.contextmanager
def ending_own_ray() -> Iterator[None]:
    """End the Ray that the body started, however the body ends; the command line's ends with its process."""
    before = started_here()
    try:
        yield
    finally:
        if not before and not owns_process():
            with stage("Ray ended"):
                end_own_ray()


def end_own_ray() -> None:
    """Shut the own Ray down, look for what it left, end that and say so."""
    global _own
    if not _own:
        return
    ray = sys.modules.get("ray")
    if ray is not None:
        ending = threading.Thread(target=_run_quietly, args=(ray.shutdown,), daemon=True)
        ending.start()
        ending.join(timeout=SHUTDOWN_S)
    until = time.monotonic() + ENDING_S
    while (left := find_own_processes()) and time.monotonic() < until:
        time.sleep(0.05)
    if left:
        kill_own_ray()
        names = ", ".join(f"{name} ({pid})" for pid, name in sorted(left.items()))
        log.warning("Ray left processes behind after its end; they were ended: %s", names)
    _own = False
    _ended.set()


def leave_own_ray() -> None:
    """End the own Ray as the last thing that this process does before it ends: nothing can need it any more.

    Ray takes half a second and more to end by itself, and ends this process where a handle of it is freed after that.
    """
    if _own:
        remove_spilled_objects()
        kill_own_ray()


def hold_until_ended() -> None:
    """Keep the calling thread until the own Ray has ended: the kernel ends what a thread started when it ends."""
    _ended.wait()


def kill_own_ray() -> None:
    """End every process of the own Ray at once, and wait a moment until they are gone.

    The raylet first, so that it starts no others. It is looked at last, because a driver ends itself with another exit
    code once it has noticed that its raylet is gone.
    """
    if not _own:
        return
    with contextlib.suppress(OSError, AttributeError):
        # Orphans become children of this process, so that they do not stay as zombies where nobody looks after them.
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    until = time.monotonic() + KILLED_S
    while True:
        found = find_own_processes()
        raylets = [pid for pid, name in found.items() if name == "raylet"]
        _kill([*raylets, *found])
        for pid in found:
            if pid not in raylets:
                _reap(pid)
        if not any(map(_is_alive, found)) or time.monotonic() > until:
            return
        time.sleep(0.01)


def find_own_processes(driver: int | None = None) -> dict[int, str]:
    """Return the live processes of the Ray that a driver started: name by process id.

    Args:
        driver: Process id of the driver; None is this process.
    """
    driver = os.getpid() if driver is None else driver
    session = re.compile(rf"session_[\d_-]+_{driver}(?!\d)")
    parents = dict(_read_parents())
    below = _descendants({driver}, parents)
    roots = {
        pid
        for pid in parents
        if pid != driver
        and (_is_writing_to(pid, session) or (pid in below and session.search(_read_command(pid))))
    }
    return {pid: _read_name(pid) for pid in roots | _descendants(roots, parents) if _is_alive(pid)}


def _read_parents() -> Iterable[tuple[int, int]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()
                yield int(entry), int(fields[1])


def _descendants(roots: set[int], parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    more = set(roots)
    while more:
        more = {pid for pid, parent in parents.items() if parent in more} - found
        found |= more
    return found


def _is_writing_to(pid: int, session: re.Pattern[str]) -> bool:
    """Return whether output or errors of the process go into the session's folder."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if session.search(os.readlink(f"/proc/{pid}/fd/{number}")):
                return True
    return False


def _read_command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


def _read_name(pid: int) -> str:
    """Return the name of a process: `ray::TrainController` where Ray has named it so, else the program's."""
    command = _read_command(pid).strip("\0")
    if command.startswith("ray::"):
        return command.partition("\0")[0]
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return "gone"


def _is_alive(pid: int) -> bool:
    """Return whether a process lives; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _reap(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)


def _run_quietly(body: Callable[[], object]) -> None:
    with contextlib.suppress(Exception):  # what it did not end is ended here
        body()
