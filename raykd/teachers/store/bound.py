"""The bound on the size of all stores under one root, and what goes when it is reached.

Decision record: first what was set aside as damaged, then whole folders of teachers that nobody has open, the one
not used for longest first, then a batch of entries in one random range of keys of the largest store. Keys are
hashes, so a range is a random choice of texts. Random, not least recently used: epochs ask for all texts in turn,
and a least-recently-used cache smaller than such a cycle never hits, while a random one keeps its share of hits.
LMDB never shrinks its file but fills freed pages first, so the bound holds for files: the own store's free pages
count as room, another's file is written anew without them (its holders notice the new file by its inode). Values
of any size need free pages side by side, which there may not be though enough are free: where that has made the own
file too large, it too is written anew.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import shutil
from pathlib import Path

from raykd.teachers.store.folder import (
    DAMAGED,
    DATA,
    IN_USE,
    LOCK,
    MAP_BYTES,
    classes_of,
    forget,
    open_folder,
    read_note,
    root_lock,
    unused,
)  # fmt: skip
from raykd.teachers.store.pages import Damaged, largest_node, overflow_pages, read_metas
from raykd.teachers.store.values import HEADER, KEY_BYTES

log = logging.getLogger("raykd.teachers")
FULL, AIM = 0.9, 0.8
"""Shares of the bound: from where something goes, and down to where."""
_GROWN = 0.96
"""The share of the bound from where the own file, free pages and all, is written anew."""
_LOOKS = 64
"""A store looks at the bound each time it has written this part of it; an answer larger than it is not kept."""
_TRIES = 4
_NODE, _POINTER = 8 + 2 + KEY_BYTES + HEADER.size, 8
"""Bytes of an entry in a page beside its value, and of what stands for a value that has pages of its own."""
_LARGEST_NODE = largest_node(mmap.PAGESIZE)
_BATCH = 2000
"""Deletions of one transaction; few, because LMDB copies the pages that it changes before it frees any."""


class Bound:
    """Keeps the stores under a root within a size.

    Args:
        limit: bytes of all stores together.
        classes: labels of the own store; None where its values are of any size.
    """

    def __init__(self, root: Path, limit: int, classes: int | None) -> None:
        self.limit = limit
        self._root, self._classes = root, classes
        self.step = limit // _LOOKS
        self._written = limit
        self._said = False

    def keep(self, own: Path, written: int = 0) -> None:
        """To be called after every write with the bytes written: makes room where the bound is near."""
        self._written += written
        if self._written < self.step:
            return
        self._written = 0
        if self._room(own) < 0 or self._overgrown(own):
            with root_lock(self._root):
                self._make_room(own)

    def _overgrown(self, own: Path) -> bool:
        """Whether files are too large by free pages alone."""
        return sum(file_bytes(path) for path in folders(self._root)) > _GROWN * self.limit

    def _room(self, own: Path, share: float = FULL) -> int:
        return int(share * self.limit) - sum(_size(path, own) for path in folders(self._root))

    def _make_room(self, own: Path) -> None:
        gone = []
        for path in folders(self._root):
            for aside in path.glob(f"{DAMAGED}*"):
                shutil.rmtree(aside, ignore_errors=True)
                gone.append(f"damaged file {aside}")
        for path in sorted(folders(self._root), key=last_used):
            if self._room(own, AIM) >= 0:
                break
            if path != own and unused(path):
                shutil.rmtree(path, ignore_errors=True)
                gone.append(f"the answers of {_who(path)}, not used for longest")
        for _ in range(_TRIES):
            wanted = -self._room(own, AIM)
            if wanted > 0:
                largest = max(folders(self._root), key=lambda path: _size(path, own))
                share = min(1.0, wanted / max(1, _size(largest, own)))
                gone.append(
                    f"{self._evict(largest, share, own):,} answers of {_who(largest)}, chosen at random"
                )
            if self._room(own) >= 0:  # values differ in size: as many as seemed enough may be too few
                break
        if self._overgrown(own):
            _write_anew(own)
        if gone and not self._said:
            self._said = True
            log.warning(
                "the signal stores under %s reached serving.store_limit_gb (%g): %s made room; "
                "this is said once, and what went is computed again when it is asked for",
                self._root, self.limit / 1e9, ", ".join(gone),
            )  # fmt: skip

    def _evict(self, path: Path, share: float, own: Path) -> int:
        """Deletes this share of a store's entries, a range of keys from a random one on; returns how many."""
        classes = self._classes if path == own else classes_of(read_note(path))
        opened = open_folder(path, classes, MAP_BYTES, create=path == own)
        if opened is None:
            return 0
        wanted: int = math.ceil(share * opened.env.stat()["entries"])
        left = wanted
        key = os.urandom(KEY_BYTES)
        while left > 0:
            with opened.env.begin(write=True) as write:
                cursor = write.cursor()
                for _ in range(min(left, _BATCH)):
                    if not (cursor.set_range(key) or cursor.first()):
                        return wanted - left
                    key = cursor.key()
                    cursor.delete()
                    left -= 1
        if path != own:
            _write_anew(path)
        return wanted


def _write_anew(path: Path) -> None:
    """Replaces a store's file by a copy without free pages; the caller holds the root's lock."""
    import lmdb

    opened = open_folder(path, None, MAP_BYTES, create=False)
    copy = path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    try:
        if opened is not None:
            opened.env.copy(str(copy), compact=True)
            os.remove(path / LOCK)
            os.replace(copy / DATA, path / DATA)
    except (OSError, lmdb.Error) as error:
        log.warning("the signal store %s keeps its size: %s", path, error)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        forget(path)


def stored_bytes(body_bytes: int) -> int:
    """Bytes that an entry takes of a file: a share of a page, which are two thirds full, and pages of its own."""
    node = _NODE + body_bytes
    if node <= _LARGEST_NODE:
        return 3 * node // 2
    return 3 * (_NODE + _POINTER) // 2 + mmap.PAGESIZE * int(
        overflow_pages(HEADER.size + body_bytes, mmap.PAGESIZE)
    )


def folders(root: Path) -> list[Path]:
    """The stores under a root."""
    if not root.is_dir():
        return []
    inside = (p for p in root.iterdir() if not p.is_symlink())
    return sorted(p for p in inside if (p / DATA).exists() or (p / IN_USE).exists())


def last_used(path: Path) -> float:
    """When a process last opened or closed the store, seconds since 1970."""
    try:
        return (path / IN_USE).stat().st_mtime
    except OSError:
        return 0.0


def file_bytes(path: Path) -> int:
    """Bytes of everything in a folder."""
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total


def _size(path: Path, own: Path) -> int:
    """What a store counts: its files; of the own one only the pages that hold something."""
    if path == own:
        try:
            return read_metas(path / DATA)[0].bytes_used
        except (OSError, Damaged):
            pass
    return file_bytes(path)


def _who(path: Path) -> str:
    names = read_note(path).get("teachers") or [path.name]
    return "teacher " + ", ".join(str(name) for name in names)
