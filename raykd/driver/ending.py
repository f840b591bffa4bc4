"""Describe how a job's training ended: the step of the saved student, and whether patience stopped it early.

Decision record: this is read from the curves, which are complete after a resume too. Terminal, page and log use the
same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raykd.point import Point
from raykd.tasks.scores.metrics import AGREEMENT, is_higher_better, name_agreement
from raykd.tasks.scores.ranking import build_rank_key


@dataclass(frozen=True)
class Ending:
    """The best evaluation of a job, and its last step.

    Attributes:
        metric: The validation metric that chooses the best checkpoint.
        best: Its best value.
        best_step: The step of the best value, whose student is saved.
        step: The last step with an evaluation.
        total: Steps that were asked for.
        evaluations_since: Evaluations after the best one.
    """

    metric: str
    best: float
    best_step: int
    step: int
    total: int
    evaluations_since: int

    @property
    def saved(self) -> str:
        """The saved student, for example ``best validation accuracy 0.670 at step 36 (saved)``."""
        return f"best validation {self.metric} {self.best:.3f} at step {self.best_step:,} (saved)"

    @property
    def stopped(self) -> str | None:
        """When patience stopped the job; None if it did not."""
        if self.step >= self.total:
            return None
        waited = f"{self.evaluations_since} evaluation{'' if self.evaluations_since == 1 else 's'}"
        return f"stopped early at {self.step:,} of {self.total:,} steps: no better for {waited}"

    def __str__(self) -> str:
        return "; ".join(filter(None, [self.stopped, self.saved]))


def find_ending(points: Sequence[Point], metric: str, total: int) -> Ending | None:
    """Return how the job with these curves ended; None if it was never evaluated.

    Args:
        points: Its curves.
        metric: The validation metric that chooses the best checkpoint.
        total: Steps that were asked for.
    """
    name = f"eval/mean/{metric}"
    nll = f"eval/mean/{name_agreement('nll') if metric.startswith(AGREEMENT) else 'nll'}"
    scored = {p.step: p for p in points if name in p.values}
    if not scored:
        return None
    higher = is_higher_better(metric)

    def order(point: Point) -> tuple[tuple[float, float], int]:
        return (
            build_rank_key(point.values[name], point.values.get(nll), higher_is_better=higher),
            point.step,
        )

    best = min(scored.values(), key=order)
    evaluations_since = sum(step > best.step for step in scored)
    return Ending(metric, best.values[name], best.step, max(scored), total, evaluations_since)
