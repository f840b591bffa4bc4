"""Count what the teachers did for a run, over all its starts, and keep the counts on disk.

Decision record: counters live in the teachers' processes and end with them. So the driver writes them to the run's
state every second, one entry per start, and at once when teachers have been reviewed or have answered ahead. If a start
is killed while the teachers fill their stores, the next start completes its entry: the answers that were added to the
stores since are what it computed. Later the last written entry stays, since other runs may fill the same stores. The
sum over all starts is then that of an unbroken run, up to the last second before a kill.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NotRequired, TypedDict

from raykd.errors import RaykdError
from raykd.folders.folder import RunFolder
from raykd.parse import JsonObject
from raykd.teachers.pools.pool import TeacherPool

log = logging.getLogger("raykd.runs")
KEY = "teachers"
"""Key of the counters in a run's state."""
EVERY_S = 1.0
"""Seconds between two writes."""
LEVELS = ("loaded",)
"""Counters of a present state; they are not summed over starts."""


class StartCounts(TypedDict):
    """What one start of a run keeps in the run's state.

    Attributes:
        began_with: Answers in the store of each teacher when the start began.
        counters: The counters of each teacher, as last read.
        filling: Whether the teachers have not filled their stores yet.
        ended: Whether the start succeeded.
        completed: Whether a later start has completed the entry.
    """

    began_with: dict[str, int]
    counters: dict[str, dict[str, int]]
    filling: bool
    ended: bool
    completed: NotRequired[bool]


class TeacherCounts:
    """The counters of a run's teachers in this start and in earlier ones.

    Args:
        folder: The run's folder, which keeps them.
        pools: The opened pools of this start.

    Attributes:
        completed: Counters of the earlier starts that this one has completed.
    """

    def __init__(self, folder: RunFolder, pools: Sequence[TeacherPool]) -> None:
        self._folder, self._pools = folder, list(pools)
        self._ended, self._lock = threading.Event(), threading.Lock()
        stored = self._stored()
        before: list[StartCounts] = folder.state.get(KEY, [])
        earlier = [_complete_start(start, stored) if _is_cut_off(start) else start for start in before]
        self.completed = [
            now["counters"] for was, now in zip(before, earlier, strict=True) if _is_cut_off(was)
        ]
        self._now = StartCounts(began_with=stored, counters={}, filling=True, ended=False)
        self._starts = [*earlier, self._now]
        folder.write_state(**{KEY: self._starts})

    def _stored(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for pool in self._pools:
            found |= pool.stored()
        return found

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Write the counters while the body runs, and once more if it succeeds."""
        thread = threading.Thread(target=self._poll, name="raykd-counts", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()  # without waiting for the thread: the command may be ending
        thread.join(timeout=EVERY_S)
        self._keep_what_is_left()
        self._now["ended"] = True
        self._folder.write_state(**{KEY: self._starts})

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Read no counters while the body runs, which replaces actors."""
        with self._lock:
            yield

    def keep(self) -> None:
        """Read the counters, and write them if they have changed."""
        with self._lock:
            counters: dict[str, dict[str, int]] = {}
            for pool in self._pools:
                counters |= pool.counters()
            if counters == self._now["counters"]:
                return
            self._now["counters"] = counters
        self._folder.write_state(**{KEY: self._starts})

    def mark_filled(self) -> None:
        """Mark that the teachers have filled their stores, so that a later start does not complete this entry."""
        self._now["filling"] = False
        self._keep_what_is_left()
        self._folder.write_state(**{KEY: self._starts})

    def totals(self) -> dict[str, dict[str, float]]:
        """Return the counters summed over all starts, by teacher."""
        self._keep_what_is_left()
        return sum_counters(self._folder.state)

    def _keep_what_is_left(self) -> None:
        with contextlib.suppress(RaykdError):  # a lost teacher keeps its last counters
            self.keep()

    def _poll(self) -> None:
        while not self._ended.wait(EVERY_S):
            try:
                self.keep()
            except Exception:  # a dead replica or a full disk raises again where it matters
                log.info("the teachers' counters were not read", exc_info=True)


def sum_counters(state: JsonObject) -> dict[str, dict[str, float]]:
    """Return the counters of a state summed over its starts, by teacher."""
    found: dict[str, dict[str, float]] = {}
    for start in state.get(KEY, ()):
        for name, values in start["counters"].items():
            into = found.setdefault(name, {})
            for what, value in values.items():
                into[what] = value if what in LEVELS else into.get(what, 0) + value
    return found


def count_finished_starts(state: JsonObject) -> int:
    """Return how many starts succeeded."""
    return sum(bool(start["ended"]) for start in state.get(KEY, ()))


def _is_cut_off(start: StartCounts) -> bool:
    """Return whether a start did not succeed, and no later start has completed its entry."""
    return not start["ended"] and not start.get("completed")


def _complete_start(start: StartCounts, stored: Mapping[str, int]) -> StartCounts:
    """Return the entry of a start that was cut off, with the answers that it added to the stores.

    Args:
        start: The entry.
        stored: Number of answers in the store of each teacher, now.
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
