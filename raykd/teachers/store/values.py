"""Keys and values of the store: a text's hash, and logits with a checksum that covers the key too.

Decision record: the checksum is over key + body, because a damaged B-tree can lead to another text's value, which
is whole in itself. A value that does not fit its key, its checksum or the number of labels is a miss.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from raykd.distill.signals import TextBatch

KEY_BYTES = 32
_HEADER = struct.Struct("<II")  # crc32(key + body), bytes of the body
_LENGTH = struct.Struct("<q")


def text_key(text: str, pair: str | None) -> bytes:
    """32 bytes that stand for a text, or for a pair in its order."""
    data = text.encode("utf-8", "surrogatepass")
    content = _LENGTH.pack(len(data)) + data
    if pair is not None:
        data = pair.encode("utf-8", "surrogatepass")
        content += _LENGTH.pack(len(data)) + data
    return hashlib.sha256(content).digest()


def text_keys(batch: TextBatch) -> list[bytes]:
    """The key of each row."""
    if batch.pairs is None:
        return [text_key(text, None) for text in batch.texts]
    return [text_key(text, pair) for text, pair in zip(batch.texts, batch.pairs, strict=True)]


def value_bytes(classes: int) -> int:
    """Size of every value of a store of this many labels."""
    return _HEADER.size + 4 * classes


def encode(key: bytes, logits_C: NDArray[np.float32]) -> bytes:
    """A value: checksum, length, float32 logits."""
    body = np.ascontiguousarray(logits_C, dtype="<f4").tobytes()
    return _HEADER.pack(zlib.crc32(body, zlib.crc32(key)), len(body)) + body


def decode(key: bytes, value: Any, classes: int) -> bytes | None:
    """The body of a value that `encode` made for this key; None of any other bytes."""
    if value is None or len(value) != _HEADER.size + 4 * classes:
        return None
    checksum, length = _HEADER.unpack_from(value)
    body = bytes(value[_HEADER.size :])
    if length != len(body) or zlib.crc32(body, zlib.crc32(key)) != checksum:
        return None
    return body
