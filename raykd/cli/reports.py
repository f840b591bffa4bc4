"""Define `raykd explain` and `raykd report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from raykd import saved_models
from raykd.cli.app import app, console, print_lines


@app.command("explain")
def explain_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run: runs/NAME.")],
    comparison: Annotated[
        Path | None,
        typer.Option(
            metavar="EXPERIMENT",
            help="Folder of a comparison that left its teachers out (raykd compare --preset ensemble).",
        ),
    ] = None,
) -> None:
    """Show what each teacher of a run adds, from stored answers: points by language and class, and advice.

    Also how alike teachers answer, calibration, where the student departs from them, sizes, speeds and costs.
    Trains nothing and loads no teacher. Writes ensemble.json and ensemble.html into the run's folder.

    Exit codes: 0 done, 2 no run with teachers, 3 data or model, 5 stored answers are gone.
    """
    found = saved_models.explain(run, comparison=comparison)
    for part in found.shown:
        console.print(part, markup=False, highlight=False)
    for line in found.advice:
        print_lines(f"[bold]advice[/bold]   {escape(line)}")
    for note in found.notes:
        print_lines(f"[yellow]note[/yellow]     {escape(note)}")
    print_lines(*found.lines, markup=False)


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
        typer.Option(
            "--png", help="Draw the charts as PNGs beside the page, too (needs the extra raykd\\[png])."
        ),
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
