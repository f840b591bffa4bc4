"""What all commands share: the application, the terminal, how a run file is read and an outcome shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from raykd.cli.terminal import Terminal

if TYPE_CHECKING:
    from raykd.results import ConfirmationResult, Run, SweepResult

app = typer.Typer(
    name="raykd",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="""Distil several teachers, monolingual and multilingual, into one small student.

Teachers are served by Ray actors, DeepSpeed trains the student in Ray Train workers, MLflow records the run.

[bold]A first look:[/bold]   raykd demo
[bold]Your own run:[/bold]   raykd check RUN.yaml   then   raykd train RUN.yaml
[bold]A search:[/bold]       raykd sweep SPACE.yaml   then   raykd confirm runs/NAME
[bold]Its student:[/bold]    raykd predict runs/NAME/student "some text"
""",
)


def _console(*, stderr: bool = False) -> Console:
    """A pipe or a file has no width of its own; the result table needs more than rich's 80 columns."""
    console = Terminal(stderr=stderr, emoji=False)
    return (
        console
        if console.is_terminal
        else Terminal(stderr=stderr, emoji=False, width=max(console.width, 120))
    )


console = _console()
errors = _console(stderr=True)


RunFile = Annotated[
    Path,
    typer.Argument(
        metavar="RUN.yaml", help="The run: data, teachers, student, objective; or the folder of one."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Keys of RUN.yaml to change: objective.alpha=0.3 teachers.en.actor.replicas=2",
    ),
]


def load_run_file(path: Path, overrides: list[str] | None) -> Any:
    from raykd.config.loading import load_run

    return load_run(path, overrides or ())


def show_result(result: Run | SweepResult | ConfirmationResult) -> None:
    """Show tables and lines of what a command made."""
    for part in result.shown:
        console.print(part, markup=False, highlight=False)
    print_lines(result.lines)


def print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
