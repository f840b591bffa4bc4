"""Define `raykd report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from raykd import saved_models
from raykd.cli.app import app, console, print_lines


@app.command("report")
def report_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of runs, sweeps and comparisons: runs/NAME, or NAME alone."
        ),
    ],
    page: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE", help="The page about several runs; otherwise compared.html beside them."
        ),
    ] = None,
    png: Annotated[
        bool,
        typer.Option("--png", help="Draw the main chart as a PNG beside the page, too (needs raykd[png])."),
    ] = False,
) -> None:
    """Write the page of one run again, or set any runs side by side: scores by language, costs, what differs.

    A run is shown by its student, a sweep by its best trial, a comparison by its arms. Nothing is trained or asked.

    Exit codes: 0 done, 2 no such folder, 3 a folder without a report.
    """
    found = saved_models.write_report(*runs, page=page, png=png)
    for part in found.shown:
        console.print(part, markup=False, highlight=False)
    for note in found.notes:
        print_lines(f"[yellow]note[/yellow]     {escape(note)}")
    print_lines(*found.lines, markup=False)
