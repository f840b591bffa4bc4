"""`raykd sweep`, `confirm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raykd import api
from raykd.cli.app import app, console, show_result


@app.command("sweep")
def sweep_command(
    space: Annotated[
        Path | None,
        typer.Argument(metavar="SPACE.yaml", help="What is searched, over which run: see tune_spaces/."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Keys of SPACE.yaml to change: num_samples=8 set.train.epochs=2 base=run.yaml",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="NAME",
            help="Go on with the sweep of this name (or folder); finished trials stay.",
        ),
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Go on with SPACE.yaml's sweep if it is there, else start it.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Empty the sweep's folder and start anew.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Where --resume looks for NAME.")] = Path("runs"),
    allow_failed_trials: Annotated[
        bool, typer.Option("--allow-failed-trials", help="Exit with 0 although trials failed.")
    ] = False,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="Run all of it in short, from the start, in output/NAME-smoke: few trials, rows and steps.",
        ),
    ] = False,
) -> None:
    """Search alpha, temperature, schedules and any other key, over teachers that answer each text once.

    Everything lands in output/name: best.yaml (raykd train takes it as it is), report.html, trials.csv, trials.jsonl.

    A sweep that was cut off goes on with --resume NAME; more num_samples may be asked for then.

    Exit codes: 0 done, 2 configuration, 3 data or model, 4 trials failed, 5 infrastructure, 130 interrupted.
    """
    changes = overrides or []
    if resume is not None and space is not None and "=" in str(space):  # the first KEY=VALUE
        space, changes = None, [str(space), *changes]
    result = api.sweep(
        space,
        changes,
        resume=go_on if resume is None else resume,
        overwrite=overwrite,
        smoke=smoke,
        output=output,
        progress=console,
    )
    show_result(result)
    if result.failed and not allow_failed_trials:
        raise typer.Exit(4)


@app.command("confirm")
def confirm_command(
    sweep_folder: Annotated[
        Path, typer.Argument(metavar="SWEEP", help="The folder of a finished sweep: runs/NAME.")
    ],
    seeds: Annotated[int, typer.Option(min=2, help="Fresh seeds for each of the two.")] = 5,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an earlier confirmation was cut off.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start the confirmation anew.")] = False,
) -> None:
    """Train a sweep's winner and its base again with fresh seeds: the paired difference and its interval.

    The test rows are read here, once. A winner's validation score alone carries the luck of the search.
    """
    result = api.confirm(sweep_folder, seeds, resume=resume, overwrite=overwrite, progress=console)
    show_result(result)
    if result.failed:
        raise typer.Exit(4)
