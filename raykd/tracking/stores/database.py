"""Make the SQLite file that MLflow records in, whole or not at all, and check it before MLflow opens it.

Decision record: MLflow makes a database in about 6 s, by some sixty migrations of the file that everybody sees. Two
that begin at once break each other, and one that is killed leaves a torn file. So MLflow makes one in a temporary
folder, once for each installed version; its tables are kept as SQL (`raykd.cache`), which makes the next one in
milliseconds. The file is written beside, under another name, and gets its own name in one step of the file system;
whoever comes second finds it there and uses it. This needs no lock, which network file systems may not have. SQLite is
asked what is wrong with a file that is there already (locked, torn, of another version of MLflow), since MLflow tries
a hundred seconds and then says what it did last.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from raykd.cache import load_or_compute
from raykd.compat.mlflow_private import close_connections
from raykd.errors import TrackingError
from raykd.tracking.address import build_sqlite_uri, find_database_path, format_mlflow_command
from raykd.tracking.stores.reading import MLFLOW_LIBRARIES, read_schema, stamp_migrations
from raykd.tracking.timeouts import disable_telemetry, silence_loggers

LOCKED_S = 10.0
"""Seconds that another process may hold the database before it is called locked."""
MAKING_S = 60.0
"""Seconds for which a file without all tables counts as being made by somebody else."""
CHECKED_BYTES = 64 << 20
"""Size up to which all pages of a database are checked, which takes a tenth of a second."""
_ELSEWHERE = "record elsewhere: tracking.uri=sqlite:///FOLDER/mlflow.db"


def make_away_error(what: str, **more: str) -> TrackingError:
    """Return an error that says that MLflow does not answer now; a run that need not be recorded goes on without it."""
    error = TrackingError(what, **more)
    error.is_away = True
    return error


def is_new(path: Path) -> bool:
    """Return whether there is nothing at this path that must be kept."""
    try:
        return path.stat().st_size == 0
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


def find_closed_folder(folder: Path) -> Path | None:
    """Return what keeps this user from writing in a folder, or from making it; None where nothing does."""
    near = folder
    while not near.exists() and near != near.parent:
        near = near.parent
    return None if near.is_dir() and os.access(near, os.W_OK | os.X_OK) else near


def check_folder(path: Path) -> None:
    """Check that a database can be made at this path; makes nothing.

    Raises:
        TrackingError: The folder cannot be written.
    """
    closed = find_closed_folder(path.parent)
    if path.is_dir() or closed is not None:
        got = f"{path} is a folder" if path.is_dir() else f"{closed} is no folder that this user may write"
        raise TrackingError(
            f"the MLflow database {path} cannot be made",
            got=got,
            wanted="a file in a writable folder",
            next_step="name another output, or another place: tracking.uri=sqlite:///FOLDER/mlflow.db",
        )


def check_database(path: Path, uri: str) -> None:
    """Check that an existing database can be read and written and is of this MLflow.

    Raises:
        TrackingError: It cannot; the error says what to do.
    """
    schema, found = read_schema(), _read_revision(path)
    until = time.monotonic() + MAKING_S
    while found != schema.head and _is_young(path) and time.monotonic() < until:
        time.sleep(0.5)
        found = _read_revision(path)
    if found == schema.head:
        return
    if found is None and not _has_mlflow_tables(path):
        return  # a database of somebody else, or an empty one: MLflow adds its tables
    upgrade = format_mlflow_command(uri, f"db upgrade {shlex.quote(uri)}")
    if found is not None and found not in schema.revisions:
        raise TrackingError(
            f"the MLflow database {path} was written by a newer MLflow",
            got=f"schema {found}, which MLflow {_version()} does not know",
            wanted=f"schema {schema.head}",
            next_step=f"pip install -U mlflow; or {_ELSEWHERE}",
        )
    raise TrackingError(
        f"the MLflow database {path} was written by an older MLflow, or cut off while it was made",
        got=f"schema {found or 'unfinished'}",
        wanted=f"schema {schema.head} (MLflow {_version()})",
        next_step=f"keep a copy of the file, then: {upgrade}; or {_ELSEWHERE}",
    )


def _read_revision(path: Path) -> str | None:
    """Read the revision of the schema, None where there is none; try as well whether the file can be written.

    Raises:
        TrackingError: It cannot be used.
    """
    aside = f"mv {shlex.quote(str(path))} {shlex.quote(str(path) + '.broken')}"
    try:
        with contextlib.closing(connect_database(path)) as database:
            if path.stat().st_size <= CHECKED_BYTES:
                (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
                if said != "ok":
                    raise sqlite3.DatabaseError(said)
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
            if not _has_table(database, "alembic_version"):
                return None
            row = database.execute("SELECT version_num FROM alembic_version").fetchone()
            return None if row is None else str(row[0])
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise make_away_error(
                f"the MLflow database {path} is locked",
                got=f"another process has held it for {LOCKED_S:.0f} s ({error})",
                wanted="a database that others hold for moments",
                next_step=f"end what holds it (fuser {shlex.quote(str(path))} tells), or {_ELSEWHERE}",
            ) from None
        raise TrackingError(
            f"the MLflow database {path} cannot be written",
            got=str(error),
            wanted="a file, and a folder around it, that this user may write",
            next_step=f"chmod them, or {_ELSEWHERE}",
        ) from None
    except sqlite3.DatabaseError as error:
        raise TrackingError(
            f"the MLflow database {path} is damaged, or no database",
            got=str(error),
            wanted="an SQLite database",
            next_step=f"put it aside ({aside}) and a new one is made, or {_ELSEWHERE}",
        ) from None
    except OSError as error:
        raise TrackingError(f"the MLflow database {path} cannot be read", got=str(error)) from None


def connect_database(path: Path) -> sqlite3.Connection:
    """Connect without making a file; transactions are begun by hand."""
    uri = f"file:{quote(path.as_posix())}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=LOCKED_S, isolation_level=None)


def _has_mlflow_tables(path: Path) -> bool:
    """Return whether tables of MLflow are there."""
    with contextlib.closing(connect_database(path)) as database:
        return _has_table(database, "experiments")


def _has_table(database: sqlite3.Connection, name: str) -> bool:
    return database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def _is_young(path: Path) -> bool:
    """Return whether the file was written moments ago: somebody may be making it."""
    files = (path, path.with_name(path.name + "-journal"))
    return any(time.time() - file.stat().st_mtime < MAKING_S / 4 for file in files if file.exists())


def _version() -> str:
    import mlflow

    return str(mlflow.__version__)


def make_database(path: Path) -> None:
    """Make the database whole, or leave the one that somebody else made meanwhile.

    Raises:
        TrackingError: The folder cannot be written.
        sqlite3.Error, MlflowException: As they raise it.
    """
    check_folder(path)
    script = load_or_compute("mlflow_databases", stamp_migrations, str, _dump_new_database, *MLFLOW_LIBRARIES)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f".mlflow-{uuid.uuid4().hex[:12]}.db")
    try:
        with contextlib.closing(sqlite3.connect(whole)) as database:
            database.set_authorizer(_refuse_other_files)
            database.executescript(script)
        _put_in_place(whole, path)
    finally:
        whole.unlink(missing_ok=True)


def _dump_new_database() -> str:
    """Let MLflow make a database, and return it as SQL.

    MLflow's own experiment is left out: it names a folder of this process, and MLflow makes it where it is not there.
    """
    disable_telemetry()
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix="raykd-mlflow-") as folder:
        made = Path(folder) / "new.db"
        uri = build_sqlite_uri(made)
        with remove_misspelled_folders(uri), silence_loggers("alembic", "mlflow.store.db.utils"):
            MlflowClient(tracking_uri=uri, registry_uri=uri)
        close_connections(uri)
        with contextlib.closing(connect_database(made)) as database:
            database.execute("DELETE FROM experiments")
            return "\n".join(database.iterdump())


def _refuse_other_files(action: int, *_: object) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


def _put_in_place(whole: Path, path: Path) -> None:
    """Give a finished database its own name, unless somebody else was faster."""
    if path.exists() and path.stat().st_size == 0:  # what a process left that was killed at the first moment
        path.unlink(missing_ok=True)
    try:
        os.link(whole, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            os.replace(whole, path)


def identify_file(path: Path) -> tuple[int, int] | None:
    """Return which file lies at a path, as device and inode; None for none."""
    try:
        return path.stat().st_dev, path.stat().st_ino
    except OSError:
        return None


_opened_before: dict[str, tuple[int, int] | None] = {}


def drop_stale_connections(uri: str, path: Path) -> None:
    """Close connections to a file that was removed: MLflow keeps them for each URI as long as the process lives."""
    now = identify_file(path)
    if _opened_before.setdefault(uri, now) != now:
        _opened_before[uri] = now
        close_connections(uri)


@contextlib.contextmanager
def remove_misspelled_folders(uri: str) -> Iterator[None]:
    """Remove the empty folders that MLflow makes because it takes a path as it is spelled: ``a%3Fb`` beside ``a?b``."""
    path = find_database_path(uri)
    spelled = Path(uri.split(":///", 1)[1].partition("?")[0]).parent if path is not None else None
    if path is None or spelled is None or spelled == path.parent:
        yield
        return
    absent = [folder for folder in (spelled, *spelled.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in absent:
            with contextlib.suppress(OSError):  # not there, or not empty
                folder.rmdir()
