"""Check before a run begins whether MLflow can record it; nothing is made and nothing is written.

Decision record: whatever `Tracker.start` would refuse is refused here, so that a run that cannot be recorded stops
before Ray starts. A server that does not answer is an error if the run must be recorded, else a note.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from raykd.config import TrackingConfig
from raykd.errors import TrackingError
from raykd.redaction import redact
from raykd.tracking.address import (
    Experiment,
    build_sqlite_uri,
    find_database_path,
    is_server,
    list_environment_notes,
    resolve_tracking_uri,
)
from raykd.tracking.client import (
    connect_mlflow,
    find_experiment,
    make_missing_experiment_error,
    refuse_deleted_experiment,
)
from raykd.tracking.stores.artifacts import check_artifact_location, find_left_behind, parse_local_path
from raykd.tracking.stores.database import check_database, check_folder, connect_database, is_new
from raykd.tracking.stores.failure import convert_failure
from raykd.tracking.stores.reading import StoredExperiment, read_experiment
from raykd.tracking.timeouts import PROBE_S, ask_briefly

if TYPE_CHECKING:
    from mlflow.entities import Experiment as MlflowExperiment

DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


@dataclass(frozen=True)
class RecordingPlace:
    """Where a run will be recorded.

    Attributes:
        notes: What a reader must know of it.
    """

    uri: str
    experiment: Experiment
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{redact(self.uri)}, experiment {self.experiment}"


def find_recording_place(config: TrackingConfig, output: Path) -> RecordingPlace:
    """Find the place where a run with this configuration is recorded, and check it.

    Raises:
        TrackingError: It cannot be recorded there.
    """
    uri, asked = resolve_tracking_uri(config, output), Experiment.of(config)
    notes = list_environment_notes(config)
    try:
        notes += _check_store(uri, asked)
    except TrackingError as error:
        if config.required or not error.is_away:
            raise
        notes.append(
            f"MLflow does not answer now; records would wait in the run's folder ({error.what}: {error.got})"
        )
    return RecordingPlace(uri, asked, tuple(notes))


def _check_store(uri: str, asked: Experiment) -> list[str]:
    """Check the database or server, and return what a reader must know of it."""
    path = find_database_path(uri) or (parse_local_path(uri) if uri.startswith("file:") else None)
    if path is not None and is_new(path):
        check_folder(path)
        if asked.id not in (None, "0"):  # what a new database has is MLflow's own experiment 0
            raise make_missing_experiment_error(uri, asked)
        return []
    try:
        if path is None and not is_server(uri):
            _check_database_server(uri)
        found = _find_experiment(uri, asked)
    except Exception as error:
        raise convert_failure(uri, error) from None  # the cause may hold what must not be printed
    if found is None:
        return []
    notes = [check_artifact_location(uri, found.name, found.artifact_location)]
    if (old := find_left_behind(uri, found.artifact_location)) is not None:
        notes.append(f"the database was moved or copied from {old.parent}: artifacts will lie beside it")
    return [note for note in notes if note]


def _find_experiment(uri: str, asked: Experiment) -> MlflowExperiment | StoredExperiment | None:
    """Find the experiment by SQL where the database is SQLite and as expected, else through MLflow."""
    path = find_database_path(uri)
    if path is not None:
        check_database(path, uri)
        with contextlib.closing(connect_database(path)) as database:
            read = read_experiment(database, asked) if uri == build_sqlite_uri(path) else None
        if read is not None:
            if read[0] is not None:
                refuse_deleted_experiment(read[0], uri, asked)
            return read[0]
    with ask_briefly(uri):
        return find_experiment(connect_mlflow(uri), uri, asked)


def _check_database_server(uri: str) -> None:
    """Check that a database's driver is there and its host answers, neither of which MLflow says within a minute.

    Raises:
        ModuleNotFoundError: The driver is not installed.
        OSError: The host does not answer.
    """
    import sqlalchemy

    parts = urlsplit(uri)
    sqlalchemy.create_engine(uri)  # imports the driver, connects to nothing
    if parts.hostname:
        port = parts.port or DEFAULT_PORTS.get(parts.scheme.split("+")[0], 0)
        socket.create_connection((parts.hostname, port), timeout=PROBE_S).close()
