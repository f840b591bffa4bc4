"""Read an SQLite database of MLflow without importing mlflow, which takes seconds.

Decision record: what MLflow wants of a database (the newest revision of its schema, the revisions before, the tables)
is asked of MLflow itself once for each installed version and cached under its migrations' files. A database that has
exactly this is read by SQL. Whatever is out of the ordinary (workspaces, a table or column that is not there, MLflow's
own experiment 0) is left to MLflow, so that its refusals and messages are those of MLflow.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from raykd.cache import load_or_compute
from raykd.tracking.address import Experiment
from raykd.tracking.timeouts import disable_telemetry

MLFLOW_LIBRARIES = ("mlflow", "alembic", "sqlalchemy")
"""Packages that decide how a database looks."""
DEFAULT = "Default"
"""Name of the experiment that MLflow makes where it is not there; its id is 0."""


@dataclass(frozen=True)
class Schema:
    """What an installed MLflow wants of a database.

    Attributes:
        head: The revision that it reads and writes.
        revisions: All revisions that it knows.
        tables: Tables that must be there.
    """

    head: str
    revisions: tuple[str, ...]
    tables: tuple[str, ...]


@dataclass(frozen=True)
class StoredExperiment:
    """An experiment in the database, with the attributes that MLflow's own class has."""

    experiment_id: str
    name: str
    artifact_location: str
    lifecycle_stage: str


@cache
def read_schema() -> Schema:
    """Return what the installed MLflow wants of a database."""
    return load_or_compute("mlflow", stamp_migrations, Schema, _ask_mlflow, "mlflow", "alembic", "sqlalchemy")


def _find_migrations() -> Path:
    found = importlib.util.find_spec("mlflow")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
    return Path(found.submodule_search_locations[0]) / "store" / "db_migrations"


def stamp_migrations() -> list[tuple[str, int, int]]:
    """Return names, sizes and times of the files that define the schema."""
    folder = _find_migrations()
    found = [*sorted((folder / "versions").glob("*.py")), *sorted(folder.parent.rglob("*model*.py"))]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in found]


def _ask_mlflow() -> Schema:
    disable_telemetry()
    from alembic.script import ScriptDirectory
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.model_registry import sqlalchemy_store as _registry  # noqa: F401  (its tables)
    from mlflow.store.tracking import sqlalchemy_store as _tracking  # noqa: F401

    migrations = ScriptDirectory(str(_find_migrations()))
    revisions = sorted(revision.revision for revision in migrations.walk_revisions())
    return Schema(str(migrations.get_current_head()), tuple(revisions), tuple(sorted(Base.metadata.tables)))


def read_experiment(database: sqlite3.Connection, asked: Experiment) -> tuple[StoredExperiment | None] | None:
    """Read an experiment of a database.

    Args:
        database: A connection to an SQLite file.
        asked: The experiment.

    Returns:
        The experiment, or None in its place where there is none of this name. None where MLflow has to be asked.
    """
    column, value = ("name", asked.name) if asked.id is None else ("experiment_id", asked.id)
    columns = "experiment_id, name, artifact_location, lifecycle_stage"
    try:
        if any("WORKSPACE" in name for name in os.environ) or not _is_ordinary(database):
            return None
        row = database.execute(f"SELECT {columns} FROM experiments WHERE {column} = ?", (value,)).fetchone()
    except sqlite3.Error:
        return None
    if row is None or None in row:
        return (None,) if row is None and asked.id is None and asked.name != DEFAULT else None
    return (StoredExperiment(*map(str, row)),)


def _is_ordinary(database: sqlite3.Connection) -> bool:
    """Return whether a database has MLflow's newest schema, all its tables, and nothing in a workspace of its own."""
    schema = read_schema()
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables.issuperset({*schema.tables, "alembic_version"}):
        return False
    if database.execute("SELECT version_num FROM alembic_version").fetchall() != [(schema.head,)]:
        return False
    scoped = [
        table
        for table in schema.tables
        if any(row[1] == "workspace" for row in database.execute(f'PRAGMA table_info("{table}")'))
    ]
    other = "workspace IS NOT NULL AND workspace != 'default'"
    return not any(
        database.execute(f'SELECT 1 FROM "{name}" WHERE {other} LIMIT 1').fetchone() for name in scoped
    )
