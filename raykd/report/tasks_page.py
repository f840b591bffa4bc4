"""Write the page about a run of several tasks: a table for each task, and a link to the task's own page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.report.html import write_html
from raykd.report.table import ResultTable


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


def write_tasks_page(title: str, summary: str, parts: Mapping[str, TaskResult], path: Path) -> Path:
    """Write the page and return its path.

    Args:
        title: Heading of the page.
        summary: One sentence that says what was run.
        parts: What is shown of each task, by its name.
        path: The file.
    """
    return write_html(
        path, "tasks.html.j2", report={"title": title, "summary": summary, "created": ""}, parts=parts
    )
