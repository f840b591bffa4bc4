"""Compare two arms seed by seed: the paired difference, its intervals, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raykd.report.comparisons.statistics import (
    Interval,
    bootstrap_seeds,
    compute_t_interval,
    compute_t_test,
)
from raykd.report.formats import choose_unit, format_signed
from raykd.tasks.scores.metrics import is_higher_better, is_rate
from raykd.tasks.scores.ranking import round_score

SPLITS = ("test", "validation")
MACRO = "macro"
GROUP = "group"
"""Second part of the name of a score on the rows of a value of `data.columns.group`: ``test/group/hotel/accuracy``."""
PEER = "peer"
"""First part of the names of scores of a student's peer: ``peer/test/macro/accuracy``."""
SIGNIFICANT = 0.05
"""A corrected p-value below this is called a difference."""


@dataclass(frozen=True)
class PairedDifference:
    """One arm minus another over the seeds that both have, in raw units (a rate is in [0, 1]).

    Attributes:
        arm: The arm in question.
        against: What it is compared with.
        split: Split of the rows.
        language: Language, or `MACRO` for the mean over languages; of a score by class or by group that.
        metric: Name of the metric.
        seeds: Number of pairs.
        means: The mean of each arm over these.
        mean: Of the differences.
        interval: Student's t 95 % interval of the mean difference; None with fewer than two pairs.
        bootstrap: Percentile interval over resampled seeds (and rows, where units are counted); None as above, or not
            computed.
        p: Two-sided p-value of the paired t test; None with fewer than two pairs.
        corrected_p: The same, corrected for the number of comparisons in its table; None where it stands in none.
        wins: Pairs in which the arm is better, as `raykd.tasks.scores.ranking` compares.
        ties: Pairs in which both are equal.
    """

    arm: str
    against: str
    split: str
    language: str
    metric: str
    seeds: int
    means: tuple[float, float]
    mean: float
    interval: Interval | None
    bootstrap: Interval | None
    p: float | None
    wins: int
    ties: int
    corrected_p: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the t interval lies on one side of 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def is_significant(self) -> bool:
        """Whether the difference stands after the correction for the number of comparisons."""
        return self.corrected_p is not None and self.corrected_p < SIGNIFICANT

    @property
    def is_better(self) -> bool:
        """Whether the arm is better on average."""
        return (self.mean > 0) == is_higher_better(self.metric) and self.mean != 0

    @property
    def scale(self) -> float:
        """The factor with which numbers are shown: 100 for rates, whose differences are percentage points."""
        return find_scale(self.metric)

    @property
    def unit(self) -> str:
        """The unit in which the difference is shown."""
        return choose_unit(self.metric)

    def format(self, value: float) -> str:
        """Return a difference with its sign, in `unit`."""
        return format_signed(self.scale * value, 2 if self.scale == 100 else 3)

    def format_interval(self, interval: Interval | None) -> str | None:
        """Return an interval of the difference as text; None for None."""
        return None if interval is None else f"{self.format(interval[0])} to {self.format(interval[1])}"

    @property
    def score_of_wins(self) -> str:
        """How many seeds the arm won, as text."""
        return f"{self.wins} of {self.seeds}" + (f", {self.ties} equal" if self.ties else "")


def find_scale(metric: str) -> float:
    """Return the factor with which a metric is shown."""
    return 100.0 if is_rate(metric) else 1.0


def compute_paired_difference(
    pairs: Sequence[tuple[int, float, float]],
    arm: str,
    against: str,
    split: str = SPLITS[0],
    language: str = MACRO,
    metric: str = "accuracy",
) -> PairedDifference:
    """Compute the mean paired difference with its t interval, its bootstrap interval over seeds and its p-value.

    Args:
        pairs: (seed, score of the arm, score of what it is compared with), at least one.
        arm: Name of the arm.
        against: Name of what it is compared with.
        split: Split of the scores.
        language: Language of the scores.
        metric: Name of the metric.
    """
    first_S, second_S = np.asarray([p[1:] for p in pairs], dtype=np.float64).T
    difference_S = first_S - second_S
    seen_S = np.asarray([round_score(p[1]) - round_score(p[2]) for p in pairs])
    better_S = seen_S > 0 if is_higher_better(metric) else seen_S < 0
    return PairedDifference(
        arm, against, split, language, metric, len(pairs),
        (float(first_S.mean()), float(second_S.mean())),
        float(difference_S.mean()),
        compute_t_interval(difference_S),
        bootstrap_seeds(difference_S.tolist()),
        compute_t_test(difference_S),
        wins=int(better_S.sum()), ties=int((seen_S == 0).sum()),
    )  # fmt: skip
