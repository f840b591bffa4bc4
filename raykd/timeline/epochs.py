"""Record the epochs of a training loop, each with the time that the student waited for its teachers."""

from __future__ import annotations

import time

from raykd.timeline.recording import get_active
from raykd.timeline.shares import EPOCH, WAITED

LEAST_S = 0.05
"""Shorter epochs share a stage with the next ones, so that a run of many tiny epochs has few stages."""


class EpochStages:
    """Cuts the steps of a loop into stages, one per epoch.

    Args:
        steps_per_epoch: Of the loop.
    """

    def __init__(self, steps_per_epoch: int) -> None:
        self._length = steps_per_epoch
        self._begin: float | None = None
        self._first, self._waited_s, self._steps = 1, 0.0, 0

    def begin_step(self, step: int) -> None:
        """Begin a stage, if none has begun.

        Args:
            step: Counted from 0.
        """
        if self._begin is None:
            self._begin, self._first = time.perf_counter(), step // self._length + 1
            self._waited_s, self._steps = 0.0, 0

    def end_step(self, done: int, waited_s: float, *, is_last: bool) -> None:
        """Count a step, and end the stage with its epoch.

        Args:
            done: Steps of the run so far.
            waited_s: How long the student waited for answers.
            is_last: Whether the stage ends here in any case.
        """
        self._waited_s, self._steps = self._waited_s + waited_s, self._steps + 1
        if self._begin is None or not (is_last or done % self._length == 0):
            return
        seconds = time.perf_counter() - self._begin
        if seconds < LEAST_S and not is_last:
            return
        last = max(1, -(-done // self._length))
        name = f"{EPOCH} {last}" if last == self._first else f"{EPOCH}s {self._first} to {last}"
        timeline = get_active()
        if timeline is not None:
            values = {WAITED: self._waited_s, "steps": float(self._steps)}
            timeline.add(name, self._begin, seconds, values)
        self._begin = None
