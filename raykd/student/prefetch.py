"""Keeps teachers ahead of the student: answers are asked for some optimizer steps before they are needed.

Decision record: a teacher asked only when its answer is needed is slower than a teacher in the student's own
process; asked one or two steps ahead, the step costs the larger of the two times instead of their sum. The number
of steps ahead is bounded, so that answers never pile up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import SignalSource, TeacherSignal, TextBatch, Ticket


@dataclass(frozen=True)
class StepWork:
    """One optimizer step of one rank. Written by the prefetcher, read by the loop.

    rows: the rows of each micro-batch. signals: the teachers' answers to each, None without teachers.
    waited_s: how long the student waited for answers.
    """

    step: int
    rows: list[NDArray[np.int64]]
    signals: list[list[TeacherSignal]] | None
    waited_s: float


class Prefetcher:
    """Iterates over optimizer steps, asking `depth` steps ahead.

    Args:
        source: None trains without teachers.
        rows_of: the row indices of each micro-batch of a step, for this rank.
        batch_of: the text of rows.
        depth: steps asked for ahead of the one in hand.
    """

    def __init__(
        self,
        source: SignalSource | None,
        rows_of: Callable[[int], list[NDArray[np.int64]]],
        batch_of: Callable[[Sequence[int]], TextBatch],
        depth: int,
    ) -> None:
        self._source, self._rows_of, self._batch_of, self._depth = source, rows_of, batch_of, depth

    def steps(self, begin: int, end: int) -> Iterator[StepWork]:
        """The steps ``begin`` to ``end - 1``, in order."""
        ahead: deque[tuple[int, list[NDArray[np.int64]], list[Ticket] | None]] = deque()
        sent = begin
        for step in range(begin, end):
            while sent < end and sent <= step + self._depth:
                ahead.append(self._send(sent))
                sent += 1
            at, rows, tickets = ahead.popleft()
            begun = time.perf_counter()
            signals = None if tickets is None else [ticket.result() for ticket in tickets]
            yield StepWork(at, rows, signals, time.perf_counter() - begun)

    def _send(self, step: int) -> tuple[int, list[NDArray[np.int64]], list[Ticket] | None]:
        rows = self._rows_of(step)
        if self._source is None:
            return step, rows, None
        return step, rows, [self._source.submit(self._batch_of(part.tolist())) for part in rows]
