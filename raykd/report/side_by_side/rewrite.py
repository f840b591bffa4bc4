"""Write the pages of a finished run, sweep or comparison again, from what lies in its folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from raykd.config.home import ARMS, SPACE
from raykd.parse import JsonObject
from raykd.report import record
from raykd.report.charts import Charts
from raykd.report.comparisons.page import write_comparison_page
from raykd.report.comparisons.plots import draw_comparison_figures
from raykd.report.comparisons.results import ComparisonReport, build_comparison_report
from raykd.report.ensembles.page import write_ensemble_page
from raykd.report.record import read_record
from raykd.report.runs.page import draw_run_figures, write_run_page
from raykd.report.runs.report import RunReport, read_run_report
from raykd.report.runs.tasks_page import TASKS, read_tasks_report, write_tasks_page
from raykd.report.sweeps.page import draw_sweep_figures, write_sweep_page
from raykd.report.sweeps.trials import SweepReport

PAGE = "report.html"
AnyReport = RunReport | SweepReport | ComparisonReport


def read_reports(folder: Path) -> dict[str, AnyReport]:
    """Read what a folder reports.

    Args:
        folder: Of a run, a sweep or a comparison.

    Returns:
        One report under an empty name; of a run of several tasks one for each task, by name.

    Raises:
        DataError: There is no report, or it is something else.
    """
    if (folder / SPACE).is_file():
        return {"": read_sweep_report(folder)}
    if (folder / ARMS).is_file():
        return {"": read_record(folder / record.ARMS, build_comparison_report)}
    if (folder / TASKS).is_dir():
        return {task: read_run_report(folder / TASKS / task) for task in read_tasks_report(folder).tasks}
    return {"": read_run_report(folder)}


def read_sweep_report(folder: Path) -> SweepReport:
    """Read the report of a sweep.

    Raises:
        DataError: There is none, or it is something else.
    """

    def build(tree: JsonObject) -> SweepReport:
        return TypeAdapter(SweepReport).validate_python(tree)

    return read_record(folder / record.SWEEP, build)


def rewrite_pages(folder: Path) -> Path:
    """Write the pages of a folder again; return the main one.

    Args:
        folder: Of a run, a sweep or a comparison.

    Raises:
        DataError: There is no report, or it is something else.
    """
    reports = read_reports(folder)
    for task, report in reports.items():
        place = folder / TASKS / task if task else folder
        if isinstance(report, SweepReport):
            write_sweep_page(report, place / PAGE)
        elif isinstance(report, ComparisonReport):
            write_comparison_page(report, place / PAGE)
        else:
            write_run_page(report, place / PAGE)
            if report.ensemble is not None:
                write_ensemble_page(report.ensemble, place)
    if "" not in reports:
        write_tasks_page(read_tasks_report(folder), folder / PAGE)
    return folder / PAGE


def draw_figures(report: AnyReport) -> Charts:
    """Draw every chart of a report; the first is the one that is shared."""
    if isinstance(report, SweepReport):
        return draw_sweep_figures(report)
    if isinstance(report, ComparisonReport):
        return draw_comparison_figures(report)
    return draw_run_figures(report)
