"""`Prefetcher`: asks the teachers some optimizer steps before their answers are needed.

Decision record: a teacher that is asked when its answer is needed makes the step as long as both times together. Asked
one or two steps ahead, a step takes the longer of the two. The number of steps ahead is bounded, so that answers never
pile up.
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

    Attributes:
        rows: The rows of each micro-batch.
        batches: The answers to each micro-batch; None without teachers.
    """

    rows: list[NDArray[np.int64]]
    batches: list[PendingBatch] | None


@dataclass(frozen=True)
class StepWork:
    """One optimizer step of one rank. Written by the prefetcher, read by the loop.

    Attributes:
        step: Counted from 0.
        rows: The rows of each micro-batch.
        answers: The teachers' answers to each micro-batch; None without teachers.
        waited_s: How long the student waited for answers.
    """

    step: int
    rows: list[NDArray[np.int64]]
    answers: list[list[AnswerSlots]] | None
    waited_s: float


class Prefetcher:
    """Iterates over optimizer steps and asks the teachers ahead.

    Args:
        ask: Asks the teachers about the rows of a step.
        prefetch: How many steps after the current one are asked for already.
    """

    def __init__(self, ask: Callable[[int], PendingStep], prefetch: int) -> None:
        self._ask, self._prefetch = ask, prefetch

    def steps(self, begin: int, end: int) -> Iterator[StepWork]:
        """Yield the steps ``begin`` to ``end - 1``, in order."""
        ahead: deque[PendingStep] = deque()
        sent = begin
        for step in range(begin, end):
            while sent < end and sent <= step + self._prefetch:
                ahead.append(self._ask(sent))
                sent += 1
            pending = ahead.popleft()
            begun = time.perf_counter()
            answers = None if pending.batches is None else [batch.result() for batch in pending.batches]
            yield StepWork(step, pending.rows, answers, time.perf_counter() - begun)
