"""`SignalStore`: get and put of one teacher's answers.

Decision record: keeping answers is a convenience, answering is a duty. So nothing that happens to the store while
it is used is an error: what cannot be read is a miss and is computed again, what cannot be written is not kept and
is counted, and one warning says what to do. Only a store that cannot be opened at the start is an error.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.errors import TeacherError
from raykd.teachers.store.bound import Bound, stored_bytes
from raykd.teachers.store.folder import (
    DATA,
    MAP_BYTES,
    Opened,
    forget,
    open_folder,
    read_time,
    root_lock,
    set_aside,
    settle,
    write_note,
    write_time,
)  # fmt: skip
from raykd.teachers.store.values import decode, encode, value_bytes

log = logging.getLogger("raykd.teachers")
GB = 10**9
_PAUSE_S = 1.0
"""How long a reader leaves a store alone that is not there or that it cannot read."""


class SignalStore:
    """Answers by key (`text_key`), for one teacher fingerprint: a row's logits ``[C]``, or a body of bytes.

    Args:
        root: folder of all stores; created if need be. Must be a local disk (LMDB's rule).
        fingerprint: the teacher's and the answer's form; a store of one never answers for another.
        classes: C, where every answer is float32 ``[C]`` (`get`, `put`); None where it is a body of any size.
        limit_gb: bound on all stores under the root together, in 10^9 bytes.
        teacher: its name, for people.
        read_only: answers come from what is there; nothing is made, mended or kept.
    Raises:
        TeacherError: the folder cannot be made or written.
    """

    def __init__(
        self, root: Path, fingerprint: str, classes: int | None, *,
        limit_gb: float = 20.0, teacher: str = "", read_only: bool = False,
    ) -> None:  # fmt: skip
        self.path = root / fingerprint[:32]
        self.unkept = 0
        self._fingerprint, self._classes, self._teacher = fingerprint, classes, teacher
        self._read_only, self._warned = read_only, False
        self._full = False
        self._again_at = 0.0
        self._map_bytes = max(MAP_BYTES, int(4 * limit_gb * GB))
        self._value_bytes = value_bytes(classes)
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
        """Logits ``[len(keys), C]``, 0 where there are none, and whether there are; what is damaged is missing.

        Raises:
            TeacherError: this is a store of bodies.
        """
        classes = self._width()
        return _rows(self.get_bodies(keys), classes)

    def get_bodies(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The body of each key; None where there is none, or it is damaged."""
        import lmdb

        try:
            opened = self._open()
            if opened is not None:
                wanted = self._value_bytes
                with opened.env.begin(buffers=True) as read:
                    value = read.get
                    return [decode(key, value(key), wanted) for key in keys]
        except lmdb.Error as error:
            self._damage(error)
        return [None] * len(keys)

    def put(self, keys: Sequence[bytes], logits_NC: NDArray[np.float32]) -> None:
        """Keeps the logits of each key, if it can; what it cannot keep is counted in `unkept`.

        Raises:
            TeacherError: this is a store of bodies, or of another C.
        """
        self._width()
        self.put_bodies(keys, [row_C.tobytes() for row_C in np.ascontiguousarray(logits_NC, dtype="<f4")])

    def put_bodies(self, keys: Sequence[bytes], bodies: Sequence[bytes]) -> None:
        """Keeps the body of each key, if it can; what it cannot keep is counted in `unkept`.

        A body larger than a 64th of the bound is not kept. Of a key given twice the last body is kept.

        Raises:
            TeacherError: this is a store of logits, and a body is not float32 ``[C]``.
        """
        import lmdb

        if self._classes is not None and any(len(body) != 4 * self._classes for body in bodies):
            raise TeacherError(
                f"the signal store {self.path} does not hold such answers",
                got=f"bodies of {sorted({len(body) for body in bodies})} bytes",
                wanted=f"float32 logits of {self._classes} labels",
                next_step="open a store with classes=None for bodies of any size",
            )
        if self._full or self._read_only:
            self.unkept += len(keys)
            return
        left = len(keys)
        try:
            for part, rows, written in self._parts(keys, bodies):
                self._write(part)
                left -= rows
                self._bound.keep(self.path, written)
            self.unkept += left
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            self._give_up(error, left)
        except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError) as error:
            self._damage(error)
            self.unkept += left
        except Exception as error:  # what else a disk may say: an answer is not lost for it
            self._give_up(error, left)

    def _width(self) -> int:
        if self._classes is None:
            raise TeacherError(
                f"the signal store {self.path} holds bodies of any size",
                got="a call for logits",
                wanted="get_bodies, put_bodies",
                next_step="open a store of logits with their number of labels",
            )
        return self._classes

    def _parts(
        self, keys: Sequence[bytes], bodies: Sequence[bytes]
    ) -> Iterator[tuple[dict[bytes, bytes], int, int]]:
        """What to write in one transaction each, so little that the bound is looked at in time, its rows and bytes."""
        part: dict[bytes, bytes] = {}  # a key once in a transaction: see `pages`
        rows = size = 0
        for key, body in zip(keys, bodies, strict=True):
            more = stored_bytes(len(body))
            if more > self._bound.step:
                continue
            if part and size + more > self._bound.step:
                yield part, rows, size
                part, rows, size = {}, 0, 0
            part[key] = encode(key, body)
            rows += 1
            size += more
        if part:
            yield part, rows, size

    def _write(self, part: dict[bytes, bytes]) -> None:
        opened = self._open()
        assert opened is not None  # else open_folder raised
        with opened.env.begin(write=True) as write:
            for key, value in part.items():
                write.put(key, value)
        opened.alive(self.path / DATA)  # so that a file cut back to what it was before is noticed

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

    def write_time(self, timing: str) -> None:
        """Keeps how long a text took the teacher, if it can."""
        if not self._read_only and not self._full:
            with contextlib.suppress(OSError):
                write_time(self.path, timing)

    def read_time(self) -> str:
        """What `write_time` kept last; empty where there is nothing."""
        return read_time(self.path)

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
