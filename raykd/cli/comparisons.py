"""Define `raykd compare` and `raykd confirm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raykd import api
from raykd.cli.app import Overrides, Overwrite, Resume, Smoke, StartOptions, app, console, end_with_result


@app.command("compare")
def compare_command(
    experiment: Annotated[
        Path,
        typer.Argument(
            metavar="EXPERIMENT.yaml",
            help="Arms and seeds: see examples/experiments/. With --preset a run file.",
        ),
    ],
    overrides: Overrides = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="Compare arms of a run file: ensemble, weighting, data_budget, student_size, tuned_against_default.",
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds of every arm.")] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    smoke: Smoke = False,
) -> None:
    """Train arms with the same seeds, over teachers that answer each text once, and show the paired differences.

    Everything is written to output/name: report.html, comparison.json, results.md, and every student under students.

    An experiment that was cut off continues with --resume. Finished trainings stay; seeds and arms may be added.

    Exit codes: 0 done, 2 configuration, 3 data or model, 4 trainings failed, 5 infrastructure, 130 interrupted.
    """
    changes = [*(overrides or []), *([f"seeds={seeds}"] if seeds is not None else [])]
    begin = StartOptions(resume=resume, overwrite=overwrite, smoke=smoke)
    end_with_result(api.compare(experiment, changes, preset=preset, progress=console, **begin))


@app.command("confirm")
def confirm_command(
    sweep_folder: Annotated[
        Path, typer.Argument(metavar="SWEEP", help="The folder of a finished sweep: runs/NAME.")
    ],
    seeds: Annotated[int, typer.Option(min=2, help="Number of fresh seeds for each of the two.")] = 5,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a sweep's winner and its base again with fresh seeds, and show the paired difference with its interval.

    The test rows are read here for the first time. A winner's validation score alone includes the luck of the search.
    """
    end_with_result(api.confirm(sweep_folder, seeds, resume=resume, overwrite=overwrite, progress=console))
