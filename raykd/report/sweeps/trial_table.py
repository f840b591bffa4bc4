"""The table of trials: for the terminal, for Markdown, for HTML, as rows and as CSV.

Decision record: key paths are long and a sweep searches several, so headings carry the shortest end of a path
that no other searched key ends with; a bare ``kind``, ``start`` or number says nothing, so its parent is
named too. Rows for machines (`rows`, `csv`) keep the whole path and unrounded numbers. An inactive key is a dash:
it is not zero, false or null.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from raykd.report.fitted_table import FittedTable
from raykd.report.key_names import fold_sample, shorten_names
from raykd.report.sweeps.trials import SweepReport, TrialRow
from raykd.report.table import ABSENT, format_metric, render_markdown_table
from raykd.tasks.scores.metrics import find_metric_title

LEAST_VALUES = 24
"""Characters of a column that holds the values of all searched keys."""


def strip_metric_path(metric: str) -> str:
    """The metric without a prefix: ``eval/mean/accuracy`` is accuracy."""
    return metric.rsplit("/", 1)[-1]


def format_score_title(metric: str) -> str:
    """How a metric is called in headings, with its unit."""
    return find_metric_title(strip_metric_path(metric))


def format_value(value: object) -> str:
    """A sampled value as text: numbers with four significant digits, booleans and null as in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return str(value)


def describe_sample(sample: Mapping[str, object], names: Mapping[str, str]) -> str:
    """A sample on one line: ``alpha 0.1, temperature.start 4``."""
    return ", ".join(
        f"{names.get(key, key)} {format_value(value)}" for key, value in fold_sample(sample).items()
    )


@dataclass(frozen=True)
class TrialTable:
    """All trials of a sweep, the best first."""

    report: SweepReport

    def to_cells(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows as texts, the same for Markdown, HTML and the terminal."""
        names = shorten_names(self.report.shown_keys)
        nll = [] if strip_metric_path(self.report.metric) == "nll" else ["NLL nats"]
        heads = ["trial", "status", format_score_title(self.report.metric), *nll]
        heads += ["best step", "steps", "seconds", *names.values()]
        return heads, [self._line(t, bool(nll)) for t in self.report.rank_trials()]

    def _line(self, t: TrialRow, nll: bool) -> list[str]:
        done = 0 if t.last is None else t.last.step
        sample = fold_sample(t.sample)
        values = [format_value(sample[key]) if key in sample else ABSENT for key in self.report.shown_keys]
        return [
            t.name, t.status, format_metric(strip_metric_path(self.report.metric), t.score, compared=True),
            *([format_metric("nll", t.nll, compared=True)] * nll),
            ABSENT if t.best_step is None else f"{t.best_step:,}", f"{done:,} / {t.total_steps:,}",
            f"{t.seconds:,.0f}", *values,
        ]  # fmt: skip

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat, JSON-able row a trial, the best first; every row has the same keys, absent is None."""
        flat = []
        for rank, t in enumerate(self.report.rank_trials(), 1):
            row: dict[str, object] = {
                "rank": rank if t.is_eligible else None, "trial": t.name, "status": t.status, "score": t.score,
                "nll": t.nll, "best_step": t.best_step, "evaluations": len(t.evaluations),
                "steps": 0 if t.last is None else t.last.step, "total_steps": t.total_steps,
                "seconds": t.seconds, "error": t.error,
            }  # fmt: skip
            flat.append({**row, **{key: _finite(t.sample.get(key)) for key in self.report.keys}})
        return flat

    def columns(self) -> dict[str, list[Any]]:
        """`rows` by column, as trackers of experiments take a table."""
        rows = self.to_rows()
        return {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}

    def to_csv(self) -> str:
        """`rows` as CSV text; None is an empty cell."""
        buffer = io.StringIO()
        rows = self.to_rows()
        if rows:
            writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return buffer.getvalue()

    def to_rich(self, top: int = 20) -> FittedTable:
        """The best ``top`` trials; the caption says how many more there are.

        Searched keys have a column each where there is room, else one for all of them, else a trial is a record.
        """
        heads, lines = self.to_cells()
        lines, rest = lines[:top], len(lines) - top
        first = len(heads) - len(self.report.shown_keys)
        names, ranked = shorten_names(self.report.shown_keys), self.report.rank_trials()[:top]
        joined = [[*x[:first], describe_sample(t.sample, names)] for x, t in zip(lines, ranked, strict=True)]
        more = f"and {rest} more trials, in the report and in the CSV" if rest > 0 else ""
        best = self.report.best
        bold = frozenset(at for at, line in enumerate(lines) if best is not None and line[0] == best.name)
        broken = [_broken(head) for head in heads]
        forms = (
            _table(broken, lines, bold, more, None),
            _table([*broken[:first], "values"], joined, bold, more, first),
        )
        return FittedTable(forms, heads, lines, bold=bold, remarks=(more,) if more else ())

    def to_markdown(self, top: int | None = None) -> str:
        """All trials, or the best ``top`` and a line that says how many more, as GitHub Markdown."""
        heads, lines = self.to_cells()
        shown_lines = lines if top is None else lines[:top]
        rest = len(lines) - len(shown_lines)
        more = f"\nand {rest} more trials\n" if rest else ""
        return render_markdown_table(heads, shown_lines) + "\n" + more


def _table(
    heads: list[str], lines: list[list[str]], bold: frozenset[int], caption: str, folds: int | None
) -> Table:
    """A form of the table. folds: the column that may take several lines; None for none."""
    table = Table(caption=caption or None, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for at, head in enumerate(heads):
        left, wraps = at < 2 or at == folds, at == folds
        table.add_column(
            Text(head),
            justify="left" if left else "right",
            no_wrap=not wraps,
            overflow="fold",
            min_width=LEAST_VALUES if wraps else None,
        )
    for at, line in enumerate(lines):
        table.add_row(*(Text(cell) for cell in line), style="bold" if at in bold else "")
    return table


def _broken(head: str) -> str:
    """A heading over lines, at spaces, dots and underscores: a terminal has little room."""
    return head.replace(" ", "\n", 1).replace(".", ".\n").replace("_", "_\n")


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
