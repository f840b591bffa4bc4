"""Is the winner of a sweep really better? Two arms, the same seeds, paired differences.

Decision record: the winner of a search has the luck of the search in its validation score, so it is run again
with new seeds beside the default, and judged on test rows that no choice has seen. Both arms share a seed's
data order and initial weights, so the difference is taken seed by seed: that removes what the seed does to
both. The interval is Student's t over the seeds; it says how sure the mean difference is for these rows,
not how another test set would look. An arm's missing seed leaves its partner out, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from raykd.report.fitted_table import FittedTable
from raykd.report.table import ABSENT, render_markdown_table
from raykd.tasks.scores.metrics import find_metric_title, is_higher_better, is_rate
from raykd.tasks.scores.ranking import round_score

SPLITS = ("test", "validation")
MACRO = "macro"
Scores = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Arm to seed to ``split/language/metric`` (language ``macro`` is the mean): ``test/macro/accuracy``."""


@dataclass(frozen=True)
class PairedDifference:
    """First arm minus second arm, over the seeds that both have; raw units (a rate is in [0, 1]).

    seeds: number of pairs. means: of each arm, over these. low, high: Student-t 95 % interval of the mean
    difference; None with fewer than two pairs. wins: pairs in which the first arm is better; ties: equal, as
    `raykd.tasks.scores.ranking` compares.
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
    def unit(self) -> tuple[float, str]:
        """(factor, unit) in which it is shown: rates in percentage points."""
        return (100.0, "points") if is_rate(self.metric) else (1.0, "nats" if self.metric == "nll" else "")


@dataclass(frozen=True)
class ConfirmationReport:
    """Two settings, each trained with several seeds.

    arms: the setting in question, then what it is compared with. scores: see `Scores`; an arm may lack a
    seed that failed. metric: the one the sweep looked at, shown first.
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
        """(seed, first arm, second arm) of the seeds for which both arms have this number."""
        name = f"{split}/{language}/{metric}"
        first, second = (self.scores.get(arm, {}) for arm in self.arms)
        found = []
        for seed in self.seeds:
            one, two = (scores.get(seed, {}).get(name, math.nan) for scores in (first, second))
            if math.isfinite(one) and math.isfinite(two):
                found.append((seed, one, two))
        return found

    def compute_differences(self) -> list[PairedDifference]:
        """Every number that both arms have: test before validation, the mean before languages, `metric` first."""
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
        wanted = [d for d in self.compute_differences() if d.language == MACRO and d.metric == self.metric]
        return wanted[0] if wanted else None

    def describe(self) -> str:
        """What the main difference says, for a person."""
        d = self.main_difference
        first, second = self.arms
        if d is None:
            return f"There is no seed for which both {first} and {second} were measured on {self.metric}."
        title = find_metric_title(d.metric).split()[0]
        mean = f"{format_difference(d, d.mean)} {d.unit[1]}".rstrip()
        head = f"{first} − {second}, {d.split} {title}, mean over languages: {mean}"
        if d.low is None or d.high is None:
            return f"{head}, from {d.seeds} seed; an interval needs at least two."
        interval = f"95 % interval {format_difference(d, d.low)} to {format_difference(d, d.high)}"
        better = (d.mean > 0) == is_higher_better(d.metric)
        says = (
            f"excludes 0: {first} is {'better' if better else 'worse'} than {second}"
            if d.excludes_zero
            else "includes 0: these seeds do not show a difference"
        )
        wins = f"{first} wins {d.wins} of {d.seeds}" + (f", {d.ties} equal" if d.ties else "")
        return f"{head} ({interval}, {d.seeds} seeds, {wins}). The interval {says}."

    def list_missing(self) -> list[str]:
        """Arms and seeds without any number, as texts."""
        return [
            f"{arm}, seed {seed}" for arm in self.arms for seed in self.seeds
            if not self.scores.get(arm, {}).get(seed)
        ]  # fmt: skip

    def to_cells(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of the table of paired differences as texts."""
        heads = ["split", "language", "metric", *self.arms, "difference", "95 % interval", "wins", "seeds"]
        return heads, [self._line(d) for d in self.compute_differences()]

    def _line(self, d: PairedDifference) -> list[str]:
        scale = d.unit[0]
        means = [f"{scale * m:.2f}" if scale == 100 else f"{m:.3f}" for m in d.means]
        interval = ABSENT
        if d.low is not None and d.high is not None:
            interval = f"{format_difference(d, d.low)} to {format_difference(d, d.high)}"
        wins = f"{d.wins} of {d.seeds}" + (f", {d.ties} equal" if d.ties else "")
        return [
            d.split, "mean" if d.language == MACRO else d.language, find_metric_title(d.metric),
            *means, format_difference(d, d.mean), interval, wins, str(d.seeds),
        ]  # fmt: skip

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat, JSON-able row for each difference, unrounded."""
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
        """The table for a terminal; the sentence stands below it."""
        heads, lines = self.to_cells()
        table = Table(caption=self.describe(), box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for at, head in enumerate(heads):
            table.add_column(Text(head), justify="left" if at < 3 else "right", no_wrap=True)
        for d, cells in zip(self.compute_differences(), lines, strict=True):
            table.add_row(*(Text(cell) for cell in cells), style="bold" if d == self.main_difference else "")
        named = [[f"{line[0]} {line[1]}, {line[2]}", *line[3:]] for line in lines]
        main = frozenset(at for at, d in enumerate(self.compute_differences()) if d == self.main_difference)
        return FittedTable((table,), ["", *heads[3:]], named, bold=main, remarks=(self.describe(),))

    def to_markdown(self) -> str:
        """The sentence and the table as GitHub Markdown."""
        return f"{self.describe()}\n\n{render_markdown_table(*self.to_cells())}\n"


def compute_paired_difference(
    pairs: Sequence[tuple[int, float, float]], split: str, language: str, metric: str
) -> PairedDifference:
    """Mean paired difference and its Student-t 95 % interval, n - 1 degrees of freedom."""
    from scipy.stats import t

    first_n, second_n = np.asarray([p[1:] for p in pairs], dtype=np.float64).T
    apart_n = first_n - second_n
    n, mean = len(apart_n), float(apart_n.mean())
    low = high = None
    if n > 1:
        half = float(t.ppf(0.975, n - 1) * apart_n.std(ddof=1) / math.sqrt(n))
        low, high = mean - half, mean + half
    seen_n = np.asarray([round_score(p[1]) - round_score(p[2]) for p in pairs])
    better_n = seen_n > 0 if is_higher_better(metric) else seen_n < 0
    return PairedDifference(
        split, language, metric, n, (float(first_n.mean()), float(second_n.mean())), mean, low, high,
        wins=int(better_n.sum()), ties=int((seen_n == 0).sum()),
    )  # fmt: skip


def format_difference(d: PairedDifference, value: float) -> str:
    """A difference with its sign, in its unit."""
    scaled = d.unit[0] * value
    return (f"{scaled:+.2f}" if d.unit[0] == 100 else f"{scaled:+.3f}").replace("-", "−")
