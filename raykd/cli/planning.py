"""`raykd plan`, `diagnose`: what can be known before anything starts."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from raykd import api
from raykd.cli.app import app, console

if TYPE_CHECKING:
    from raykd.preflight.plan import Item


@app.command("plan")
def plan_command(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_SPACE.yaml", help="A run file, or a search space.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Keys to change, as for train and sweep.")
    ] = None,
) -> None:
    """Show what a run or a sweep will take: resources, steps, answers, checkpoints, disk, time.

    Nothing is started and no cluster is asked. Exit codes: 0 done, 2 it cannot fit or is no run, 3 data or model.
    """
    items = api.plan(run, overrides or ())
    print_items(items)
    wrong = [item.error for item in items if item.error is not None]
    if wrong:
        raise typer.Exit(wrong[0].exit_code)


def print_items(items: list[Item]) -> None:
    """A line an item, with a mark where it needs a look or is wrong."""
    from raykd.tracking import redact

    wide = max(len(item.what) for item in items)
    for item in items:
        mark = (
            "[red]wrong[/red]"
            if item.error
            else "[yellow]warn [/yellow]"
            if item.doubt
            else "[green]ok[/green]   "
        )
        console.print(
            f"{mark}  [bold]{escape(item.what.ljust(wide))}[/bold]  {escape(redact(item.detail))}",
            highlight=False,
            soft_wrap=True,
        )
        if item.error is not None:
            console.print(
                indent(redact(str(item.error)), " " * 7), markup=False, highlight=False, soft_wrap=True
            )


@app.command("doctor")
def run_doctor(
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster to look at too: auto, or host:port. By default only this machine."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder of runs.")] = Path("runs"),
) -> None:
    """Look at this machine, and at a cluster: versions, processor, disk, MLflow, what is open to strangers.

    Nothing is changed. Exit codes: 0 nothing is wrong, 5 something is.
    """
    from raykd.preflight.doctor import diagnose as look

    items = look(output, address)
    print_items(items)
    wrong = sum(item.error is not None for item in items)
    doubts = sum(item.doubt and item.error is None for item in items)
    console.print(f"{wrong} wrong, {doubts} to look at, {len(items) - wrong - doubts} well", highlight=False)
    if wrong:
        raise typer.Exit(5)
