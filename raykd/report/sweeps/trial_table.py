"""Show the trials of a sweep in a table, for the terminal, Markdown, HTML, JSON and CSV.

Decision record: key paths are long and a sweep searches several. Headings carry the shortest end of a path that no
other searched key ends with. A bare ``kind``, ``start`` or number says nothing, so its parent is named too. Rows for
machines (`to_rows`, `to_csv`) keep the whole path and unrounded numbers. An inactive key is a dash: it is not zero,
false or null.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

from raykd.report.fitted_table import FittedTable, build_form
from raykd.report.formats import ABSENT, format_metric, format_value, render_markdown_table
from raykd.report.key_names import fold_sample, shorten_names
from raykd.report.sizes import (
    NARROW_HEADS,
    RATIO_HEADS,
    RATIO_REMARK,
    SIZE_HEADS,
    Size,
    format_ratios,
    format_size,
)
from raykd.report.sweeps.trials import SweepReport, TrialRow
from raykd.report.table import Row
from raykd.tasks.scores.metrics import find_metric_title

SIZE_REMARK = (
    "timed on validation texts; raykd confirm scores the winner, its base and its teachers on the test rows"
)
LEAST_VALUES = 24
"""Characters of a column that holds the values of all searched keys."""


def strip_metric_path(metric: str) -> str:
    """Return the metric's own name: ``accuracy`` of ``eval/mean/accuracy``."""
    return metric.rsplit("/", 1)[-1]


def format_score_title(metric: str) -> str:
    """Return how headings call the score, with its unit."""
    return find_metric_title(strip_metric_path(metric))


def describe_sample(sample: Mapping[str, object], names: Mapping[str, str]) -> str:
    """Return a sample on one line: ``alpha 0.1, temperature.start 4``.

    Args:
        sample: Values by key path.
        names: Short names of key paths; a path that is not there is shown whole.
    """
    return ", ".join(f"{names.get(key, key)} {format_value(v)}" for key, v in fold_sample(sample).items())


