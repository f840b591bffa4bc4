"""`SqliteStore`: one teacher's answers in one SQLite database (standard library, write-ahead log).

Decision record: `benchmarks/store_engines.py` measured it beside LMDB; the figures are in docs/figures.md. LMDB reads a
batch somewhat faster, but trusts its pages: a flipped bit ends the process that reads it. SQLite reports damage as an
error, gives freed pages back, and is in the standard library. There is one database per teacher, so that damage,
eviction and removal concern one teacher.

- Reads never wait for a writer, and writers of several processes take turns. A killed process loses the transaction
  that it had begun. Commits are not flushed one by one: a power cut loses the last ones, and leaves a whole file.
- The write-ahead log needs memory that processes share, which a network file system does not have: refused by name.
- On a read-only mount the file is opened as immutable: what is there is served.
- This process must never open the file by other means: closing it would drop SQLite's locks.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from raykd.teachers.store.base import (
    StoreBusyError,
    StoreCheck,
    StoreDamagedError,
    StoreUnwritableError,
)
from raykd.teachers.store.values import HEADER, decode_value, encode_value, is_whole, read_key_number

DATA = "answers.sqlite"
FILES = (DATA, f"{DATA}-wal", f"{DATA}-shm")
Access = Literal["create", "write", "read", "immutable"]
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "beegfs", "gpfs", "afs", "glusterfs"}
    | {"fuse.glusterfs", "fuse.sshfs", "fuse.s3fs"}
)
_VERSION = 1
"""Of the table and its values, kept as the database's user_version."""
_WAIT_S, _PAUSE_S = 10.0, 0.001
"""Longest wait for other writers, and the pause between attempts: SQLite itself would sleep up to 0.1 s at a time."""
_KEYS_AT_ONCE = 512
_LOG_PAGES = 4000
"""Pages of the log at which it is written into the database, which waits for the disk."""
_SLICES = 1024
"""Parts of the range of keys; eviction deletes whole parts, one per transaction."""
_PAGE, _LOCAL_MOST, _LOCAL_LEAST, _CELL = 4096, 4061, 489, 14
"""Bytes of a page; the most and the least of a row that it keeps itself; what a row takes beside its value."""
_DAMAGE = frozenset(
    {"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_TOOBIG", "SQLITE_MISMATCH"}
    | {"SQLITE_CONSTRAINT", "SQLITE_SCHEMA", "SQLITE_FORMAT", "SQLITE_INTERNAL"}
)
_BUSY = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"})


