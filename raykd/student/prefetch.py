"""Keeps teachers ahead of the student: answers are asked for some optimizer steps before they are needed.

Decision record: a teacher asked only when its answer is needed is slower than a teacher in the student's own
process; asked one or two steps ahead, the step costs the larger of the two times instead of their sum. The number
of steps ahead is bounded, so that answers never pile up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd.answers.source import PendingBatch, TeacherSignal


@dataclass(frozen=True)
class Asked:
    """One optimizer step of one rank that was asked for.

    rows: the rows of each micro-batch. tickets: of each of them the teachers' answers to come, None without teachers.
    """

    rows: list[NDArray[np.int64]]
    tickets: list[PendingBatch] | None


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
        ask: asks the teachers about the rows of a step.
        depth: steps asked for ahead of the one in hand.
    """

    def __init__(self, ask: Callable[[int], Asked], depth: int) -> None:
        self._ask, self._depth = ask, depth

    def steps(self, begin: int, end: int) -> Iterator[StepWork]:
        """The steps ``begin`` to ``end - 1``, in order."""
        ahead: deque[Asked] = deque()
        sent = begin
        for step in range(begin, end):
            while sent < end and sent <= step + self._depth:
                ahead.append(self._ask(sent))
                sent += 1
            asked = ahead.popleft()
            begun = time.perf_counter()
            signals = None if asked.tickets is None else [ticket.result() for ticket in asked.tickets]
            yield StepWork(step, asked.rows, signals, time.perf_counter() - begun)