@dataclass(frozen=True)
class TrialTable:
    """All trials of a sweep, the best first."""

    report: SweepReport

    def to_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows as texts."""
        heads = [*self._fixed_heads(), *shorten_names(self.report.shown_keys).values()]
        return heads, [self._line(t) for t in self.report.rank_trials()]

    def _fixed_heads(self) -> list[str]:
        nll = ["NLL nats"] if self._has_nll else []
        sizes = [*SIZE_HEADS, *self._ratio_heads()] if self.report.has_sizes else []
        return [
            "trial",
            "status",
            find_metric_title(self._metric),
            *nll,
            "best step",
            "steps",
            "seconds",
            *sizes,
        ]

    def _ratio_heads(self) -> list[str]:
        return [] if self.report.together is None else RATIO_HEADS

    @property
    def _has_nll(self) -> bool:
        """Whether a column shows the NLL: not where trials are judged by it, nor of a task without one."""
        return self._metric != "nll" and any(t.nll is not None for t in self.report.trials)

    @property
    def _metric(self) -> str:
        return strip_metric_path(self.report.metric)

    def _line(self, t: TrialRow) -> list[str]:
        sample = fold_sample(t.sample)
        nll = [format_metric("nll", t.nll, compared=True)] if self._has_nll else []
        return [
            t.name, t.status, format_metric(self._metric, t.score, compared=True), *nll,
            ABSENT if t.best_step is None else f"{t.best_step:,}", f"{t.last_step:,} / {t.total_steps:,}",
            f"{t.seconds:,.0f}", *(self._size(t.size) if self.report.has_sizes else []),
            *(format_value(sample[key]) if key in sample else ABSENT for key in self.report.shown_keys),
        ]  # fmt: skip

    def _size(self, size: Size | None) -> list[str]:
        together = self.report.together
        return [*format_size(size), *([] if together is None else format_ratios(together, size))]

    def size_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows of the winner's size and speed beside the teachers'."""
        report, best = self.report, self.report.best
        heads = ["system", find_metric_title(self._metric), *SIZE_HEADS, *self._ratio_heads()]
        others = [*((f"teacher {name}", size) for name, size in report.teacher_sizes.items())]
        others += [] if report.together is None else [("teachers together", report.together)]
        lines = [[name, ABSENT, *self._size(size)] for name, size in others]
        if best is not None:
            score = format_metric(self._metric, best.score, compared=True)
            lines.append([f"student of {best.name}", score, *self._size(best.size)])
        return heads, lines

    @property
    def size_remarks(self) -> tuple[str, ...]:
        """What must be known to read sizes and speeds."""
        return (*([] if self.report.together is None else [RATIO_REMARK]), SIZE_REMARK)

    def size_table(self) -> FittedTable:
        """Return `size_cells` for the terminal."""
        heads, lines = self.size_cells()
        bold, title = frozenset({len(lines) - 1}), "The best trial's student"
        narrow = [NARROW_HEADS.get(head, head.replace(" ", "\n")) for head in heads]
        form = build_form(narrow, lines, left=1, bold=bold, title=title, remarks=self.size_remarks)
        return FittedTable((form,), heads, lines, bold=bold, title=title, remarks=self.size_remarks)

    def to_rows(self) -> list[Row]:
        """Return a flat row for each trial, the best first. Every row has the same keys; what is absent is None."""
        return [
            {
                "rank": rank if t.is_eligible else None, "trial": t.name, "status": t.status, "score": t.score,
                "nll": t.nll, "best_step": t.best_step, "evaluations": len(t.evaluations),
                "steps": t.last_step, "total_steps": t.total_steps, "seconds": t.seconds, "error": t.error,
                **self._dump_size(t),
                **{key: _null_nonfinite(t.sample.get(key)) for key in self.report.keys},
            }
            for rank, t in enumerate(self.report.rank_trials(), 1)
        ]  # fmt: skip

    def _dump_size(self, t: TrialRow) -> Row:
        size = t.size or Size()
        return {"parameters": size.parameters, "megabytes": size.megabytes, "texts_s": size.texts_s}

    def to_csv(self) -> str:
        """Return `to_rows` as CSV; None is an empty cell."""
        rows = self.to_rows()
        if not rows:
            return ""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()

    def to_rich(self, top: int = 20) -> FittedTable:
        """Return the best ``top`` trials for the terminal; the caption says how many more there are.

        Searched keys have a column each where there is room, else one for all of them; else a trial is a record.
        """
        heads, lines = self.to_cells()
        ranked, names = self.report.rank_trials()[:top], shorten_names(self.report.shown_keys)
        hidden, lines = len(lines) - len(ranked), lines[:top]
        remarks = (f"and {hidden} more trials, in the report and in the CSV",) if hidden else ()
        bold = frozenset(at for at, t in enumerate(ranked) if t == self.report.best)
        first = len(self._fixed_heads())
        joined = [[*x[:first], describe_sample(t.sample, names)] for x, t in zip(lines, ranked, strict=True)]
        narrow = [_break_head(head) for head in heads]
        forms = (
            build_form(narrow, lines, bold=bold, remarks=remarks),
            build_form(
                [*narrow[:first], "values"], joined, bold=bold, remarks=remarks,
                folded=first, folded_width=LEAST_VALUES,
            ),
        )  # fmt: skip
        return FittedTable(forms, heads, lines, bold=bold, remarks=remarks)

    def to_markdown(self) -> str:
        """Return all trials, and the winner's size and speed, as GitHub Markdown."""
        tables = [render_markdown_table(*cells) for cells in (self.to_cells(), self.size_cells())]
        return "\n\n".join([*tables, *self.size_remarks]) + "\n"


def _break_head(head: str) -> str:
    """A heading over several lines, broken at spaces, dots and underscores: a terminal has little room."""
    return head.replace(" ", "\n", 1).replace(".", ".\n").replace("_", "_\n")


def _null_nonfinite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
