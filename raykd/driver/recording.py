"""Record a finished report in MLflow, and say where everything lies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from raykd.folders.folder import RunFolder
from raykd.tracking import Tracker, redact


def record_report(
    tracker: Tracker,
    page: Path,
    pictures: Mapping[str, tuple[str, str]],
    *,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    texts: Mapping[str, str],
    environment: Mapping[str, str] | None = None,
    task: str = "",
) -> None:
    """Log what a command found as artifacts.

    Args:
        tracker: The MLflow run.
        page: The report.
        pictures: Name to (SVG, caption).
        tables: Name to rows.
        texts: Name to content.
        environment: Where it ran; None logs none.
        task: Folder of the artifacts, where a run has several tasks.
    """
    place = f"{task}/" if task else ""
    if environment is not None:
        texts = {**texts, "environment.json": json.dumps(dict(environment), indent=2)}
    for name, rows in tables.items():
        tracker.log_table(rows, f"{place}{name}")
    for name, text in texts.items():
        tracker.log_text(text, f"{place}{name}")
    tracker.log_file(page, task or None)
    for name, (svg, _) in pictures.items():
        tracker.log_figure(svg, f"{place}plots/{name}.svg")


def describe_results(
    notes: Sequence[str],
    page: Path,
    tracker: Tracker,
    folder: RunFolder,
    *,
    found: Sequence[str] = (),
    logged: str | None = None,
    places: Sequence[str] = (),
) -> tuple[str, ...]:
    """Return the last lines on the terminal: notes, what was found, and where everything lies.

    Args:
        notes: What a reader must know.
        page: The report.
        tracker: The MLflow run.
        folder: Of the command.
        found: Lines below the notes, in rich's markup.
        logged: The model in MLflow, if one was logged.
        places: Lines below the report.
    """
    return (
        *(f"[yellow]note[/yellow]     {escape(note)}" for note in notes),
        *found,
        f"report   {page}",
        *places,
        f"MLflow   {redact(tracker.uri)}  run {tracker.run_id}" + (f"  model {logged}" if logged else ""),
        f"log      {folder.log}",
    )
