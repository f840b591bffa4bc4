"""The signal store: what a teacher answered, on disk, by content.

Decision record: LMDB, not a format of our own: many readers, writers of several processes (replicas, other runs)
take turns by its own lock. Writes are not synced one by one: a killed process loses nothing, a power cut may. A
key is a hash of the teacher's fingerprint (weights, tokenizer, labels, truncation, precision) and the text; never
a position in a data set, never alpha, temperature, lambda or weights, so an answer serves every trial and every
later run. Each value carries a checksum: a value that does not match it is a miss and is computed again, never a
wrong answer.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.errors import TeacherError

log = logging.getLogger("raykd.teachers")
MAP_BYTES = 64 << 30
"""Largest size of one teacher's store; LMDB reserves addresses only, the file grows as it fills."""
_HEADER = struct.Struct("<I")
_OPEN: dict[str, Any] = {}
"""Environments of this process; LMDB must not open a folder twice in one process."""


def text_key(text: str, pair: str | None) -> bytes:
    """32 bytes that stand for a text, or for a pair in its order."""
    digest = hashlib.sha256()
    for part in (text,) if pair is None else (text, pair):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(struct.pack("<q", len(data)))
        digest.update(data)
    return digest.digest()


class SignalStore:
    """Logits ``[C]`` float32 by text, for one teacher fingerprint.

    Args:
        root: folder of all stores; created if need be. Must be a local disk (LMDB's rule).
        fingerprint: the teacher's; a store of one never answers for another.
    """

    def __init__(self, root: Path, fingerprint: str) -> None:
        import lmdb

        self.path = root / fingerprint[:32]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._env: Any = _OPEN.get(str(self.path)) or lmdb.open(
                str(self.path),
                map_size=MAP_BYTES,
                max_readers=512,
                sync=False,
                metasync=False,
                readahead=False,
            )
            _OPEN[str(self.path)] = self._env
        except (OSError, lmdb.Error) as error:
            raise TeacherError(
                f"cannot open the signal store {self.path}",
                got=str(error),
                wanted="a writable folder on a local disk",
                next_step="set serving.store to another folder, or to null to keep no answers",
            ) from None
        self._lmdb = lmdb

    def get(self, keys: Sequence[bytes]) -> list[NDArray[np.float32] | None]:
        """The stored logits of each key; None where there is none or where it is damaged."""
        try:
            with self._env.begin(buffers=True) as read:
                return [_decode(read.get(key)) for key in keys]
        except self._lmdb.Error as error:
            log.warning("the signal store %s is damaged, answers are computed again: %s", self.path, error)
            return [None] * len(keys)

    def put(self, keys: Sequence[bytes], logits_NC: NDArray[np.float32]) -> None:
        """Keeps the logits of each key.

        Raises:
            TeacherError: the disk or the store is full.
        """
        try:
            with self._env.begin(write=True) as write:
                for key, logits_C in zip(keys, logits_NC, strict=True):
                    body = np.ascontiguousarray(logits_C, dtype=np.float32).tobytes()
                    write.put(key, _HEADER.pack(zlib.crc32(body)) + body)
        except self._lmdb.Error as error:
            raise TeacherError(
                f"cannot write to the signal store {self.path}",
                got=str(error),
                wanted="free space",
                next_step="free space there, or set serving.store to another folder",
            ) from None

    def __len__(self) -> int:
        return int(self._env.stat()["entries"])

    def close(self) -> None:
        """Flushes to disk. The environment stays open for this process, where another teacher may hold it."""
        self._env.sync(True)


def _decode(value: Any) -> NDArray[np.float32] | None:
    if value is None or len(value) <= _HEADER.size or (len(value) - _HEADER.size) % 4:
        return None
    body = bytes(value[_HEADER.size :])
    if zlib.crc32(body) != _HEADER.unpack(bytes(value[: _HEADER.size]))[0]:
        return None
    return np.frombuffer(body, dtype=np.float32)
