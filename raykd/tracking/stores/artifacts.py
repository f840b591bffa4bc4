"""Keep MLflow's notion of where artifacts lie true after a folder was moved or copied.

Decision record: raykd keeps artifacts beside its database, in `mlartifacts`, and MLflow notes that place in the
database as an absolute path. After `mv` or `cp` the database still names the old folder, and MLflow has no call that
changes it: a resumed run would write to the old place, and what lies in the new one would not be found. The old
folder's name is therefore replaced in the moved database by SQL, where it is certain that it was moved or copied:
artifacts are not at the old place, or a database of the same name is there too. Any other place is somebody's choice
and stays; whether it can be written is checked before a run begins.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from raykd.compat.mlflow_private import forget_artifact_folders
from raykd.environ import is_this_machine
from raykd.errors import TrackingError
from raykd.tracking.address import find_database_path, is_server
from raykd.tracking.delivery.outbox import logger
from raykd.tracking.stores.database import LOCKED_S, find_closed_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "mlartifacts"
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns in which MLflow's schema names places of artifacts."""
_CLIENT_MODULES = {
    "s3": "boto3", "s3a": "boto3", "s3n": "boto3", "gs": "google.cloud.storage", "wasbs": "azure.storage.blob",
    "hdfs": "pyarrow",
}  # fmt: skip
"""Scheme of a location to the module that MLflow writes there with."""


def parse_local_path(location: str) -> Path | None:
    """Return the folder of a location on this machine; None where it is elsewhere."""
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path) if parts.scheme else location)


def find_left_behind(uri: str, location: str) -> Path | None:
    """Return the folder that a moved or copied database still names for its artifacts; None where it was not moved."""
    database, old = find_database_path(uri), parse_local_path(location)
    if database is None or old is None or old.name != ARTIFACTS or old.parent == database.parent:
        return None
    with contextlib.suppress(OSError):
        if os.path.samefile(old.parent, database.parent):
            return None  # the same folder by another name
    is_copy = (old.parent / database.name).exists()
    return old if is_copy or not old.exists() else None


def rewrite_moved_locations(uri: str, location: str) -> str | None:
    """Let a moved database name the folder of artifacts beside it.

    Returns:
        What was done, for people; None if nothing.

    Raises:
        sqlite3.Error: The database cannot be written.
    """
    database, old = find_database_path(uri), find_left_behind(uri, location)
    if database is None or old is None:
        return None
    place = database.parent / ARTIFACTS
    before, after = old.as_uri(), place.as_uri()
    with contextlib.closing(sqlite3.connect(database, timeout=LOCKED_S)) as connection, connection:
        for table, column in _COLUMNS:
            with contextlib.suppress(sqlite3.OperationalError):  # no such column in this schema
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (after, len(before) + 1, before, len(before) + 1, before + "/"),
                )
    return (
        f"the MLflow database was moved or copied: its artifacts are now those in {place}, no longer in {old}"
    )


def check_artifact_location(uri: str, name: str, location: str) -> str | None:
    """Check that artifacts of an experiment can be written.

    Args:
        uri: Address of MLflow.
        name: Of the experiment.
        location: Where MLflow says that its artifacts lie.

    Returns:
        A note where they lie elsewhere than one may think, else None.

    Raises:
        TrackingError: They cannot be written from here.
    """
    scheme = urlsplit(location).scheme
    client = _CLIENT_MODULES.get(scheme)
    wanted = "an experiment whose artifacts can be written from here"
    other = "tracking.experiment=NAME names another experiment"
    if client is not None and not _can_import(client):
        raise TrackingError(
            f"artifacts of the MLflow experiment {name!r} lie at {scheme}://, whose client is not installed",
            got=location, wanted=wanted, next_step=f"pip install {client.replace('.', '-')}; or {other}",
        )  # fmt: skip
    path = parse_local_path(location)
    if path is None or find_left_behind(uri, location) is not None:
        return None
    if (closed := find_closed_folder(path)) is not None:
        raise TrackingError(
            f"artifacts of the MLflow experiment {name!r} cannot be written",
            got=f"{path}: {closed} is no folder that this user may write",
            wanted=wanted,
            next_step=other,
        )
    database = find_database_path(uri)
    if database is not None and not path.is_relative_to(database.parent):
        return f"artifacts of the MLflow experiment {name!r} are written to {path}, not beside the database"
    if is_server(uri) and not is_this_machine(urlsplit(uri).hostname or ""):
        return (
            f"the server keeps artifacts of the MLflow experiment {name!r} in {path}, written from this machine: "
            "its pages find them only if both see the same folder (mlflow server --serve-artifacts)"
        )
    return None


def _can_import(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def repair_artifact_location(client: MlflowClient, uri: str, experiment_id: str) -> str | None:
    """Follow a move of the database, if this experiment shows one; return what was done, None if nothing."""
    try:
        done = rewrite_moved_locations(uri, client.get_experiment(experiment_id).artifact_location)
        if done is not None:
            forget_artifact_folders()
        return done
    except (sqlite3.Error, OSError) as error:
        logger.warning("artifacts stay at the place that the database names: %s", error)
        return None
