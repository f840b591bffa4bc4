"""What the teachers did for a run, over all its starts, on disk as it grows.

Decision record: counters live in the teachers' processes and end with them, so the driver writes them to the run's
state every second, one entry a start, and at once where teachers have been judged or have answered ahead. A start that
was killed before that is completed by the next one: what it computed is in the stores, so the answers that are there
now and were not when it began are what it computed. Later on the entry stays as it was written last, since other runs
fill the same stores. The sum over all starts is then that of a run that was never broken off, to a second of a run
that was killed while it trained.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raykd.errors import RaykdError
from raykd.folders.folder import RunFolder
from raykd.teachers.pools.pool import TeacherPool

log = logging.getLogger("raykd.runs")
KEY = "teachers"
"""Where a state keeps them."""
EVERY_S = 1.0
LEVELS = ("loaded",)
"""Counters that say how something is, not how often it was done."""


class TeacherCounts:
    """The counters of a run's teachers in this start and those before.

    Args:
        folder: Of the run; keeps them.
        pools: Of this start, opened.

    Attributes:
        completed: Counters of the starts before that were cut off and that nobody had completed yet.
    """

    def __init__(self, folder: RunFolder, pools: Sequence[TeacherPool]) -> None:
        self._folder, self._pools = folder, list(pools)
        self._ended, self._lock = threading.Event(), threading.Lock()
        stored = self._stored()
        before = folder.state.get(KEY, [])
        earlier = [_complete_start(start, stored) if _is_cut_off(start) else start for start in before]
        self.completed = [
            now["counters"] for was, now in zip(before, earlier, strict=True) if _is_cut_off(was)
        ]
        self._now: dict[str, Any] = {"began_with": stored, "counters": {}, "filling": True, "ended": False}
        self._starts = [*earlier, self._now]
        folder.write_state(**{KEY: self._starts})

    def _stored(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for pool in self._pools:
            found |= pool.stored()
        return found

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Write them while the body runs, and once more where it comes to its end."""
        thread = threading.Thread(target=self._poll, name="raykd-counts", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()  # and nothing is waited for: the command may have been told to end
        thread.join(timeout=EVERY_S)
        self._keep_what_is_left()
        self._now["ended"] = True
        self._folder.write_state(**{KEY: self._starts})

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Nothing is read while the body runs, which ends actors and starts others."""
        with self._lock:
            yield

    def keep(self) -> None:
        """Read and write them now."""
        with self._lock:
            counters: dict[str, dict[str, int]] = {}
            for pool in self._pools:
                counters |= pool.counters()
            if counters == self._now["counters"]:
                return
            self._now["counters"] = counters
        self._folder.write_state(**{KEY: self._starts})

    def mark_filled(self) -> None:
        """The teachers have answered what is asked of them ahead: from here on the counters are as they are written."""
        self._now["filling"] = False
        self._keep_what_is_left()
        self._folder.write_state(**{KEY: self._starts})

    def totals(self) -> dict[str, dict[str, float]]:
        """Of all starts."""
        self._keep_what_is_left()
        return sum_counters(self._folder.state)

    def _keep_what_is_left(self) -> None:
        with contextlib.suppress(RaykdError):  # a teacher that was lost keeps what was read of it last
            self.keep()

    def _poll(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                self.keep()
            except Exception:  # a replica that is down, a full disk: said where it stops the run
                log.info("the teachers' counters were not read", exc_info=True)


def sum_counters(state: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Counters of all starts that a state knows of, by teacher."""
    found: dict[str, dict[str, float]] = {}
    for start in state.get(KEY, ()):
        for name, values in start["counters"].items():
            into = found.setdefault(name, {})
            for what, value in values.items():
                into[what] = value if what in LEVELS else into.get(what, 0) + value
    return found


def count_finished_starts(state: Mapping[str, Any]) -> int:
    """Return how many starts ended in order."""
    return sum(bool(start["ended"]) for start in state.get(KEY, ()))


def _is_cut_off(start: Mapping[str, Any]) -> bool:
    """Return whether a start did not come to its end, and no later one has completed it."""
    return not start["ended"] and not start.get("completed")


def _complete_start(start: Mapping[str, Any], stored: Mapping[str, int]) -> dict[str, Any]:
    """Return a start that was cut off, with what the stores gained by it.

    Args:
        stored: Answers in the store of each teacher, now.
    """
    counters = {name: dict(values) for name, values in start["counters"].items()}
    if not start.get("filling"):
        return {**start, "completed": True}
    for name, before in start["began_with"].items():
        gained = stored.get(name, before) - before
        if gained < 0:
            continue  # the store was cleared
        own = counters.setdefault(name, {})
        own |= {"answered": gained, "forwarded": gained}
    return {**start, "counters": counters, "completed": True}
