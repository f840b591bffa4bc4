"""Set runs side by side: a table of scores and costs, what differs in their configurations, and a page of both."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from raykd.report.charts import (
    COLOURS,
    Charts,
    Spec,
    add_captions,
    choose_colours,
    encode,
    list_tips,
    round_number,
)
from raykd.report.fitted_table import FittedTable, build_form
from raykd.report.formats import (
    ABSENT,
    format_count,
    format_metric,
    format_metric_name,
    format_signed,
)
from raykd.report.html import write_html
from raykd.report.plots import draw_bar_panels
from raykd.report.side_by_side.summaries import RunSummary
from raykd.report.sizes import RATIO_HEADS, RATIO_REMARK, SIZE_HEADS, Size, format_ratios, format_size
from raykd.report.table import Row
from raykd.tasks.scores.metrics import find_metric_title, is_higher_better, is_rate

Cells = tuple[list[str], list[list[str]]]
MOST_DIFFERENCES = 20
"""Keys that differ, on the terminal; the page has all."""
CAPTIONS = {
    "languages": "Each run in each language, and its mean over its languages.",
    "sizes": "Quality over the size of the student.",
}


@dataclass(frozen=True)
class SideBySide:
    """Runs beside one another, in the order in which they were named.

    Attributes:
        runs: At least one.
    """

    runs: tuple[RunSummary, ...]

    @property
    def metric(self) -> str:
        """The metric of the first run, whose values by language are shown."""
        return self.runs[0].metric

    @cached_property
    def languages(self) -> list[str]:
        """Languages in which some run has a score."""
        return list(dict.fromkeys(x for run in self.runs for x in run.scores))

    @cached_property
    def metrics(self) -> list[str]:
        """Metrics of which some run has a mean, the first run's own metric first."""
        found = dict.fromkeys(m for run in self.runs for m in run.means)
        return sorted(found, key=lambda m: m != self.metric)

    @cached_property
    def best(self) -> RunSummary | None:
        """The best run by `metric`; None where not all were scored on the same kind of rows."""
        if self.notes or len(self.runs) < 2:
            return None
        sign = 1 if is_higher_better(self.metric) else -1
        return max(self.runs, key=lambda run: sign * run.means.get(self.metric, -sign * math.inf))

    @property
    def notes(self) -> list[str]:
        """Why scores cannot be compared, a sentence each."""
        first, notes = self.runs[0], []
        splits = {split: [r.name for r in self.runs if r.split == split] for split in ("test", "validation")}
        if all(splits.values()):
            notes.append(
                f"scored on validation rows, which flatter a chosen setting: {', '.join(splits['validation'])}; "
                f"on test rows: {', '.join(splits['test'])}"
            )
        other = [r.name for r in self.runs if r.rows and first.rows and r.rows != first.rows]
        if other:
            notes.append(f"other held-out rows than those of {first.name}: {', '.join(other)}")
        if strange := [f"{r.name} by {r.metric}" for r in self.runs if r.metric != first.metric]:
            notes.append(f"judged by another metric than {first.metric}: {', '.join(strange)}")
        return notes

    def to_cells(self) -> Cells:
        """Return headings and a line for each run; a column that no run fills is left out."""
        first, *others = self.metrics or [self.metric]
        heads = [
            "run", "rows", "seeds", *(f"{format_metric_name(first)} {x}" for x in self.languages),
            f"mean {find_metric_title(first)}", "over undistilled", *map(find_metric_title, others),
            *SIZE_HEADS, *RATIO_HEADS, "seconds", "training CPU s",
        ]  # fmt: skip
        lines = [self._line(run, first, others) for run in self.runs]
        single = all(run.seeds == 1 for run in self.runs)
        kept = [
            at for at, head in enumerate(heads)
            if any(line[at] != ABSENT for line in lines) and not (head == "seeds" and single)
        ]  # fmt: skip
        return [heads[at] for at in kept], [[line[at] for at in kept] for line in lines]

    def _line(self, run: RunSummary, first: str, others: Sequence[str]) -> list[str]:
        measured = [x for x in self.languages if x in run.scores]
        mark = f" ({','.join(measured)})" if measured and measured != self.languages else ""
        mean = run.means.get(first)
        gain = ABSENT
        if run.gain is not None and run.metric == first:
            gain = format_signed(100 * run.gain, 1) if is_rate(first) else format_signed(run.gain, 3)
        return [
            run.name, run.split, str(run.seeds),
            *(format_metric(first, run.scores.get(x, {}).get(first)) for x in self.languages),
            format_metric(first, mean) + (mark if mean is not None else ""), gain,
            *(format_metric(m, run.means.get(m)) for m in others),
            *format_size(run.size), *format_ratios(run.together, run.size),
            ABSENT if run.seconds is None else f"{run.seconds:,.0f}",
            ABSENT if run.cpu_s is None else f"{run.cpu_s:,.1f}",
        ]  # fmt: skip

    @staticmethod
    def remarks(cells: Cells) -> tuple[str, ...]:
        """Return what ratios of size and speed are beside, where the table has them."""
        return (
            (f"{RATIO_REMARK}; each beside the teachers of its own run",)
            if set(RATIO_HEADS) & set(cells[0])
            else ()
        )

    def list_differences(self) -> dict[str, list[str]]:
        """Return each key of the configurations that differs, with its value in each run; a dash where it has none.

        Of a part that some run lacks, such as a teacher, the kind stands for all of its keys.
        """
        parts = [{part for key in run.config for part in _list_parts(key)} for run in self.runs]

        def find_key(key: str) -> str:
            return next((part for part in _list_parts(key) if not all(part in own for own in parts)), key)

        def find_value(run: RunSummary, own: set[str], key: str) -> str:
            kind = run.config.get(f"{key}.kind", "there") if key in own else ABSENT
            return run.config.get(key, kind)

        keys = sorted({find_key(key) for run in self.runs for key in run.config})
        values = {
            key: [find_value(run, own, key) for run, own in zip(self.runs, parts, strict=True)]
            for key in keys
        }
        return {key: own for key, own in values.items() if len(set(own)) > 1}

    def difference_cells(self) -> Cells:
        """Return the same as a table."""
        lines = [[key, *values] for key, values in self.list_differences().items()]
        return ["key", *(run.name for run in self.runs)], lines

    def to_rich(self) -> tuple[FittedTable, ...]:
        """Return the tables for the terminal."""
        cells = self.to_cells()
        tables = [_build_table("Runs side by side", cells, 1, self.remarks(cells))]
        heads, lines = self.difference_cells()
        if lines:
            title = "What differs in their configurations"
            more = len(lines) - MOST_DIFFERENCES
            remarks = (f"and {more} more, on the page",) if more > 0 else ()
            tables.append(_build_table(title, (heads, lines[:MOST_DIFFERENCES]), len(heads), remarks))
        return tuple(tables)

    def to_rows(self) -> list[Row]:
        """Return a flat row for each run and language, and one for its mean with the language ``macro``."""
        rows: list[Row] = []
        for run in self.runs:
            head = {"run": run.name, "folder": str(run.folder), "split": run.split, "seeds": run.seeds}
            rows += [{**head, "language": x, **values} for x, values in run.scores.items()]
            size = run.size or Size()
            costs = {
                "parameters": size.parameters, "megabytes": size.megabytes, "texts_s": size.texts_s,
                "seconds": run.seconds, "cpu_s": run.cpu_s,
            }  # fmt: skip
            rows.append({**head, "language": "macro", **run.means, "gain": run.gain, **costs})
        return rows

    def draw_figures(self) -> Charts:
        """Draw the scores by language, and over the size where sizes differ."""
        return add_captions({"languages": self._draw_bars(), "sizes": self._draw_sizes()}, CAPTIONS)

    def _draw_bars(self) -> Spec | None:
        names, metric = [run.name for run in self.runs], self.metric
        scale, rows = 100 if is_rate(metric) else 1, []
        for panel in (*self.languages, "mean"):
            for run in self.runs:
                value = run.means.get(metric) if panel == "mean" else run.scores.get(panel, {}).get(metric)
                rows.append({
                    "panel": panel, "system": run.name, "role": run.name, "shown": format_metric(metric, value),
                    "value": 0.0 if value is None else round_number(scale * value),
                })  # fmt: skip
        return draw_bar_panels(rows, names, [*self.languages, "mean"], metric, choose_colours(names))

    def _draw_sizes(self) -> Spec | None:
        known = [
            (run, run.size.parameters)
            for run in self.runs
            if run.size is not None and run.size.parameters and self.metric in run.means
        ]
        if len({count for _, count in known}) < 2:
            return None
        metric, title = self.metric, find_metric_title(self.metric)
        rows = [
            {
                "run": run.name, "parameters": count, "shown": format_metric(metric, run.means[metric]),
                "size": format_count(count),
                "value": round_number((100 if is_rate(metric) else 1) * run.means[metric]),
            }
            for run, count in known
        ]  # fmt: skip
        x = encode("parameters", "parameters (logarithmic)", scale={"type": "log", "nice": False, "padding": 40},
                   axis={"format": "~s", "tickCount": 4, "grid": False})  # fmt: skip
        return {
            "width": 430,
            "height": 260,
            "data": {"values": rows},
            "encoding": {"x": x, "y": encode("value", title, scale={"zero": False, "padding": 16})},
            "layer": [
                {"mark": {"type": "point", "filled": True, "size": 60, "opacity": 1, "color": COLOURS[0]},
                 "encoding": {"tooltip": list_tips(run="title", size="parameters", shown=title)}},
                {"mark": {"type": "text", "align": "left", "dx": 7, "dy": -7, "fontSize": 11, "limit": 180},
                 "encoding": {"text": {"field": "run"}}},
            ],
        }  # fmt: skip


