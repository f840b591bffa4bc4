"""Write the page about a run of several tasks: a table for each task, and a link to the task's own page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from raykd.parse import JsonObject
from raykd.report.html import write_html
from raykd.report.record import TASKS as RECORD
from raykd.report.record import read_record, write_record
from raykd.report.runs.report import read_run_report
from raykd.report.table import ResultTable
from raykd.report.time_bar import TIME_TITLE, TimeBar

TASKS = "tasks"
"""In the folder of a run of several tasks, the folder that holds the reports of the single tasks."""


@dataclass(frozen=True)
class JointScore:
    """How often one system is right in every task about the same text.

    Attributes:
        system: How tables call it.
        role: `baseline` or `student`.
        rows: Texts that all tasks test.
        by_language: Share of them in [0, 1] for each language.
    """

    system: str
    role: str
    rows: int
    by_language: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The unweighted mean over languages."""
        return sum(self.by_language.values()) / len(self.by_language)

    def describe(self) -> str:
        """Return the share of each language, in per cent."""
        return ", ".join(f"{language} {share:.1%}" for language, share in self.by_language.items())


@dataclass(frozen=True)
class TasksReport:
    """What is known of the run as a whole.

    Attributes:
        title: Heading of the page.
        summary: One sentence that says what was run.
        tasks: Names of the tasks, whose reports lie under `TASKS`.
        created: When the page was first written.
        times: Where the time of the run went; None where it was not recorded.
        joint: How often each student is right in every task; () where the tasks are tested on other texts.
    """

    title: str
    summary: str
    tasks: tuple[str, ...]
    created: str = ""
    times: TimeBar | None = None
    joint: tuple[JointScore, ...] = ()


def read_tasks_report(folder: Path) -> TasksReport:
    """Read the report of a run of several tasks.

    Raises:
        DataError: There is none, or it is something else.
    """

    def build(tree: JsonObject) -> TasksReport:
        return TypeAdapter(TasksReport).validate_python(tree)

    return read_record(folder / RECORD, build)


def write_tasks_page(report: TasksReport, path: Path) -> Path:
    """Write the page, and ``tasks.json`` beside it; return the page's path.

    Args:
        report: The run. The pages of its tasks are there already.
        path: The file.
    """
    write_record(path.parent / RECORD, report)
    parts: Mapping[str, JsonObject] = {task: _show_task(path.parent, task) for task in report.tasks}
    return write_html(
        path, "tasks.html.j2", report=report, parts=parts, times=report.times, times_title=TIME_TITLE
    )


def _show_task(folder: Path, task: str) -> JsonObject:
    own = read_run_report(folder / TASKS / task)
    table: ResultTable = own.table
    return {"table": table, "notes": own.notes, "page": f"{TASKS}/{task}/report.html"}
