"""Decide whether the winner of a sweep is really better: two arms, the same seeds, paired differences.

Decision record: the winner of a search has the luck of the search in its validation score. It is therefore run again
with new seeds beside the default, and judged on test rows that no choice has seen. Both arms share a seed's data order
and initial weights, so the difference is taken seed by seed, which removes what the seed does to both. The interval is
Student's t over the seeds. It says how sure the mean difference is for these rows, not how another test set would look.
An arm's missing seed leaves its partner out, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raykd.report.fitted_table import FittedTable, build_form
from raykd.report.formats import (
    ABSENT,
    choose_unit,
    format_metric_name,
    format_signed,
    render_markdown_table,
)
from raykd.report.table import Row
from raykd.tasks.scores.metrics import find_metric_title, is_higher_better, is_rate
from raykd.tasks.scores.ranking import round_score

SPLITS = ("test", "validation")
MACRO = "macro"
Scores = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Arm to seed to ``split/language/metric`` (language ``macro`` is the mean): ``test/macro/accuracy``."""


@dataclass(frozen=True)
class PairedDifference:
    """First arm minus second arm, over the seeds that both have, in raw units (a rate is in [0, 1]).

    Attributes:
        seeds: Number of pairs.
        means: The mean of each arm over these.
        mean: Of the differences.
        low, high: Student-t 95 % interval of the mean difference; None with fewer than two pairs.
        wins: Pairs in which the first arm is better, as `raykd.tasks.scores.ranking` compares.
        ties: Pairs in which both are equal.
    """

    split: str
    language: str
    metric: str
    seeds: int
    means: tuple[float, float]
    mean: float
    low: float | None
    high: float | None
    wins: int
    ties: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def scale(self) -> float:
        """The factor with which numbers are shown: 100 for rates, whose differences are percentage points."""
        return 100.0 if is_rate(self.metric) else 1.0

    @property
    def unit(self) -> str:
        """The unit in which the difference is shown."""
        return choose_unit(self.metric)

    @property
    def interval(self) -> str | None:
        """The interval as text; None without one."""
        if self.low is None or self.high is None:
            return None
        return f"{self.format(self.low)} to {self.format(self.high)}"

    @property
    def score_of_wins(self) -> str:
        """How many seeds the first arm won, as text."""
        return f"{self.wins} of {self.seeds}" + (f", {self.ties} equal" if self.ties else "")

    def format(self, value: float) -> str:
        """Return a difference with its sign, in `unit`."""
        return format_signed(self.scale * value, self._digits)

    def format_means(self) -> list[str]:
        """Return both means; rates in per cent."""
        return [f"{self.scale * mean:.{self._digits}f}" for mean in self.means]

    @property
    def _digits(self) -> int:
        return 2 if self.scale == 100 else 3


