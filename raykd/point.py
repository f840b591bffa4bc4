"""Define Point, the metrics of one step on their way from the student to MLflow and the report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Point:
    """The metrics of one step. Written by the training loop on rank 0, read by tracking and the report.

    Attributes:
        step: Number of optimizer steps done.
        values: By name of the metric.
        time_ms: Time of the measurement, in milliseconds since 1970.
    """

    step: int
    values: Mapping[str, float]
    time_ms: int = field(default_factory=lambda: int(time.time() * 1000))

    def with_task(self, task: str) -> Point:
        """Return the point with the task's name before each metric. The only task of a run has the empty name."""
        if not task:
            return self
        return Point(
            self.step, {f"{task}/{name}": value for name, value in self.values.items()}, self.time_ms
        )
