"""One page about a run of several tasks: a table a task, and where each task's own page is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raykd.report.page import load_template
from raykd.report.results import Role
from raykd.report.table import ResultTable


@dataclass(frozen=True)
class TaskResult:
    """What the page shows of a task. page: of its own page, relative to this one."""

    table: ResultTable
    page: str
    notes: tuple[str, ...] = ()

    @property
    def roles(self) -> list[Role]:
        """Of the table's rows."""
        return [p.role for p, _ in self.table.systems]


def write_tasks_page(title: str, summary: str, parts: Mapping[str, TaskResult], path: Path) -> Path:
    """Writes the page and returns ``path``.

    Args:
        summary: one sentence. parts: by name of the task.
    """
    html = load_template("tasks.html.j2").render(title=title, summary=summary, parts=parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path
