"""Define what all commands share: the application, the terminal, common arguments, and how results are printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer
from rich.console import Console

from raykd import __version__
from raykd.cli.terminal import Terminal

if TYPE_CHECKING:
    from raykd.results import ComparisonResult, Run, RunsReport, SweepResult

app = typer.Typer(
    name="raykd",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="""Distil several teachers, monolingual and multilingual, into one small student.

Ray actors serve the teachers, DeepSpeed trains the student in Ray workers, MLflow records everything.

[bold]A first look:[/bold]   raykd demo
[bold]Your own run:[/bold]   raykd check RUN.yaml   then   raykd train RUN.yaml
[bold]A search:[/bold]       raykd sweep SPACE.yaml   then   raykd confirm runs/NAME
[bold]An experiment:[/bold] raykd compare RUN.yaml --preset ensemble
[bold]Its student:[/bold]    raykd predict runs/NAME/student "some text"
""",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raykd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def _console(*, stderr: bool = False) -> Console:
    console = Terminal(stderr=stderr, emoji=False)
    if not console.is_terminal:
        # A pipe or a file has no width, and the result table needs more than rich's 80 columns.
        console.width = max(console.width, 120)
    return console


console = _console()
errors = _console(stderr=True)


FAILED = 4
"""Exit code if a trial, or a training of an experiment, failed."""
OutputFolder = Annotated[Path, typer.Option("--output", help="Folder of all runs (output in a run file).")]
RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="A run file, or the folder of a run.")]
RunOrSpace = Annotated[
    Path, typer.Argument(metavar="RUN_OR_SPACE.yaml", help="A run file, or a search space (see sweep).")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Keys of the file to change: objective.alpha=0.3 teachers.en.actor.replicas=2; of a search space: "
        "num_samples=8 set.train.epochs=2 base=run.yaml",
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue from the last checkpoint, or start if there is none."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Empty the folder and start anew.")]
Smoke = Annotated[
    bool,
    typer.Option("--smoke", help="Run all of it in short, in output/NAME-smoke: few rows, steps and trials."),
]
Profile = Annotated[
    bool,
    typer.Option("--profile", help="Record parts of each step, too, and print where the time went."),
]


class StartOptions(TypedDict):
    """How a command begins: the options `Resume`, `Overwrite` and `Smoke`."""

    resume: bool
    overwrite: bool
    smoke: bool


def show_result(result: Run | SweepResult | ComparisonResult | RunsReport) -> None:
    """Show the tables and lines of a result."""
    for part in result.shown:
        console.print(part, markup=False, highlight=False)
    print_lines(*result.lines)


def end_with_result(result: SweepResult | ComparisonResult, *, allow_failed: bool = False) -> None:
    """Show a result, and end the command with `FAILED` if a training failed and none may."""
    show_result(result)
    exit_with(FAILED if result.failed and not allow_failed else 0)


def print_lines(*lines: str, markup: bool = True) -> None:
    """Print lines that only the terminal wraps; without `markup` plain ones, else in rich's markup."""
    for line in lines:
        console.print(line, markup=markup, highlight=False, soft_wrap=True)


def exit_with(code: int) -> None:
    """End the command with this exit code if it is not 0."""
    if code:
        raise typer.Exit(code)
