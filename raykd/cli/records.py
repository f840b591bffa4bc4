"""Define `raykd mlflow` and `raykd ui`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raykd.cli.app import OutputFolder, app, print_lines
from raykd.errors import ConfigError, TrackingError

mlflow_app = typer.Typer(help="Send records that MLflow has not taken yet.", no_args_is_help=True)
app.add_typer(mlflow_app, name="mlflow")


@mlflow_app.command("sync")
def sync_records(
    run: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run or a sweep, for example runs/NAME.")
    ],
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Use a new MLflow run in place of one that was deleted.")
    ] = False,
) -> None:
    """Send what a run could not record while MLflow was away: curves, tags, artifacts, its end.

    Safe to repeat.
    """
    from raykd.config import TrackingConfig
    from raykd.config.home import find_folder
    from raykd.config.loading import read_yaml_mapping
    from raykd.folders.lock import lock_folder
    from raykd.tracking import (
        Experiment,
        SyncResult,
        find_waiting_folders,
        resolve_tracking_uri,
        send_waiting,
    )

    folder = find_folder(run).resolve()
    _check_run_folder(folder, run)
    try:
        with lock_folder(folder):
            folders = find_waiting_folders(folder)
            if not folders:
                print_lines("nothing waits to be sent")
                return
            # The rest of the run may name files that are on another machine.
            tracking = TrackingConfig.model_validate(
                read_yaml_mapping(folder / "run.yaml").get("tracking") or {}
            )
            uri = resolve_tracking_uri(tracking, _find_output(folder))
            asked = Experiment.of(tracking) if new_run else None
            sent = sum((send_waiting(uri, part, new_run=asked) for part in folders), SyncResult())
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"{folder} cannot be sent from here",
            got=str(error),
            wanted="a run's folder that can be read and written",
            next_step="see who may write it; what waits there stays",
        ) from None
    print_lines(f"sent {sent.points:,} points and {sent.operations:,} other records")
    if sent.kept:
        print_lines(*(f"not sent: {line}" for line in sent.kept), markup=False)
        raise typer.Exit(TrackingError.exit_code)


def _find_output(folder: Path) -> Path:
    """Return the folder of all runs: the one with the database, which may have been moved together with the run."""
    return next((above for above in folder.parents if (above / "mlflow.db").exists()), folder.parent)


def _check_run_folder(folder: Path, given: Path) -> None:
    """Check that a folder is the folder of a run or a sweep.

    Raises:
        ConfigError: It is not. Names the runs in it, if there are any.
    """
    if (folder / "run.json").is_file() and (folder / "run.yaml").is_file():
        return
    inside = sorted(path.parent.name for path in folder.glob("*/run.json")) if folder.is_dir() else []
    got = "no run.json and run.yaml in it" if folder.is_dir() else "no such folder"
    raise ConfigError(
        f"{given} is no folder of a run",
        got=f"runs in it: {', '.join(inside[:10])}" if inside else got,
        wanted="output/NAME of a run or a sweep",
        next_step=f"raykd mlflow sync {given / inside[0]}"
        if inside
        else "for example: raykd mlflow sync runs/NAME",
    )


@app.command("ui")
def open_ui(
    output: OutputFolder = Path("runs"),
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Serve the MLflow pages of the runs in a folder, on 127.0.0.1 only, until Ctrl-C."""
    from raykd.tracking import serve_ui

    serve_ui(output, port, print_lines)