def _list_parts(key: str) -> list[str]:
    """Return what a key lies in, from the outside: a, then a.b, of a.b.c."""
    names = key.split(".")
    return [".".join(names[:at]) for at in range(1, len(names))]


def _build_table(title: str, cells: Cells, left: int, remarks: tuple[str, ...] = ()) -> FittedTable:
    heads, lines = cells
    form = build_form(
        [head.replace(" ", "\n") for head in heads], lines, left=left, title=title, remarks=remarks
    )
    return FittedTable((form,), heads, lines, title=title, remarks=remarks)


def write_runs_page(runs: SideBySide, path: Path) -> Path:
    """Write the page about several runs and return its path."""
    heads, lines = runs.difference_cells()
    cells = runs.to_cells()
    head: Mapping[str, str] = {
        "title": f"{len(runs.runs)} runs side by side",
        "summary": f"{', '.join(run.name for run in runs.runs)}.",
        "created": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }
    return write_html(
        path,
        "runs.html.j2",
        runs.draw_figures(),
        report=head,
        notes=runs.notes,
        table=cells,
        remarks=runs.remarks(cells),
        roles=["student" if run is runs.best else "" for run in runs.runs],
        differences=(heads, lines),
        folders=(["run", "folder"], [[run.name, str(run.folder)] for run in runs.runs]),
    )
