"""Define `raykd sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raykd import api
from raykd.cli.app import (
    FAILED,
    OutputFolder,
    Overrides,
    Overwrite,
    Smoke,
    app,
    console,
    exit_with,
    show_result,
)


@app.command("sweep")
def sweep_command(
    space: Annotated[
        Path | None,
        typer.Argument(metavar="SPACE.yaml", help="The searched keys and the base run: see tune_spaces/."),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="NAME", help="Continue the sweep of this name or folder."),
    ] = None,
    go_on: Annotated[
        bool,
        typer.Option("--continue", help="Continue the sweep of SPACE.yaml, or start it if there is none."),
    ] = False,
    overwrite: Overwrite = False,
    output: OutputFolder = Path("runs"),
    allow_failed_trials: Annotated[
        bool, typer.Option("--allow-failed-trials", help="Exit with 0 even if trials failed.")
    ] = False,
    smoke: Smoke = False,
) -> None:
    """Search alpha, temperature, schedules or any other key, over teachers that answer each text once.

    Everything is written to output/name: best.yaml (a run file for raykd train), report.html, trials.csv, trials.jsonl.

    An interrupted sweep continues with --resume NAME. Finished trials stay, and num_samples may then be larger.
    --output is where NAME is looked for.

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
    exit_with(FAILED if result.failed and not allow_failed_trials else 0)
