"""`raykd mlflow`, `ui`: what concerns records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raykd.cli.app import app, console

mlflow_app = typer.Typer(help="What concerns MLflow alone.", no_args_is_help=True)
app.add_typer(mlflow_app, name="mlflow")


@mlflow_app.command()
def sync(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, for example runs/NAME.")],
) -> None:
    """Send what a run could not record while MLflow was away: curves, tags, artifacts, its end. Twice does no harm."""
    from raykd.load import load_any
    from raykd.tracking import Sent, folders_to_send, replay, tracking_uri

    config = load_any(run / "run.yaml")
    folders = folders_to_send(run)
    if not folders:
        console.print("nothing waits to be sent")
        return
    uri = tracking_uri(config.tracking, Path(config.output).resolve())
    sent = sum((replay(uri, folder) for folder in folders), Sent())
    console.print(f"sent {sent.points:,} points and {sent.acts:,} other records")


@app.command()
def ui(
    output: Annotated[Path, typer.Option(help="The folder that holds mlflow.db.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Open the MLflow pages of this database (on 127.0.0.1 only); Ctrl-C ends them."""
    from raykd.tracking import serve_ui

    serve_ui(output, port, lambda line: console.print(line, highlight=False))
