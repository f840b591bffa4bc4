"""Show what an evaluation found as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rich.table import Table

from raykd.report.classes import (
    MOST_CLASSES,
    list_class_cells,
    list_confusion_cells,
    list_frequent_confusions,
)
from raykd.report.evaluations.result import EvaluationResult, Reliability, Slice
from raykd.report.fitted_table import FittedTable, build_form
from raykd.report.formats import ABSENT, format_metric
from raykd.report.sizes import SIZE_HEADS, Size, format_size
from raykd.tasks.scores.classes import ClassScores
from raykd.tasks.scores.metrics import find_metric_title

_BY = {"language": "language", "group": "group", "length": "characters", "cut": "cut"}


def build_evaluation_tables(evaluation: EvaluationResult) -> list[FittedTable]:
    """Return the tables in the order in which they are read: scores, size, classes, confusions, calibration."""
    tables = [_build_score_table(evaluation), _build_size_table(evaluation.size)]
    if evaluation.classes is not None:
        tables += [
            _build_class_table(evaluation.classes),
            _build_confusions(evaluation.classes),
        ]
    if evaluation.calibration is not None:
        tables.append(_build_calibration_table(evaluation.calibration))
    return tables


def describe_evaluation(evaluation: EvaluationResult) -> str:
    """Return the line above the tables."""
    return f"{evaluation.model} on {evaluation.file}: {evaluation.task}, {evaluation.rows:,} rows"


def _build_score_table(evaluation: EvaluationResult) -> FittedTable:
    """Return all metrics: over all rows, and by language and length."""
    metric = evaluation.metric
    names = list(evaluation.overall.metrics)
    for part in evaluation.slices:
        names += [name for name in part.metrics if name not in names]
    heads = ["rows of", "rows", find_metric_title(metric), "95 % interval"]
    heads += [find_metric_title(name) for name in names if name != metric]

    def line(title: str, rows: str, values: Mapping[str, float], interval: str) -> list[str]:
        others = [format_metric(name, values.get(name)) for name in names if name != metric]
        return [title, rows, format_metric(metric, values.get(metric)), interval, *others]

    def show(part: Slice, title: str) -> list[str]:
        return line(title, f"{part.rows:,}", part.metrics, _format_interval(part, metric))

    lines = [show(evaluation.overall, "the file")]
    if evaluation.mean_of_languages is not None:
        lines.append(line("mean of languages", "", evaluation.mean_of_languages, ""))
    for part in evaluation.slices:
        # Some rows alone may have no pair that is gold, or too few values for a correlation.
        measured = {name: value for name, value in part.metrics.items() if not math.isnan(value)}
        title = f"{_BY[part.by]} {part.name}".replace("cut over", "over")
        lines.append(show(replace(part, metrics=measured), title))
    return _build_table("Scores", heads, lines, left=1, bold=(0,))


def _format_interval(part: Slice, metric: str) -> str:
    if part.interval is None:
        return ABSENT
    return f"{format_metric(metric, part.interval.low)} to {format_metric(metric, part.interval.high)}"


def _build_size_table(size: Size | None) -> FittedTable:
    """Return parameters, megabytes and texts a second."""
    remarks = (
        () if size is None or size.timed_on is None else (f"texts/s: {size.timed_on}, tokenisation included",)
    )
    return _build_table("Size and speed", SIZE_HEADS, [format_size(size)], left=0, remarks=remarks)


def _build_class_table(scores: ClassScores) -> FittedTable:
    """Return precision, recall, F1 and support of each class, and their averages."""
    heads, lines = list_class_cells(scores)
    return _build_table(
        f"By {heads[0]}", heads, lines, left=1, bold=range(len(scores.classes), len(lines)),
        remarks=["averages are over the classes that occur"],
    )  # fmt: skip


def _build_confusions(scores: ClassScores) -> FittedTable:
    """Return the confusion table, or of many classes the most frequent confusions."""
    if len(scores.names) <= MOST_CLASSES:
        return _build_table("Confusions", *list_confusion_cells(scores), left=1)
    count, cells = list_frequent_confusions(scores)
    return _build_table(f"Most frequent confusions of {count:,}; --json has the whole table", *cells, left=2)


def _build_calibration_table(calibration: Reliability) -> FittedTable:
    """Return the bins that hold answers."""
    heads = ["probability", f"{calibration.unit}s", "mean probability %", "right %"]
    lines = [
        [
            f"{b.low:.2f} to {b.high:.2f}",
            f"{b.count:,}",
            f"{100 * b.confidence:.1f}",
            f"{100 * b.accuracy:.1f}",
        ]
        for b in calibration.bins
        if b.count
    ]
    title = f"Calibration over {calibration.unit}s: ECE {100 * calibration.ece:.1f} %"
    return _build_table(title, heads, lines, left=1)


def _build_table(
    title: str,
    heads: Sequence[str],
    lines: Sequence[Sequence[str]],
    *,
    left: int,
    bold: Sequence[int] = (),
    remarks: Sequence[str] = (),
) -> FittedTable:
    forms = tuple(_list_forms(title, heads, lines, left=left, bold=bold, remarks=remarks))
    return FittedTable(forms, heads, lines, frozenset(bold), title, tuple(remarks))


def _list_forms(
    title: str,
    heads: Sequence[str],
    lines: Sequence[Sequence[str]],
    *,
    left: int,
    bold: Sequence[int],
    remarks: Sequence[str],
) -> Iterator[Table]:
    """Yield a table with headings on one line, then one with headings on several."""
    for folded in (list(heads), [head.replace(" ", "\n") for head in heads]):
        form = build_form(folded, lines, left=left, bold=bold, title=title, remarks=remarks)
        form.title_justify = form.caption_justify = "left"
        yield form