class SqliteStore:
    """A `raykd.teachers.store.base.Store` in the file `DATA` of a folder.

    Args:
        folder: Where the file is.
        access: create makes the file if need be; write and read need it there; immutable is for a read-only mount.

    Raises:
        StoreDamagedError: The file is no store of this version.
        StoreUnwritableError: It cannot be opened, or lies on a network file system.
    """

    def __init__(self, folder: Path, access: Access) -> None:
        self._path = folder / DATA
        self._lock = threading.Lock()
        mode = {
            "create": "mode=rwc",
            "write": "mode=rw",
            "read": "mode=ro",
            "immutable": "mode=ro&immutable=1",
        }
        if access == "create":
            refuse_network_file_system(folder)
        with _translated(self._path):
            self._database = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?{mode[access]}",
                uri=True,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
            )
        self._database.text_factory = bytes  # text of a damaged page may be no text
        try:
            with _translated(self._path):
                self._prepare(access)
                stat = os.stat(self._path)
        except BaseException:
            self.close()
            raise
        self._inode, self._size = stat.st_ino, stat.st_size

    def _prepare(self, access: Access) -> None:
        run = self._execute_waiting
        run("PRAGMA trusted_schema = OFF")
        run("PRAGMA cell_size_check = ON")
        version = run("PRAGMA user_version").fetchone()[0]
        if version == 0 and access == "create":
            run("PRAGMA auto_vacuum = INCREMENTAL")
        if access in ("create", "write"):
            journal = run("PRAGMA journal_mode = WAL").fetchone()[0]
            if journal != b"wal":
                raise StoreUnwritableError(
                    f"the file system of {self._path.parent} allows no write-ahead log"
                )
            run("PRAGMA synchronous = NORMAL")
            run(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            run(f"PRAGMA journal_size_limit = {_LOG_PAGES * _PAGE}")
        if version == 0 and access == "create":
            run("BEGIN IMMEDIATE")
            run("CREATE TABLE IF NOT EXISTS answers (key INTEGER PRIMARY KEY, value BLOB NOT NULL)")
            run(f"PRAGMA user_version = {_VERSION}")
            run("COMMIT")
        elif version != _VERSION:
            raise StoreDamagedError(f"it is a store of version {version}, this raykd reads {_VERSION}")

    def _execute_waiting(self, statement: str) -> sqlite3.Cursor:
        """Execute a statement, waiting for others that hold a lock."""
        until = time.monotonic() + _WAIT_S
        while True:
            try:
                return self._database.execute(statement)
            except sqlite3.OperationalError as error:
                if _kind(error) not in _BUSY or time.monotonic() > until:
                    raise
                time.sleep(_PAUSE_S)

    def is_current(self) -> bool:
        """Return whether the folder still holds the file that is open, with nothing cut off."""
        try:
            stat = os.stat(self._path)
        except OSError:
            return False
        if stat.st_ino != self._inode or stat.st_size < self._size:
            return False
        self._size = stat.st_size
        return True

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the body of each key; None where there is none or its checksum does not fit."""
        numbers = [read_key_number(key) for key in keys]
        found: dict[int, object] = dict(self._select("key, value", numbers))
        return [decode_value(key, found.get(number)) for key, number in zip(keys, numbers, strict=True)]

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        """Return whether there is a body for each key, which may turn out to be damaged; reads no body."""
        numbers = [read_key_number(key) for key in keys]
        there = {number for (number,) in self._select("key", numbers)}
        return [number in there for number in numbers]

    def _select(self, columns: str, numbers: Sequence[int]) -> list[tuple[Any, ...]]:
        """Return these columns of the rows that are there."""
        rows: list[tuple[Any, ...]] = []
        with self._lock, _translated(self._path):
            for begin in range(0, len(numbers), _KEYS_AT_ONCE):
                part = numbers[begin : begin + _KEYS_AT_ONCE]
                places = ",".join("?" * len(part))
                rows += self._database.execute(f"SELECT {columns} FROM answers WHERE key IN ({places})", part)
        return rows

    def put(self, bodies: Mapping[bytes, bytes]) -> None:
        """Keep these bodies by key, all of them or, where it fails, none."""
        rows = [(read_key_number(key), encode_value(key, body)) for key, body in bodies.items()]
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _translated(self._path):
            self._execute_waiting("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise

    def count(self) -> int:
        """Return the number of answers."""
        return self._number("SELECT count(*) FROM answers")

    def _number(self, query: str) -> int:
        with self._lock, _translated(self._path):
            return int(self._execute_waiting(query).fetchone()[0])

    def used_bytes(self) -> int:
        """Return the bytes of pages that hold something; the rest is used again before the file grows."""
        pages = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
        return pages * self._number("PRAGMA page_size")

    def evict(self, share: float) -> int:
        """Delete this share of the answers: a range of keys, which are hashes, from a random one on."""
        first, gone, width = secrets.randbelow(_SLICES), 0, 2**64 // _SLICES
        for at in range(math.ceil(share * _SLICES)):
            low = -(2**63) + (first + at) % _SLICES * width
            with self._transaction() as database:
                part = (low, low + width - 1)
                gone += database.execute("DELETE FROM answers WHERE key BETWEEN ? AND ?", part).rowcount
        return gone

    def shrink(self) -> None:
        """Give freed bytes back to the disk."""
        with self._lock, _translated(self._path):
            # A script runs to its end; execute() would stop after the first page.
            self._database.executescript("PRAGMA incremental_vacuum")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def check(self) -> StoreCheck:
        """Read everything and say what is damaged."""
        entries = damaged = 0
        problem: str | None = None
        try:
            with self._lock, _translated(self._path):
                said = self._database.execute("PRAGMA integrity_check(1)").fetchone()[0]
                problem = None if said == b"ok" else said.decode("utf-8", "replace")
                for number, value in self._database.execute("SELECT key, value FROM answers"):
                    entries += 1
                    damaged += not is_whole(number, value)
        except (StoreDamagedError, StoreBusyError, StoreUnwritableError) as error:
            problem = str(error)
        return StoreCheck(entries, damaged, problem)

    def close(self) -> None:
        """Flush and close; never raises."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._database.close()  # the last one to close writes the log into the database


def _kind(error: sqlite3.Error) -> str:
    """Return the name of an error's primary code, such as SQLITE_IOERR for the extended SQLITE_IOERR_WRITE."""
    return "_".join(getattr(error, "sqlite_errorname", "SQLITE_ERROR").split("_")[:2])


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into those of a store."""
    try:
        yield
    except sqlite3.Error as error:
        kind = _kind(error)
        if isinstance(error, sqlite3.ProgrammingError):  # closed by another thread
            raise StoreUnwritableError(str(error)) from None
        if kind in _BUSY:
            raise StoreBusyError(str(error)) from None
        # A header that says that the file must not be written, though it may be.
        if kind in _DAMAGE or (kind == "SQLITE_READONLY" and os.access(path, os.W_OK)):
            raise StoreDamagedError(f"SQLite says: {error}") from None
        raise StoreUnwritableError(f"SQLite says: {error}") from None
    except (MemoryError, OverflowError, UnicodeError) as error:  # a size or a text of a damaged page
        raise StoreDamagedError(type(error).__name__) from None


def refuse_network_file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Raise StoreUnwritableError where a folder lies on a network file system.

    Args:
        folder: Any folder that exists.
        mounts: The list of mounts; where it cannot be read nothing is refused.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    place, kind = Path("/"), ""
    resolved = folder.resolve()
    for line in lines:
        before, _, after = line.partition(" - ")
        # A blank in a path is written as \\040.
        mount = Path(before.split(" ")[4].replace("\\040", " "))
        if resolved.is_relative_to(mount) and len(mount.parts) >= len(place.parts):
            place, kind = mount, after.split(" ")[0]
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreUnwritableError(
            f"{folder} is on a network file system ({kind} at {place}), where several processes cannot share a store"
        )


def estimate_stored_bytes(body_bytes: int) -> int:
    """Estimate the bytes that an answer takes on disk.

    That is a share of a page, as pages are two thirds full, and pages of its own where it is larger than one.
    """
    value = HEADER.size + body_bytes
    if value + _CELL <= _LOCAL_MOST:
        return 3 * (value + _CELL) // 2
    # SQLite keeps what is left over by whole pages beside the key if that fits, else as little as it may.
    local = _LOCAL_LEAST + (value - _LOCAL_LEAST) % (_PAGE - 4)
    local = local if local <= _LOCAL_MOST else _LOCAL_LEAST
    return 3 * (local + _CELL) // 2 + _PAGE * -(-(value - local) // (_PAGE - 4))
