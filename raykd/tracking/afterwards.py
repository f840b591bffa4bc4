"""Replace files of a run that has ended in MLflow: what was made anew in its folder since."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from raykd.tracking.address import find_database_path, format_sync_command
from raykd.tracking.client import connect_mlflow, read_stage
from raykd.tracking.delivery.operations import (
    LATER,
    LOCAL,
    TrackingOp,
    WaitingOps,
    make_stored_path,
    perform_op,
)
from raykd.tracking.delivery.outbox import logger
from raykd.tracking.stores.failure import convert_failure
from raykd.tracking.timeouts import ask_briefly


def replace_files(uri: str, run_id: str, folder: Path, files: Mapping[Path, str | None]) -> str | None:
    """Log files into a run without opening it again, so that its end and its status stay.

    Args:
        uri: From `resolve_tracking_uri`.
        run_id: Id of the run.
        folder: The run's folder, where what MLflow does not take waits for `raykd mlflow sync`.
        files: The artifact folder of each file; None is the run's own.

    Returns:
        Why MLflow holds the earlier files, and what to do; None where it has the new ones.
    """
    ops = [
        TrackingOp(run_id, "file", str(path), {"file": make_stored_path(path, folder), "dir": place})
        for path, place in files.items()
    ]
    sync = f"{format_sync_command(uri, folder)} sends them"
    database = find_database_path(uri)
    if database is not None and not database.is_file():
        return f"MLflow was not told: there is no database {database}"
    later = WaitingOps(folder / LATER)
    if run_id.startswith(LOCAL):
        later.keep([*later.ops, *(op for op in ops if op not in later.ops)])
        return f"MLflow does not know this run yet; {sync}"
    try:
        with ask_briefly(uri):
            client = connect_mlflow(uri)
            stage = read_stage(client, run_id)
        if stage != "active":
            return f"MLflow was not told: its run {run_id} is {stage}"
        for op in ops:
            perform_op(client, run_id, op, folder)
    except Exception as error:  # whatever it is, the files are in the folder
        failure = convert_failure(uri, error)
        logger.warning("%s", failure)
        later.keep([*later.ops, *(op for op in ops if op not in later.ops)])
        return f"MLflow does not take the new pages ({failure.what}); {sync}"
    return None
