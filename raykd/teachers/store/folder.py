"""A store's folder: opening it, setting damage aside, telling who uses it.

Decision record: one lock of the root (``flock``) is held while a folder is opened, moved or removed, so that these
never meet; each process that has a store open holds a shared lock on its ``in-use`` file, and whoever removes it needs
that lock alone. On a read-only file system nobody can move or remove anything, and there are no locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from raykd.errors import TeacherError
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
"""How deep this process is in `lock_root`s; a file lock does not know that its own process holds it."""


@dataclass
class OpenFolder:
    """A folder that is open in this process: its store, and the file whose lock says so."""

    store: Store
    in_use: TextIO | None

    def close(self) -> None:
        """Close the store and let the folder go."""
        self.store.close()
        if self.in_use is not None:
            self.in_use.close()


@contextlib.contextmanager
def lock_root(root: Path) -> Iterator[None]:
    """Nobody else opens, moves or removes a folder of this root meanwhile."""
    root.mkdir(parents=True, exist_ok=True)
    with _OPENING, _own_file(root / ROOT_LOCK) as file:
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
        access: create makes what is not there and sets aside what is damaged; for the others both give None.

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
    check_no_links(path)
    in_use = _own_file(path / IN_USE)
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


def check_no_links(path: Path) -> None:
    """A link in a store would make raykd write where somebody else pointed; the root itself may be one.

    Raises:
        OSError: the folder or something in it is a link.
    """
    for one in (path, *path.iterdir()):
        if one.is_symlink():
            raise OSError(f"{one.name} is a link, and a store follows none")


def _own_file(path: Path) -> TextIO:
    """A file for locks, made if need be, never through a link."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")


def move_damaged_store(path: Path, damage: object) -> None:
    """Move a damaged store away, so that a fresh one is begun; the caller holds the root's lock."""
    number = 1
    while (path / f"{DAMAGED}{number}").exists():
        number += 1
    aside = path / f"{DAMAGED}{number}"
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
        with _own_file(path / IN_USE) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_note(path: Path, teacher: str, fingerprint: str) -> None:
    """Write down what a person may want to know of the folder; names add up."""
    note = read_note(path)
    names = list(dict.fromkeys([*note.get("teachers", []), *([teacher] if teacher else [])]))
    wanted = {"teachers": names, "fingerprint": fingerprint}
    if note != wanted:
        _replace(path / NOTE, json.dumps(wanted))


def read_note(path: Path) -> dict[str, Any]:
    """Return what `write_note` wrote; empty where there is nothing to read."""
    try:
        note = json.loads(_read(path / NOTE))
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def write_time(path: Path, timing: str) -> None:
    """Keep how long a text took the teacher; the folder is of one content, device and precision."""
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
