"""The stores under a root, for people: list, verify and remove them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from raykd.errors import TeacherError
from raykd.teachers.store.base import StoreBusyError, StoreCheck, StoreDamagedError, StoreUnwritableError
from raykd.teachers.store.bound import list_store_folders, read_last_use, sum_file_sizes
from raykd.teachers.store.folder import (
    DAMAGED,
    OLD_DATA,
    is_unused,
    lock_root,
    open_folder,
    read_note,
)
from raykd.teachers.store.sqlite import DATA

OLDER = "written by an older raykd, which kept answers otherwise; they are not read"


@dataclass(frozen=True)
class StoreStats:
    """One teacher's store.

    Attributes:
        fingerprint: The folder's name.
        path: The folder.
        teachers: Names under which it was used.
        entries: Answers in it; None where the file cannot be read.
        bytes: Everything in the folder.
        last_used: Seconds since 1970.
        set_aside: Damaged files that were moved away.
        older: Whether an older raykd wrote it in a format that is not read any more.
    """

    fingerprint: str
    path: Path
    teachers: tuple[str, ...]
    entries: int | None
    bytes: int
    last_used: float
    set_aside: int
    older: bool

    @property
    def bytes_a_row(self) -> float | None:
        """Bytes on disk for one stored answer."""
        return self.bytes / self.entries if self.entries else None


@dataclass(frozen=True)
class StoreHealth:
    """Whether one store is whole."""

    fingerprint: str
    teachers: tuple[str, ...]
    found: StoreCheck

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged."""
        return self.found.problem is None and self.found.damaged == 0


def list_stores(root: Path) -> list[StoreStats]:
    """List the stores under a root, the one used last first."""
    found = [
        StoreStats(
            fingerprint=path.name,
            path=path,
            teachers=tuple(str(name) for name in read_note(path).get("teachers", ())),
            entries=_count(path),
            bytes=sum_file_sizes(path),
            last_used=read_last_use(path),
            set_aside=len(list(path.glob(f"{DAMAGED}*"))),
            older=(path / OLD_DATA).exists() and not (path / DATA).exists(),
        )
        for path in list_store_folders(root)
    ]
    return sorted(found, key=lambda s: -s.last_used)


def _count(path: Path) -> int | None:
    opened = open_folder(path, "read")
    if opened is None:
        return None
    try:
        return opened.store.count()
    except (StoreBusyError, StoreDamagedError, StoreUnwritableError):
        return None
    finally:
        opened.close()


def verify_stores(root: Path) -> list[StoreHealth]:
    """Read every value of every store under a root."""
    return [StoreHealth(s.fingerprint, s.teachers, _check(s)) for s in list_stores(root)]


def _check(store: StoreStats) -> StoreCheck:
    opened = open_folder(store.path, "read")
    if opened is None:
        return StoreCheck(0, 0, OLDER if store.older else "the file cannot be opened")
    try:
        return opened.store.check()
    finally:
        opened.close()


def remove_stores(root: Path, fingerprint: str | None = None, *, force: bool = False) -> list[StoreStats]:
    """Remove all stores under a root, or one of them; return what was removed.

    Args:
        root: Folder of all stores.
        fingerprint: Beginning of the fingerprint of the one to remove; None removes all.
        force: Whether to remove stores that a process has open; it goes on with a fresh one.

    Raises:
        TeacherError: There is no such store, or a process has one open.
    """
    chosen = [s for s in list_stores(root) if fingerprint is None or s.fingerprint.startswith(fingerprint)]
    if fingerprint is not None and len(chosen) != 1:
        raise TeacherError(
            f"more than one store under {root} begins with {fingerprint}"
            if chosen
            else f"no store under {root} begins with {fingerprint}",
            got=", ".join(s.fingerprint for s in chosen or list_stores(root)) or "no store at all",
            wanted="the fingerprint of one, or its beginning",
            next_step="raykd store stats lists them",
        )
    if not chosen:
        return []
    with lock_root(root):
        busy = [] if force else [s for s in chosen if not is_unused(s.path)]
        if busy:
            raise TeacherError(
                "a process has the store open",
                got=", ".join(f"{s.fingerprint} ({', '.join(s.teachers)})" for s in busy),
                wanted="no run that uses it",
                next_step="wait for the run, or use --force: it goes on and computes again what it asks for",
            )
        for store in chosen:
            shutil.rmtree(store.path, ignore_errors=True)
    return chosen
