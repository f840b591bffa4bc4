"""`raykd sweep`, `confirm`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raykd.cli.app import app, console, finish

if TYPE_CHECKING:
    from raykd.tuning.config import Sweep


@app.command()
def sweep(
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
    from raykd.tuning.config import load_sweep
    from raykd.tuning.run import sweep as run_sweep

    changes = overrides or []
    plan = load_sweep(_named(space), changes) if resume is None else _resumed(space, changes, resume, output)
    going_on = resume is not None or go_on
    if smoke:
        from raykd.driver.smoke import refuse_going_on
        from raykd.tuning.checks.smoke import smoke_sweep

        refuse_going_on(resume=going_on)
        plan, overwrite = smoke_sweep(plan), True
    if go_on and space is not None and not (Path(plan.output) / plan.name).exists():
        from raykd.config.home import refuse_another

        refuse_another(space, plan.output, plan.name, "raykd sweep --resume {}")
    outcome = run_sweep(plan, resume=going_on, overwrite=overwrite, console=console)
    finish(outcome)
    if outcome.failed and not allow_failed_trials:
        raise typer.Exit(4)


def _named(space: Path | None) -> Path:
    from raykd.errors import ConfigError

    if space is None:
        raise ConfigError("no sweep is named", wanted="raykd sweep SPACE.yaml, or raykd sweep --resume NAME")
    return space


def _resumed(space: Path | None, changes: list[str], resume: str, output: Path) -> Sweep:
    """The sweep of the folder that is named, from its own file or from another one; it never lies elsewhere.

    Raises:
        ConfigError: there is no such sweep, or the folder is to be another one.
    """
    from raykd.config.home import SPACE, named
    from raykd.errors import ConfigError
    from raykd.tuning.config import load_sweep

    folder = named(Path(resume), output).resolve()
    if not (folder / SPACE).is_file():
        raise ConfigError(
            f"there is no sweep {resume} to go on with",
            got=f"no {SPACE} of a sweep in {folder}, nor in {(output / resume).resolve()}",
            wanted="its name under --output, or its folder",
            next_step="raykd sweep SPACE.yaml starts one",
        )
    if space is not None and "=" in str(space):  # the first KEY=VALUE
        space, changes = None, [str(space), *changes]
    plan = load_sweep(folder / SPACE, changes) if space is None else load_sweep(space, changes, folder)
    if Path(plan.output).resolve() / plan.name != folder:
        raise ConfigError(
            f"--resume goes on in {folder}, and name and output say another folder",
            got=str(Path(plan.output).resolve() / plan.name),
            wanted="neither name= nor output= beside --resume",
            next_step="leave them out; a folder that was moved or renamed is named by --resume itself",
        )
    return plan


@app.command()
def confirm(
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
    from raykd.experiments.confirmation import confirm as run_confirm

    result = run_confirm(sweep_folder, seeds, resume=resume, overwrite=overwrite, console=console)
    finish(result)
    if result.failed:
        raise typer.Exit(4)
