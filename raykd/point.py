"""`Point`: values of one step of a run, on their way from the student to MLflow and the report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Point:
    """Values of one step. Written by the training loop on rank 0, read by tracking and the report.

    step: optimizer steps done. values: by metric name. time_ms: milliseconds since 1970, taken when it was measured.
    """

    step: int
    values: Mapping[str, float]
    time_ms: int = field(default_factory=lambda: int(time.time() * 1000))

    def with_task(self, task: str) -> Point:
        """Return the point with its metrics behind the name of a task; the only task of a run has no name."""
        if not task:
            return self
        return Point(
            self.step, {f"{task}/{name}": value for name, value in self.values.items()}, self.time_ms
        )
