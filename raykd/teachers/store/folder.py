"""Open a store's folder, move a damaged store aside, and find out whether a folder is in use.

Decision record: one lock of the root (``flock``) is held while a folder is opened, moved or removed, so that these
never happen at once. Each process that has a store open holds a shared lock on its ``in-use`` file; to remove the
folder a process needs that lock alone. On a read-only file system nothing can be moved or removed, and there are no
locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from raykd.errors import TeacherError
from raykd.parse import JsonObject
from raykd.teachers.store.base import Store, StoreBusyError, StoreDamagedError, StoreUnwritableError
from raykd.teachers.store.sqlite import DATA, FILES, SqliteStore

log = logging.getLogger("raykd.teachers")
IN_USE, NOTE, TIME = "in-use", "teacher.json", "timing.json"
OLD_DATA = "data.mdb"
"""The file of stores of raykd before 0.2: its folders have other names, so its answers are never looked up."""
ROOT_LOCK = ".lock"
DAMAGED = "damaged-"
_OPENING = threading.RLock()
_HELD: dict[str, int] = {}
"""Nested `lock_root`s of this process by root: a file lock taken twice by one process would wait for itself."""


@dataclass
class OpenFolder:
    """A folder that is open in this process: its store, and the file whose lock says so."""

    store: Store
    in_use: TextIO | None

    def close(self) -> None:
        """Close the store and release the folder."""
        self.store.close()
        if self.in_use is not None:
            self.in_use.close()


@contextlib.contextmanager
def lock_root(root: Path) -> Iterator[None]:
    """Keep other processes and threads from opening, moving or removing a folder of this root meanwhile."""
    root.mkdir(parents=True, exist_ok=True)
    with _OPENING, _open_lock_file(root / ROOT_LOCK) as file:
        depth = _HELD.get(str(root), 0)
        if depth == 0:
            fcntl.flock(file, fcntl.LOCK_EX)
        _HELD[str(root)] = depth + 1
        try:
            yield
        finally:
            _HELD[str(root)] = depth


def is_read_only(path: Path) -> bool:
    """Return whether a path, or the nearest folder above it that exists, is on a read-only file system."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def open_folder(path: Path, access: Literal["create", "write", "read"]) -> OpenFolder | None:
    """Open a store's folder.

    Args:
        path: The folder.
        access: create makes what is missing and moves damage aside; the others return None for both.

    Raises:
        TeacherError: The folder cannot be made or written.
    """
    try:
        if access != "create" and not (path / DATA).exists():
            return None
        if access == "read" and is_read_only(path):
            return OpenFolder(SqliteStore(path, "immutable"), None)
        with lock_root(path.parent):
            return _open(path, access)
    except (OSError, StoreDamagedError, StoreBusyError, StoreUnwritableError) as error:
        if access != "create":
            return None
        raise TeacherError(
            f"cannot open the signal store {path}",
            got=str(error),
            wanted="a writable folder on a local disk",
            next_step="set serving.store to another folder, or to null to keep no answers",
        ) from None


def _open(path: Path, access: Literal["create", "write", "read"]) -> OpenFolder:
    path.mkdir(parents=True, exist_ok=True)
    refuse_links(path)
    in_use = _open_lock_file(path / IN_USE)
    fcntl.flock(in_use, fcntl.LOCK_SH)
    try:
        try:
            store = SqliteStore(path, access)
        except StoreDamagedError as error:
            if access != "create":
                raise
            move_damaged_store(path, error)
            store = SqliteStore(path, access)
    except BaseException:
        in_use.close()
        raise
    if access == "create":
        os.utime(path / IN_USE)
    return OpenFolder(store, in_use)


def refuse_links(path: Path) -> None:
    """Refuse a store that is a link or holds one, through which raykd would write elsewhere; its root may be one.

    Raises:
        OSError: Names the link.
    """
    for one in (path, *path.iterdir()):
        if one.is_symlink():
            raise OSError(f"{one.name} is a link, and a store follows none")


def _open_lock_file(path: Path) -> TextIO:
    """Open a file for locks, made if need be, never through a link."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")


def move_damaged_store(path: Path, damage: object) -> None:
    """Move a damaged store aside, so that a fresh one is begun; the caller holds the root's lock."""
    names = (path / f"{DAMAGED}{number}" for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    aside.mkdir()
    for name in FILES:
        with contextlib.suppress(FileNotFoundError):
            os.replace(path / name, aside / name)
    log.warning(
        "the signal store %s is damaged (%s): it was moved to %s and a fresh one begun; what it held is "
        "computed again",
        path, damage, aside,
    )  # fmt: skip


def is_unused(path: Path) -> bool:
    """Return whether no process, this one included, has the store open; the caller holds the root's lock."""
    try:
        with _open_lock_file(path / IN_USE) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_note(path: Path, teacher: str, fingerprint: str) -> None:
    """Write a note for people: the fingerprint, and all names under which the folder was used."""
    note = read_note(path)
    names = list(dict.fromkeys([*note.get("teachers", []), *([teacher] if teacher else [])]))
    wanted = {"teachers": names, "fingerprint": fingerprint}
    if note != wanted:
        _replace(path / NOTE, json.dumps(wanted))


def read_note(path: Path) -> JsonObject:
    """Return what `write_note` wrote; empty where there is nothing to read."""
    try:
        note = json.loads(_read(path / NOTE))
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def write_time(path: Path, timing: str) -> None:
    """Keep how long a text took the teacher; a folder has one content, device and precision."""
    _replace(path / TIME, timing)


def read_time(path: Path) -> str:
    """Return what `write_time` kept; empty where that is nothing."""
    return _read(path / TIME)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
