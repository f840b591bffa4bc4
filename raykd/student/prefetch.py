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

from raykd.answers.source import AnswerSlots, PendingBatch


@dataclass(frozen=True)
class PendingStep:
    """One optimizer step of one rank whose answers are on their way.

    rows: the rows of each micro-batch. batches: of each of them the teachers' answers to come, None without teachers.
    """

    rows: list[NDArray[np.int64]]
    batches: list[PendingBatch] | None


@dataclass(frozen=True)
class StepWork:
    """One optimizer step of one rank. Written by the prefetcher, read by the loop.

    rows: the rows of each micro-batch. answers: the teachers' answers to each, None without teachers.
    waited_s: how long the student waited for answers.
    """

    step: int
    rows: list[NDArray[np.int64]]
    answers: list[list[AnswerSlots]] | None
    waited_s: float


class Prefetcher:
    """Iterates over optimizer steps, asking `depth` steps ahead.

    Args:
        ask: asks the teachers about the rows of a step.
        depth: steps asked for ahead of the one in hand.
    """

    def __init__(self, ask: Callable[[int], PendingStep], depth: int) -> None:
        self._ask, self._depth = ask, depth

    def steps(self, begin: int, end: int) -> Iterator[StepWork]:
        """The steps ``begin`` to ``end - 1``, in order."""
        ahead: deque[PendingStep] = deque()
        sent = begin
        for step in range(begin, end):
            while sent < end and sent <= step + self._depth:
                ahead.append(self._ask(sent))
                sent += 1
            pending = ahead.popleft()
            begun = time.perf_counter()
            answers = None if pending.batches is None else [batch.result() for batch in pending.batches]
            yield StepWork(step, pending.rows, answers, time.perf_counter() - begun)
