"""`SignalStore`: get and put of one teacher's answers.

Decision record: keeping answers is a convenience, answering is a duty. So nothing that happens to the store while
it is used is an error: what cannot be read is a miss and is computed again, what cannot be written is not kept and
is counted, and one warning says what to do. Only a store that cannot be opened at the start is an error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.teachers.store.bound import Bound
from raykd.teachers.store.folder import (
    DATA,
    MAP_BYTES,
    Opened,
    forget,
    open_folder,
    root_lock,
    set_aside,
    settle,
    write_note,
)  # fmt: skip
from raykd.teachers.store.values import decode, encode

log = logging.getLogger("raykd.teachers")
GB = 10**9
_PAUSE_S = 1.0
"""How long a reader leaves a store alone that is not there or that it cannot read."""


class SignalStore:
    """Logits ``[C]`` float32 by text, for one teacher fingerprint.

    Args:
        root: folder of all stores; created if need be. Must be a local disk (LMDB's rule).
        fingerprint: the teacher's; a store of one never answers for another.
        classes: C.
        limit_gb: bound on all stores under the root together, in 10^9 bytes.
        teacher: its name, for people.
        read_only: answers come from what is there; nothing is made, mended or kept.
    Raises:
        TeacherError: the folder cannot be made or written.
    """

    def __init__(
        self, root: Path, fingerprint: str, classes: int, *,
        limit_gb: float = 20.0, teacher: str = "", read_only: bool = False,
    ) -> None:  # fmt: skip
        self.path = root / fingerprint[:32]
        self.unkept = 0
        self._fingerprint, self._classes, self._teacher = fingerprint, classes, teacher
        self._read_only, self._warned = read_only, False
        self._full = False
        self._again_at = 0.0
        self._map_bytes = max(MAP_BYTES, int(4 * limit_gb * GB))
        self._bound = Bound(root, int(limit_gb * GB), classes)
        self._opened: Opened | None = None
        self._open()

    def _open(self) -> Opened | None:
        if self._opened is not None and self._opened.alive(self.path / DATA):
            return self._opened
        if self._read_only and time.monotonic() < self._again_at:
            return None
        had = self._opened is not None
        self._opened = open_folder(self.path, self._classes, self._map_bytes, create=not self._read_only)
        if self._opened is None:
            self._again_at = time.monotonic() + _PAUSE_S
        elif not self._read_only:
            write_note(self.path, self._teacher, self._classes, self._fingerprint)
            self._bound.keep(self.path)
            if had:
                log.info("the signal store %s was replaced or deleted meanwhile and is open anew", self.path)
        return self._opened

    def get(self, keys: Sequence[bytes]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Logits ``[len(keys), C]``, 0 where there are none, and whether there are; what is damaged is missing."""
        import lmdb

        bodies: list[bytes | None] = [None] * len(keys)
        try:
            opened = self._open()
            if opened is not None:
                with opened.env.begin(buffers=True) as read:
                    value = read.get
                    bodies = [decode(key, value(key), self._classes) for key in keys]
        except lmdb.Error as error:
            self._damage(error)
        return _rows(bodies, self._classes)

    def put(self, keys: Sequence[bytes], logits_NC: NDArray[np.float32]) -> None:
        """Keeps the logits of each key, if it can; what it cannot keep is counted in `unkept`."""
        import lmdb

        if self._full or self._read_only:
            self.unkept += len(keys)
            return
        items = [(key, encode(key, logits_C)) for key, logits_C in zip(keys, logits_NC, strict=True)]
        try:
            self._write(items)
            self._bound.keep(self.path, len(items))
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            self._give_up(error, len(keys))
        except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError) as error:
            self._damage(error)
            self.unkept += len(keys)
        except Exception as error:  # what else a disk may say: an answer is not lost for it
            self._give_up(error, len(keys))

    def _write(self, items: list[tuple[bytes, bytes]]) -> None:
        opened = self._open()
        assert opened is not None  # else open_folder raised
        with opened.env.begin(write=True) as write:
            for key, value in items:
                write.put(key, value)

    def _give_up(self, error: object, rows: int) -> None:
        self._full = True
        self.unkept += rows
        log.warning(
            "the signal store %s takes no more answers; the run goes on and from here computes what it does not "
            "find\n  got:    %s\n  wanted: free space\n  next:   free space there, set serving.store to another "
            "folder, or lower serving.store_limit_gb (now %g)",
            self.path, error, self._bound.limit / GB,
        )  # fmt: skip

    def _damage(self, error: object) -> None:
        """LMDB found damage by itself: the file goes aside, the next call begins a fresh one."""
        if self._read_only:
            if not self._warned:
                log.warning("the signal store %s cannot be read here: %s", self.path, error)
            self._warned = True
            return
        import lmdb

        with root_lock(self.path.parent):
            # A panic is of the environment (a write failed half-way), not of the file.
            same = self._opened is not None and self._opened.alive(self.path / DATA)
            if same and not isinstance(error, lmdb.PanicError):
                set_aside(self.path, error)
            forget(self.path)
        self._opened = None

    def __len__(self) -> int:
        opened = self._open()
        return 0 if opened is None else int(opened.env.stat()["entries"])

    def close(self) -> None:
        """Flushes to disk. The environment stays open for this process, where another teacher may hold it."""
        if self._opened is not None and not self._read_only:
            settle(self.path, self._opened)


def _rows(bodies: Sequence[bytes | None], classes: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    empty = bytes(4 * classes)
    flat: Any = np.frombuffer(b"".join([body or empty for body in bodies]), dtype="<f4")
    found_N = np.asarray([body is not None for body in bodies], dtype=bool)
    return flat.reshape(len(bodies), classes), found_N
