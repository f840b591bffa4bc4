"""A store's folder: opening it once a process, looking at it first, setting damage aside, telling who uses it.

Decision record: one lock of the root (``flock``) is held while a folder is opened, moved or removed, so that these
never meet; each process that has a store open holds a shared lock on its ``in-use`` file, and whoever removes it
needs that lock alone. The pages of a file are looked at when it is opened, unless it is exactly the file that was
looked at or closed last (inode, size, time of the last write, boot of the machine): LMDB ends the process that
reads a damaged page. A file that is replaced or deleted under a process is noticed by its inode.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from raykd.errors import TeacherError
from raykd.teachers.store.pages import Damaged, check_pages, read_metas
from raykd.teachers.store.values import KEY_BYTES, value_bytes

log = logging.getLogger("raykd.teachers")
DATA, LOCK, IN_USE, NOTE, SOUND, TIME = (
    "data.mdb",
    "lock.mdb",
    "in-use",
    "teacher.json",
    "sound",
    "timing.json",
)
ROOT_LOCK = ".lock"
DAMAGED = "damaged-"
MAP_BYTES = 64 << 30
"""Addresses reserved for a store at least; the file grows as it fills."""
_OPEN: dict[str, Opened] = {}
"""Environments of this process: LMDB must not open a file twice in one process."""
_OPENING = threading.RLock()
_HELD: dict[str, int] = {}
"""How deep this process is in `root_lock`s; a file lock does not know that its own process holds it."""
_TRIES = 20
_PAUSES_S = (0.02, 0.2)


@dataclass
class Opened:
    """An LMDB environment and the file behind it. floor: the largest size of the file that was seen."""

    env: Any
    inode: int
    floor: int
    in_use: TextIO

    def alive(self, data: Path) -> bool:
        """Whether the path still leads to the file that is open, and nothing of it was cut off."""
        try:
            stat = os.stat(data)
        except OSError:
            return False
        if stat.st_ino != self.inode or stat.st_size < self.floor:
            return False
        self.floor = stat.st_size
        return True


@contextlib.contextmanager
def root_lock(root: Path) -> Iterator[None]:
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


def open_folder(path: Path, classes: int | None, map_bytes: int, *, create: bool) -> Opened | None:
    """The environment of a store's folder, the same for all who ask in this process.

    Args:
        classes: labels of the store; None where its values are of any size.
        create: make what is not there and set aside what is damaged; else both give None.
    Raises:
        TeacherError: the folder cannot be made or written.
    """
    import lmdb

    known = _OPEN.get(str(path))
    if known is not None and known.alive(path / DATA):
        return known
    if not create and not (path / DATA).exists():
        return None
    try:
        with root_lock(path.parent):
            known = _OPEN.get(str(path))
            if known is None or not known.alive(path / DATA):
                known = _open(path, classes, map_bytes, create)
            if known is not None:
                _OPEN[str(path)] = known
            return known
    except (OSError, Damaged, lmdb.Error) as error:
        if not create:
            return None
        raise TeacherError(
            f"cannot open the signal store {path}",
            got=str(error),
            wanted="a writable folder on a local disk",
            next_step="set serving.store to another folder, or to null to keep no answers",
        ) from None


def _open(path: Path, classes: int | None, map_bytes: int, create: bool) -> Opened | None:
    path.mkdir(parents=True, exist_ok=True)
    check_no_links(path)
    in_use = _own_file(path / IN_USE)
    fcntl.flock(in_use, fcntl.LOCK_SH)
    opened, damage = None, None
    for pause in (*_PAUSES_S, None):
        try:
            opened = _look_and_open(path, classes, map_bytes, in_use)
            break
        except Damaged as error:
            damage = error
        # What another process writes in this very moment can look like damage, once.
        if pause is not None:
            time.sleep(pause)
    if opened is None:
        if not create:
            in_use.close()
            return None
        set_aside(path, damage)
        opened = _look_and_open(path, classes, map_bytes, in_use)
    if create:
        os.utime(path / IN_USE)
    return opened


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


def _look_and_open(path: Path, classes: int | None, map_bytes: int, in_use: TextIO) -> Opened:
    """Raises: Damaged."""
    import lmdb

    data = path / DATA
    filled = data.exists() and data.stat().st_size > 0
    if filled:
        read_metas(data)
    sound = not filled or _mark(data) == _read(path / SOUND)
    try:
        # A body is read whole, so the disk may read on; of small values in no order that would be waste.
        ahead = classes is None
        env = lmdb.open(
            str(path), map_size=map_bytes, max_readers=1024, sync=False, metasync=False, readahead=ahead
        )
    except lmdb.Error as error:
        raise Damaged(f"LMDB refuses it: {error}") from None
    try:
        env.reader_check()
        if not sound:
            _look(env, data, classes)
    except (Damaged, lmdb.Error) as error:
        env.close()
        raise Damaged(str(error)) from None
    stat = data.stat()
    if not sound:
        (path / SOUND).write_text(_mark(data), encoding="utf-8")
    return Opened(env, stat.st_ino, stat.st_size, in_use)


def _look(env: Any, data: Path, classes: int | None) -> None:
    """Checks the pages of a snapshot, which stays as it is while its transaction is open."""
    for _ in range(_TRIES):
        with env.begin() as read:
            meta = next((m for m in read_metas(data) if m.txnid == read.id()), None)
            if meta is not None:  # else two others wrote since the transaction began
                check_pages(data, meta, KEY_BYTES, value_bytes(classes))
                return
    raise Damaged("no meta page belongs to the current transaction")


def set_aside(path: Path, damage: object) -> None:
    """Moves a damaged file away, so that a fresh one is begun; the caller holds the root's lock."""
    number = 1
    while (path / f"{DAMAGED}{number}").exists():
        number += 1
    aside = path / f"{DAMAGED}{number}"
    aside.mkdir()
    for name in (DATA, LOCK):
        with contextlib.suppress(FileNotFoundError):
            os.replace(path / name, aside / name)
    _OPEN.pop(str(path), None)
    log.warning(
        "the signal store %s is damaged (%s): it was moved to %s and a fresh one begun; what it held is "
        "computed again",
        path, damage, aside,
    )  # fmt: skip


