"""Record spans of time, each with the process and the thread that it was spent in.

Decision record: one time line is active in a process, found through a module variable, so that a stage is one line
wherever it is and nothing has to be passed down to it. Begin and end are read from the monotonic clock and moved to
the wall clock once, so spans of several processes share an axis and none is longer than it was.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

_SHIFT_S = time.time() - time.perf_counter()
"""From the monotonic clock to seconds since 1970."""
NO_VALUES: Mapping[str, float] = {}
MAIN = "main"
"""Name of the thread that began the recording."""


class Span(NamedTuple):
    """A stretch of time. Written by `stage` and `step_part`, read by the trace and the shares.

    Attributes:
        name: What was done.
        process: Who did it: ``driver``, or a worker's name.
        thread: ``main``, or the thread's name.
        begin_s: Seconds since 1970.
        seconds: How long it took.
        is_part: Whether it is a part of a step, which only `--profile` records.
        start: Number of the run's start, counted from 1; a resume has the next one.
        values: Further figures, such as the seconds of an epoch that were spent waiting.
    """

    name: str
    process: str
    thread: str
    begin_s: float
    seconds: float
    is_part: bool = False
    start: int = 1
    values: Mapping[str, float] = NO_VALUES

    @property
    def end_s(self) -> float:
        """When it ended, in seconds since 1970."""
        return self.begin_s + self.seconds


class Timeline:
    """The spans of one process.

    Args:
        process: Name of the process.
        profile: Whether parts of steps are recorded, too.

    Attributes:
        spans: Finished ones, in the order in which they ended.
        start: Number of the run's start.
    """

    def __init__(self, process: str, *, profile: bool = False) -> None:
        self.process, self.profile, self.start = process, profile, 1
        self.spans: list[Span] = []
        self._main = threading.get_ident()
        self._open: list[_Open] = []

    def add(
        self,
        name: str,
        begin_s: float,
        seconds: float,
        values: Mapping[str, float] = NO_VALUES,
        *,
        is_part: bool = False,
    ) -> None:
        """Add a span of this thread that has ended.

        Args:
            name: What was done.
            begin_s: When it began, on the monotonic clock (`time.perf_counter`).
            seconds: How long it took.
            values: Further figures.
            is_part: Whether it is a part of a step.
        """
        thread = MAIN if threading.get_ident() == self._main else threading.current_thread().name
        self.spans.append(
            Span(name, self.process, thread, begin_s + _SHIFT_S, seconds, is_part, self.start, values)
        )

    def extend(self, spans: Iterable[Span]) -> None:
        """Add the spans of a worker of the same start."""
        self.spans.extend(span._replace(start=self.start) for span in spans)

    def follow(self, earlier: Sequence[Span]) -> None:
        """Count on from the earlier starts of a run, and keep their spans."""
        self.start = max((span.start for span in earlier), default=0) + 1
        self.spans = [*earlier, *(span._replace(start=self.start) for span in self.spans)]

    def take(self) -> list[Span]:
        """Return the finished spans and forget them, as a worker does that hands them to the driver."""
        taken, self.spans = self.spans, []
        return taken

    def snapshot(self) -> list[Span]:
        """Return all spans, with those that are still open as if they ended now."""
        now = time.perf_counter()
        running = [
            Span(s.name, self.process, s.thread, s.begin + _SHIFT_S, now - s.begin, start=self.start)
            for s in list(self._open)
        ]
        return [*self.spans, *running]


_active: Timeline | None = None


class _Open:
    """A stage that has begun."""

    __slots__ = ("_timeline", "begin", "name", "thread")

    def __init__(self, timeline: Timeline, name: str) -> None:
        self._timeline, self.name, self.begin = timeline, name, 0.0
        is_main = threading.get_ident() == timeline._main
        self.thread = MAIN if is_main else threading.current_thread().name

    def __enter__(self) -> None:
        self._timeline._open.append(self)
        self.begin = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timeline.add(self.name, self.begin, time.perf_counter() - self.begin)
        self._timeline._open.remove(self)


class _Part:
    """A part of a step that has begun."""

    __slots__ = ("_begin", "_name", "_timeline")

    def __init__(self, timeline: Timeline, name: str) -> None:
        self._timeline, self._name = timeline, name

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timeline.add(self._name, self._begin, time.perf_counter() - self._begin, is_part=True)


_NOTHING = contextlib.nullcontext()


def stage(name: str) -> contextlib.AbstractContextManager[None]:
    """Record the body as a stage of this process; without a time line the body just runs."""
    return _NOTHING if _active is None else _Open(_active, name)


def step_part(name: str) -> contextlib.AbstractContextManager[None]:
    """Record the body as a part of a step, if this run is profiled."""
    return _NOTHING if _active is None or not _active.profile else _Part(_active, name)


def is_profiled() -> bool:
    """Return whether parts of steps are recorded in this process."""
    return _active is not None and _active.profile


def get_active() -> Timeline | None:
    """Return the time line of this process; None where nothing is recorded."""
    return _active


@contextlib.contextmanager
def recording(timeline: Timeline) -> Iterator[Timeline]:
    """Make a time line the one of this process while the body runs."""
    global _active
    before, _active = _active, timeline
    try:
        yield timeline
    finally:
        _active = before


_process_begin_s: float | None = None


def note_process_start() -> None:
    """Let the first time line begin with this process; for programs that do nothing but a run."""
    global _process_begin_s
    _process_begin_s = time.perf_counter() - _read_process_age_s()


def add_process_start(timeline: Timeline) -> None:
    """Add what the process did before the time line, where `note_process_start` was called; once."""
    global _process_begin_s
    if _process_begin_s is not None:
        timeline.add("start and imports", _process_begin_s, time.perf_counter() - _process_begin_s)
    _process_begin_s = None


def _read_process_age_s() -> float:
    """Return the age of this process; 0 where the system does not tell it."""
    try:
        # The name, in parentheses, may hold spaces; the fields behind it do not.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
