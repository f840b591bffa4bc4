"""Divide the time of a run among its stages, so that the shares add up to the wall time.

Decision record: at each moment the driver's main thread is in one stage, the innermost one, or in none ("other"). While
it waits for a worker, what the first worker does counts instead. Whatever happens beside that (threads, other workers)
is in the trace and in no share, because time that passes twice cannot add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from raykd.timeline.recording import MAIN, Span

DRIVER = "driver"
WORKER = "worker"
"""Names of the processes that shares are made of."""
TRAINING = "worker start and end"
"""The driver's stage in which it waits for a worker; what remains of it is the worker's start and end."""
EPOCH, WAITED = "epoch", "waited_s"
"""Begin of an epoch's name, and the figure of an epoch that says how long the student waited for answers."""
STEPS, WAITING, OTHER = "training steps", "waiting for teachers", "other"


@dataclass(frozen=True)
class Share:
    """The time of one stage. Made by `compute_shares`, read by the report.

    Attributes:
        name: The stage.
        seconds: Over all starts of the run.
    """

    name: str
    seconds: float


@dataclass(frozen=True)
class _Piece:
    """A stretch of time in which one span was the innermost one.

    Attributes:
        name: Of the span.
        waiting: Share of the span's own time in which the student waited for teachers.
    """

    name: str
    begin_s: float
    end_s: float
    waiting: float


def compute_shares(spans: Iterable[Span], *, by_epoch: bool = False) -> tuple[Share, ...]:
    """Return the time of each stage, in the order in which the stages first began.

    Args:
        spans: Of all processes and starts.
        by_epoch: Whether each epoch has a share of its own, over all jobs.

    Returns:
        Shares whose seconds add up to the time from the driver's first span to its last one, over all starts.
    """
    seconds: dict[str, float] = {}
    stages = [span for span in spans if not span.is_part and span.thread == MAIN]
    for start in sorted({span.start for span in stages}):
        own = [span for span in stages if span.start == start]
        driver = _divide([span for span in own if span.process == DRIVER])
        worker = _divide([span for span in own if span.process == WORKER])
        for piece in driver:
            for name, time_s in _list_times(piece, worker if piece.name == TRAINING else (), by_epoch):
                seconds[name] = seconds.get(name, 0.0) + time_s
    return tuple(Share(name, time_s) for name, time_s in seconds.items() if time_s > 0.0)


def _divide(spans: Sequence[Span]) -> list[_Piece]:
    """Return the stretches between all begins and ends, each with the innermost span: the one that began last."""
    listed = [span for span in spans if span.seconds > 0.0]
    edges = sorted(
        (time_s, is_begin, at)
        for at, span in enumerate(listed)
        for time_s, is_begin in ((span.begin_s, True), (span.end_s, False))
    )
    running: list[int] = []
    found: list[tuple[int | None, float, float]] = []
    own_s = [0.0] * len(listed)
    for (begin_s, is_begin, at), (end_s, _, _) in pairwise(edges):
        running.append(at) if is_begin else running.remove(at)
        innermost = max(running, key=lambda i: (listed[i].begin_s, -listed[i].seconds), default=None)
        if end_s > begin_s:
            found.append((innermost, begin_s, end_s))
            if innermost is not None:
                own_s[innermost] += end_s - begin_s
    waiting = [
        min(1.0, s.values.get(WAITED, 0.0) / max(own, 1e-9)) for s, own in zip(listed, own_s, strict=True)
    ]
    return [
        _Piece(OTHER, begin_s, end_s, 0.0)
        if at is None
        else _Piece(listed[at].name, begin_s, end_s, waiting[at])
        for at, begin_s, end_s in found
    ]


def _list_times(piece: _Piece, worker: Sequence[_Piece], by_epoch: bool) -> Iterator[tuple[str, float]]:
    """Yield names and seconds of a stretch of the driver, with what the worker did in it."""
    left = piece.end_s - piece.begin_s
    for inner in worker:
        time_s = min(piece.end_s, inner.end_s) - max(piece.begin_s, inner.begin_s)
        if time_s <= 0.0 or inner.name == OTHER:
            continue
        left -= time_s
        if inner.name.startswith(EPOCH):
            waited_s = inner.waiting * time_s
            yield inner.name if by_epoch else STEPS, time_s - waited_s
            yield f"{inner.name}, {WAITING}" if by_epoch else WAITING, waited_s
        else:
            yield inner.name, time_s
    yield piece.name, left
