"""`SignalStore`: gets and puts one teacher's answers.

Decision record: a run must be answered, but its answers need not be kept. So nothing that happens to the store while it
is used is an error. What cannot be read is a miss and is computed again; what cannot be written is not kept and is
counted, and one warning says what to do. Only a store that cannot be opened at the start is an error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from raykd.teachers.store.base import Store, StoreBusyError, StoreDamagedError, StoreUnwritableError
from raykd.teachers.store.bound import SizeLimit
from raykd.teachers.store.folder import (
    IN_USE,
    OpenFolder,
    is_read_only,
    lock_root,
    move_damaged_store,
    open_folder,
    read_time,
    write_note,
    write_time,
)
from raykd.teachers.store.sqlite import estimate_stored_bytes

log = logging.getLogger("raykd.teachers")
GB = 10**9
_PAUSE_S = 1.0
"""Time after which a reader tries again to open a store that is missing or cannot be read."""


class SignalStore:
    """Answers by key (`make_text_key`), for one teacher fingerprint.

    Args:
        root: Folder of all stores; created if need be. Must be on a local disk.
        fingerprint: Hash of the teacher and of the form of its answers; names the folder.
        limit_gb: Bound on all stores under the root together, in 10^9 bytes.
        teacher: Its name, for people.
        read_only: Whether only to read what is there: nothing is made, mended or kept, as on a read-only mount.

    Raises:
        TeacherError: The folder cannot be made or written.
    """

    def __init__(
        self,
        root: Path,
        fingerprint: str,
        *,
        limit_gb: float = 20.0,
        teacher: str = "",
        read_only: bool = False,
    ) -> None:
        self.path = root / fingerprint[:32]
        self.unkept = 0
        self.fingerprint, self._teacher = fingerprint, teacher
        self._read_only, self._warned = read_only, False
        self._full = False
        self._again_at = 0.0
        self._bound = SizeLimit(root, int(limit_gb * GB))
        self._opened: OpenFolder | None = None
        if not read_only and is_read_only(self.path):
            self._read_only = True
            log.warning(
                "the signal store %s is on a read-only file system: it is read, and nothing is kept",
                self.path,
            )
        self._open()

    def _open(self) -> Store | None:
        if self._opened is not None:
            if self._opened.store.is_current():
                return self._opened.store
            self._opened.close()
            self._opened = None
            log.info(
                "the signal store %s was replaced, cut or deleted meanwhile and is opened anew", self.path
            )
        if self._read_only and time.monotonic() < self._again_at:
            return None
        self._opened = open_folder(self.path, "read" if self._read_only else "create")
        if self._opened is None:
            self._again_at = time.monotonic() + _PAUSE_S
            return None
        if not self._read_only:
            write_note(self.path, self._teacher, self.fingerprint)
            with contextlib.suppress(StoreBusyError, StoreDamagedError, StoreUnwritableError):
                self._bound.keep(self.path, self._opened.store)
        return self._opened.store

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the body of each key; None where there is none, or it is damaged."""
        try:
            store = self._open()
            if store is not None:
                return store.get(keys)
        except StoreDamagedError as error:
            self._begin_anew(error)
        except (StoreBusyError, StoreUnwritableError) as error:
            log.debug("the signal store %s cannot be read now: %s", self.path, error)
        return [None] * len(keys)

    def contains(self, keys: Sequence[bytes]) -> bool:
        """Return whether there is a body for every key; reads none of them."""
        if not keys:
            return True
        with contextlib.suppress(StoreBusyError, StoreDamagedError, StoreUnwritableError):
            store = self._open()
            return store is not None and store.count() >= len(set(keys)) and all(store.contains(keys))
        return False

    def put(self, keys: Sequence[bytes], bodies: Sequence[bytes]) -> None:
        """Keep the body of each key where that is possible, and count the others in `unkept`.

        A body larger than a 64th of the bound is not kept. For a key given twice the last body is kept.
        """
        if self._full or self._read_only:
            self.unkept += len(keys)
            return
        left = len(keys)
        try:
            for part, rows, written in self._parts(keys, bodies):
                self._write(part, written)
                left -= rows
        except StoreBusyError as error:
            log.warning("the signal store %s did not take %d answers: %s", self.path, left, error)
        except Exception as error:  # whatever a disk does, the run goes on with the answers that it has
            self._give_up(error)
        self.unkept += left

    def _parts(
        self, keys: Sequence[bytes], bodies: Sequence[bytes]
    ) -> Iterator[tuple[dict[bytes, bytes], int, int]]:
        """Yield what to write in one transaction each, small enough to check the bound in time, with rows and bytes."""
        part: dict[bytes, bytes] = {}
        rows = size = 0
        for key, body in zip(keys, bodies, strict=True):
            more = estimate_stored_bytes(len(body))
            if more > self._bound.largest:
                continue
            if part and size + more > self._bound.step:
                yield part, rows, size
                part, rows, size = {}, 0, 0
            part[key] = body
            rows += 1
            size += more
        if part:
            yield part, rows, size

    def _write(self, part: dict[bytes, bytes], written: int) -> None:
        """Write a part; where the file turns out to be damaged, once more into a fresh one."""
        for last in (False, True):
            store = self._open()
            assert store is not None  # else open_folder raised
            try:
                store.put(part)
                self._bound.keep(self.path, store, written)
                return
            except StoreDamagedError as error:
                self._begin_anew(error)
                if last:
                    raise

    def _give_up(self, error: object) -> None:
        self._full = True
        log.warning(
            "the signal store %s takes no more answers; the run goes on and from here computes what it does not "
            "find\n  got:    %s\n  wanted: free space\n  next:   free space there, set serving.store to another "
            "folder, or lower serving.store_limit_gb (now %g)",
            self.path, error, self._bound.limit / GB,
        )  # fmt: skip

    def _begin_anew(self, error: object) -> None:
        """Move a damaged file aside; the next call begins a fresh one."""
        if self._read_only:
            if not self._warned:
                log.warning("the signal store %s cannot be read here: %s", self.path, error)
            self._warned = True
            return
        with lock_root(self.path.parent):
            if self._opened is not None:
                is_current = self._opened.store.is_current()
                self._opened.close()
                self._opened = None
                if is_current:  # else another process has set it aside already
                    move_damaged_store(self.path, error)

    def write_time(self, timing: str) -> None:
        """Keep how long a text took the teacher, where that is possible."""
        if not self._read_only and not self._full:
            with contextlib.suppress(OSError):
                write_time(self.path, timing)

    def read_time(self) -> str:
        """Return what `write_time` kept last; empty where that is nothing."""
        return read_time(self.path)

    def __len__(self) -> int:
        try:
            store = self._open()
            return 0 if store is None else store.count()
        except (StoreBusyError, StoreDamagedError, StoreUnwritableError):
            return 0

    def close(self) -> None:
        """Flush to disk and release the folder; a later call opens it again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None
            if not self._read_only:
                with contextlib.suppress(OSError):
                    os.utime(self.path / IN_USE)
