"""Write the page about a run of several tasks: a table for each task, and a link to the task's own page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.report.html import write_html
from raykd.report.table import ResultTable
from raykd.report.time_bar import TIME_TITLE, TimeBar


@dataclass(frozen=True)
class TaskResult:
    """What the page shows of one task.

    Attributes:
        page: Path of the task's own page, relative to this one.
        notes: What a reader must know of the task.
    """

    table: ResultTable
    page: str
    notes: tuple[str, ...] = ()


def write_tasks_page(
    title: str, summary: str, parts: Mapping[str, TaskResult], path: Path, times: TimeBar | None = None
) -> Path:
    """Write the page and return its path.

    Args:
        title: Heading of the page.
        summary: One sentence that says what was run.
        parts: What is shown of each task, by its name.
        path: The file.
        times: Where the time of the run went; None where it was not recorded.
    """
    return write_html(
        path,
        "tasks.html.j2",
        report={"title": title, "summary": summary, "created": ""},
        parts=parts,
        times=times,
        times_title=TIME_TITLE,
    )
