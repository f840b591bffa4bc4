"""Record a finished report in MLflow, and list where everything is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.markup import escape

from raykd.folders.folder import RunFolder
from raykd.tracking import Tracker, redact


def record_report(
    tracker: Tracker,
    page: Path,
    *,
    tables: Mapping[str, Sequence[Mapping[str, object]]],
    texts: Mapping[str, str],
    environment: Mapping[str, str] | None = None,
    task: str = "",
) -> None:
    """Log the results of a command as artifacts.

    Args:
        tracker: The MLflow run.
        page: The report.
        tables: Rows, by name.
        texts: Contents, by name.
        environment: Where the command ran; None is not logged.
        task: Folder of the artifacts in a run of several tasks; empty for none.
    """
    place = f"{task}/" if task else ""
    if environment is not None:
        texts = {**texts, "environment.json": json.dumps(dict(environment), indent=2)}
    for name, rows in tables.items():
        tracker.log_table(rows, f"{place}{name}")
    for name, text in texts.items():
        tracker.log_text(text, f"{place}{name}")
    tracker.log_file(page, task or None)


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
    """Return the last lines for the terminal: notes, findings, and where everything is.

    Args:
        notes: What a reader must know.
        page: The report.
        tracker: The MLflow run.
        folder: The command's folder.
        found: Lines below the notes, in rich's markup.
        logged: URI of the model in MLflow, if one was logged.
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
