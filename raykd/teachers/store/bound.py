"""`SizeLimit`: bounds the size of all stores under one root, and makes room when it is reached.

Decision record:

- First go files that were moved aside as damaged, then whole folders of teachers that no process has open, the longest
  unused first, then a share of the answers of the largest store.
- Keys are hashes, so a range of them is a random choice of texts. Random eviction beats least recently used here:
  epochs ask for all texts in turn, and a least-recently-used cache smaller than such a cycle never hits, while a random
  one keeps its share of hits.
- The library fills freed pages before its file grows, so free pages of the own store count as room. A store of others
  is shrunk at once. The log beside the own file (a few megabytes) is not counted.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from pathlib import Path

from raykd.teachers.store.base import Store, StoreBusyError, StoreDamagedError, StoreUnwritableError
from raykd.teachers.store.folder import (
    DAMAGED,
    IN_USE,
    is_unused,
    lock_root,
    open_folder,
    read_note,
)
from raykd.teachers.store.sqlite import DATA

log = logging.getLogger("raykd.teachers")
FULL, AIM = 0.9, 0.8
"""Shares of the bound at which room is made, and down to which."""
_CHECKS = 64
"""A store checks the bound each time it has written this part of it; an answer larger than that is not kept."""
_MOST_STEP = 8 << 20
"""Most bytes of one transaction, because the log grows to its size."""
_TRIES = 4
"""Rounds of eviction: values differ in size, so a share that seemed enough may be too small."""


class SizeLimit:
    """Keeps the stores under a root within a size.

    Args:
        root: The folder of all stores.
        limit: Bytes of all stores together.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self.limit = limit
        self._root = root
        self.largest = limit // _CHECKS
        self.step = min(self.largest, _MOST_STEP)
        self._written = limit
        self._warned = False

    def keep(self, own: Path, store: Store, written: int = 0) -> None:
        """Make room where the bound is near; to be called after every write.

        Args:
            own: The folder that was written to.
            store: The store in it.
            written: Bytes that were written.
        """
        self._written += written
        if self._written < self.largest:
            return
        self._written = 0
        if self._room(own, store, FULL) < 0:
            with lock_root(self._root):
                self._make_room(own, store)

    def _room(self, own: Path, store: Store, share: float) -> int:
        return int(share * self.limit) - sum(
            _size(path, own, store) for path in list_store_folders(self._root)
        )

    def _make_room(self, own: Path, store: Store) -> None:
        gone = []
        for path in list_store_folders(self._root):
            for aside in path.glob(f"{DAMAGED}*"):
                shutil.rmtree(aside, ignore_errors=True)
                gone.append(f"damaged file {aside}")
        for path in sorted(list_store_folders(self._root), key=read_last_use):
            if self._room(own, store, AIM) >= 0:
                break
            if path != own and is_unused(path):
                shutil.rmtree(path, ignore_errors=True)
                gone.append(f"the answers of {_name_teachers(path)}, not used for longest")
        for _ in range(_TRIES):
            wanted = -self._room(own, store, AIM)
            if wanted > 0:
                largest = max(list_store_folders(self._root), key=lambda path: _size(path, own, store))
                share = min(1.0, wanted / max(1, _size(largest, own, store)))
                count = store.evict(share) if largest == own else _evict_other(largest, share)
                gone.append(f"{count:,} answers of {_name_teachers(largest)}, chosen at random")
            if self._room(own, store, FULL) >= 0:
                break
        if gone and not self._warned:
            self._warned = True
            log.warning(
                "the signal stores under %s reached serving.store_limit_gb (%g): %s made room; "
                "this is said once, and what went is computed again when it is asked for",
                self._root, self.limit / 1e9, ", ".join(gone),
            )  # fmt: skip


def _evict_other(path: Path, share: float) -> int:
    """Delete a share of the answers of a store that other processes have open; returns how many."""
    opened = open_folder(path, "write")
    if opened is None:
        return 0
    try:
        gone = opened.store.evict(share)
        opened.store.shrink()
        return gone
    except (StoreBusyError, StoreDamagedError, StoreUnwritableError) as error:
        log.warning("the signal store %s keeps its size: %s", path, error)
        return 0
    finally:
        opened.close()


def list_store_folders(root: Path) -> list[Path]:
    """Return the stores under a root."""
    if not root.is_dir():
        return []
    inside = (p for p in root.iterdir() if not p.is_symlink())
    return sorted(p for p in inside if (p / DATA).exists() or (p / IN_USE).exists())


def read_last_use(path: Path) -> float:
    """Return when a process last opened or closed the store, seconds since 1970."""
    try:
        return (path / IN_USE).stat().st_mtime
    except OSError:
        return 0.0


def sum_file_sizes(path: Path) -> int:
    """Return the bytes of everything in a folder."""
    total = 0
    for file in path.rglob("*"):
        with contextlib.suppress(OSError):  # it went meanwhile
            total += file.stat().st_size if file.is_file() else 0
    return total


def _size(path: Path, own: Path, store: Store) -> int:
    """Return the bytes that count: a store's files, or of the own one only the pages that hold something."""
    return store.used_bytes() if path == own else sum_file_sizes(path)


def _name_teachers(path: Path) -> str:
    names = read_note(path).get("teachers") or [path.name]
    return "teacher " + ", ".join(str(name) for name in names)