def settle(path: Path, opened: Opened) -> None:
    """Flushes to disk and notes that the file is as LMDB left it."""
    with contextlib.suppress(Exception):
        opened.env.sync(True)
        if opened.alive(path / DATA):
            (path / SOUND).write_text(_mark(path / DATA), encoding="utf-8")
            os.utime(path / IN_USE)


def forget(path: Path) -> None:
    """Drops a folder that is removed or replaced; what still uses it in this process keeps its hold till it ends."""
    _OPEN.pop(str(path), None)


def unused(path: Path) -> bool:
    """Whether no process, this one included, has the store open; the caller holds the root's lock."""
    try:
        with _own_file(path / IN_USE) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_note(path: Path, teacher: str, classes: int | None, fingerprint: str) -> None:
    """What a person may want to know of the folder; names add up."""
    note = read_note(path)
    names = list(dict.fromkeys([*note.get("teachers", []), *([teacher] if teacher else [])]))
    wanted = {"teachers": names, "classes": classes, "fingerprint": fingerprint}
    if note != wanted:
        temporary = path / f"{NOTE}.{os.getpid()}"
        temporary.write_text(json.dumps(wanted), encoding="utf-8")
        os.replace(temporary, path / NOTE)


def read_note(path: Path) -> dict[str, Any]:
    """What `write_note` wrote; empty where there is nothing to read."""
    try:
        note = json.loads((path / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def write_time(path: Path, timing: str) -> None:
    """Keeps how long a text took the teacher; the folder is of one content, device and precision."""
    temporary = path / f"{TIME}.{os.getpid()}"
    temporary.write_text(timing, encoding="utf-8")
    os.replace(temporary, path / TIME)


def read_time(path: Path) -> str:
    """What `write_time` kept; empty where that is nothing."""
    return _read(path / TIME)


def classes_of(note: dict[str, Any]) -> int | None:
    """The number of labels in a note; None where values are of any size, or nothing sensible is said."""
    classes = note.get("classes")
    return classes if isinstance(classes, int) and classes > 0 else None


def _mark(data: Path) -> str:
    stat = data.stat()
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {_read(Path('/proc/sys/kernel/random/boot_id'))}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
