"""Write the page about a comparison: a sentence, the arms, where they differ, and what they cost."""

from __future__ import annotations

from pathlib import Path

from raykd.report.comparisons.differences import PairedDifference
from raykd.report.comparisons.left_out import LEFT_OUT_TITLE, list_left_out_cells, measure_left_out
from raykd.report.comparisons.plots import draw_comparison_figures
from raykd.report.comparisons.results import ComparisonReport
from raykd.report.comparisons.tables import GROUPS_REMARK, ComparisonTables
from raykd.report.formats import format_metric_name
from raykd.report.html import write_html
from raykd.report.record import ARMS, write_record
from raykd.report.sizes import RATIO_REMARK
from raykd.tasks.scores.metrics import is_higher_better

MOST_CARDS = 3
"""Differences that are shown above the tables."""


def write_comparison_page(report: ComparisonReport, path: Path) -> Path:
    """Write the page, and ``arms.json`` beside it; return the page's path."""
    write_record(path.parent / ARMS, report)
    tables = ComparisonTables(report)
    left_out = measure_left_out(report)
    missing = "; ".join(report.list_missing())
    return write_html(
        path,
        "comparison.html.j2",
        draw_comparison_figures(report),
        report=report,
        conclusions=tables.conclusions(),
        headline=_list_cards(report),
        marked=next(
            (f"{d.arm} − {d.against}" for d in _rank(report) if d.is_significant and d.is_better), "–"
        ),
        notes=[*report.notes, *([f"Not measured: {missing}; its partner is left out."] if missing else [])],
        main=tables.main_cells(),
        roles=[
            *("student" if arm.name == report.baseline else "" for arm in report.arms),
            *(one.role for one in report.references),
        ],
        languages=tables.language_cells() if len(report.languages) > 1 else None,
        left_out=list_left_out_cells(left_out) if left_out else None,
        left_out_title=LEFT_OUT_TITLE,
        groups=tables.group_cells() if report.groups else None,
        groups_remark=GROUPS_REMARK,
        metrics=tables.metric_cells() if report.other_metrics else None,
        classes=tables.class_cells() if report.classes else None,
        costs=tables.cost_cells(),
        ratio_remark=RATIO_REMARK,
        everything=tables.all_cells(),
        arms=tables.arm_cells(),
    )


def _list_cards(report: ComparisonReport) -> list[tuple[str, str, str]]:
    """Return what a reader looks for first, each as (what, number, remark): the best differences."""
    best = _rank(report)[:MOST_CARDS]
    return [(f"{d.arm} − {d.against}", d.format(d.mean), _remark(d)) for d in best]


def _rank(report: ComparisonReport) -> list[PairedDifference]:
    """Return the main differences, the best first."""
    sign = 1 if is_higher_better(report.metric) else -1
    return sorted(report.main_differences, key=lambda d: -sign * d.mean)


def _remark(d: PairedDifference) -> str:
    where = f"{d.unit} of {d.split} {format_metric_name(d.metric)}, {d.seeds} seeds".strip()
    interval = d.format_interval(d.interval)
    return where if interval is None else f"{where}, 95 % interval {interval}"