@dataclass(frozen=True)
class ConfirmationReport:
    """Two settings, each trained with several seeds.

    Attributes:
        arms: The setting in question, then what it is compared with.
        scores: See `Scores`. An arm may lack a seed that failed.
        metric: The one the sweep looked at, shown first.
        notes: What a reader must know.
    """

    arms: tuple[str, str]
    seeds: tuple[int, ...]
    scores: Scores
    metric: str = "accuracy"
    title: str = "Confirmation"
    summary: str = ""
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    created: str = ""

    def pair_scores(self, split: str, language: str, metric: str) -> list[tuple[int, float, float]]:
        """Return (seed, first arm, second arm) for the seeds in which both arms have this number."""
        name = f"{split}/{language}/{metric}"
        first, second = (self.scores.get(arm, {}) for arm in self.arms)
        found = [
            (seed, first.get(seed, {}).get(name, math.nan), second.get(seed, {}).get(name, math.nan))
            for seed in self.seeds
        ]
        return [row for row in found if math.isfinite(row[1]) and math.isfinite(row[2])]

    def compute_differences(self) -> list[PairedDifference]:
        """Compare every number that both arms have.

        Returns:
            Test before validation, `metric` before other metrics, the mean before languages.
        """
        names = dict.fromkeys(n for by_seed in self.scores.values() for v in by_seed.values() for n in v)
        parts = [tuple(n.split("/")) for n in names]
        kept = [p for p in parts if len(p) == 3 and self.pair_scores(*p)]
        metrics = [self.metric, *dict.fromkeys(m for _, _, m in kept)]
        languages = [MACRO, *dict.fromkeys(x for _, x, _ in kept)]
        splits = [*SPLITS, *dict.fromkeys(s for s, _, _ in kept)]
        kept.sort(key=lambda p: (splits.index(p[0]), metrics.index(p[2]), languages.index(p[1])))
        return [compute_paired_difference(self.pair_scores(*p), *p) for p in kept]

    @property
    def main_difference(self) -> PairedDifference | None:
        """The difference that decides: `metric`, mean over languages, test rows (validation if there are none)."""
        wanted = (d for d in self.compute_differences() if d.language == MACRO and d.metric == self.metric)
        return next(wanted, None)

    def describe(self) -> str:
        """Return what the main difference says, for a person."""
        d = self.main_difference
        first, second = self.arms
        if d is None:
            return f"There is no seed for which both {first} and {second} were measured on {self.metric}."
        mean = f"{d.format(d.mean)} {d.unit}".rstrip()
        head = f"{first} − {second}, {d.split} {format_metric_name(d.metric)}, mean over languages: {mean}"
        if d.interval is None:
            return f"{head}, from {d.seeds} seed; an interval needs at least two."
        better = (d.mean > 0) == is_higher_better(d.metric)
        conclusion = (
            f"excludes 0: {first} is {'better' if better else 'worse'} than {second}"
            if d.excludes_zero
            else "includes 0: these seeds do not show a difference"
        )
        wins = f"{first} wins {d.score_of_wins}"
        return f"{head} (95 % interval {d.interval}, {d.seeds} seeds, {wins}). The interval {conclusion}."

    def list_missing(self) -> list[str]:
        """Return arms and seeds without any number, as texts."""
        return [
            f"{arm}, seed {seed}" for arm in self.arms for seed in self.seeds
            if not self.scores.get(arm, {}).get(seed)
        ]  # fmt: skip

    def to_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows of the table of paired differences as texts."""
        heads = ["split", "language", "metric", *self.arms, "difference", "95 % interval", "wins", "seeds"]
        return heads, [
            [
                d.split, "mean" if d.language == MACRO else d.language, find_metric_title(d.metric),
                *d.format_means(), d.format(d.mean), d.interval or ABSENT, d.score_of_wins, str(d.seeds),
            ]
            for d in self.compute_differences()
        ]  # fmt: skip

    def to_rows(self) -> list[Row]:
        """Return a flat row for each difference, unrounded, ready for JSON."""
        first, second = self.arms
        return [
            {
                "split": d.split, "language": d.language, "metric": d.metric, "seeds": d.seeds,
                f"{first}_mean": d.means[0], f"{second}_mean": d.means[1], "difference": d.mean,
                "low": d.low, "high": d.high, "wins": d.wins, "ties": d.ties,
                "excludes_zero": d.excludes_zero,
            }
            for d in self.compute_differences()
        ]  # fmt: skip

    def to_rich(self) -> FittedTable:
        """Return the table for the terminal, with `describe` below it."""
        heads, lines = self.to_cells()
        main = self.main_difference
        bold = frozenset(at for at, d in enumerate(self.compute_differences()) if d == main)
        remarks = (self.describe(),)
        records = [[f"{split} {language}, {metric}", *rest] for split, language, metric, *rest in lines]
        form = build_form(heads, lines, left=3, bold=bold, remarks=remarks)
        return FittedTable((form,), ["", *heads[3:]], records, bold=bold, remarks=remarks)

    def to_markdown(self) -> str:
        """Return the sentence and the table as GitHub Markdown."""
        return f"{self.describe()}\n\n{render_markdown_table(*self.to_cells())}\n"


def compute_paired_difference(
    pairs: Sequence[tuple[int, float, float]], split: str, language: str, metric: str
) -> PairedDifference:
    """Compute the mean paired difference and its Student-t 95 % interval, n - 1 degrees of freedom.

    Args:
        pairs: (seed, first arm, second arm), at least one.
        split: Split of the scores.
        language: Language of the scores.
        metric: Name of the metric.
    """
    from scipy.stats import t

    first_n, second_n = np.asarray([p[1:] for p in pairs], dtype=np.float64).T
    difference_n = first_n - second_n
    n, mean = len(difference_n), float(difference_n.mean())
    low = high = None
    if n > 1:
        half = float(t.ppf(0.975, n - 1) * difference_n.std(ddof=1) / math.sqrt(n))
        low, high = mean - half, mean + half
    seen_n = np.asarray([round_score(p[1]) - round_score(p[2]) for p in pairs])
    better_n = seen_n > 0 if is_higher_better(metric) else seen_n < 0
    return PairedDifference(
        split, language, metric, n, (float(first_n.mean()), float(second_n.mean())), mean, low, high,
        wins=int(better_n.sum()), ties=int((seen_n == 0).sum()),
    )  # fmt: skip
