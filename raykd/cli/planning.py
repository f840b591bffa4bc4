"""Define `raykd plan` and `raykd doctor`: what can be known before anything starts."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from raykd import api
from raykd.cli.app import OutputFolder, Overrides, RunOrSpace, app, exit_with, print_lines

if TYPE_CHECKING:
    from raykd.preflight.finding import Finding


@app.command("plan")
def plan_command(run: RunOrSpace, overrides: Overrides = None) -> None:
    """Show what a run, a sweep or an experiment will take: resources, steps, answers, checkpoints, disk, time.

    Starts nothing and asks no cluster. Exit codes: 0 done, 2 it cannot fit or is no run, 3 data or model.
    """
    items = api.plan(run, overrides or ())
    print_items(items)
    exit_with(next((item.error.exit_code for item in items if item.error is not None), 0))


def print_items(items: list[Finding]) -> None:
    """Print one line per item, marked if it is doubtful or wrong."""
    from raykd.redaction import redact

    width = max(len(item.what) for item in items)
    for item in items:
        mark = "[yellow]warn [/yellow]" if item.doubt else "[green]ok[/green]   "
        mark = "[red]wrong[/red]" if item.error else mark
        print_lines(f"{mark}  [bold]{escape(item.what.ljust(width))}[/bold]  {escape(redact(item.detail))}")
        if item.error is not None:
            print_error(item.error)


def print_error(error: Exception) -> None:
    """Print an error below the line that it belongs to."""
    from raykd.redaction import redact

    print_lines(indent(redact(str(error)), " " * 7), markup=False)


@app.command("doctor")
def run_doctor(
    address: Annotated[
        str | None,
        typer.Option(help="Also look at this Ray cluster: auto, or host:port. Default: only this machine."),
    ] = None,
    output: OutputFolder = Path("runs"),
) -> None:
    """Look at this machine and at a cluster: versions, processor, disk, MLflow, services open to others.

    Changes nothing. Exit codes: 0 nothing is wrong, 5 something is.
    """
    from raykd.preflight.doctor import diagnose

    items = diagnose(output, address)
    print_items(items)
    wrong = sum(item.error is not None for item in items)
    doubts = sum(item.doubt and item.error is None for item in items)
    print_lines(f"{wrong} wrong, {doubts} to look at, {len(items) - wrong - doubts} well")
    exit_with(5 if wrong else 0)
