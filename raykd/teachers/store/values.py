"""Keys and values of the store: a row's hash, and a body with a checksum that covers the key too.

Decision record: the checksum is over key + body, because a damaged B-tree can lead to another text's value, which
is whole in itself. A value that does not fit its key, its checksum or the number of labels is a miss. Where the
units of a row are words, their places are part of what was asked, so they are part of the key, as is the mode in which
a row is given; a row without words and mode has the key of its text alone, whatever the task.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raykd.text.batch import TextBatch

KEY_BYTES = 32
HEADER = struct.Struct("<II")  # crc32(key + body), bytes of the body
_LENGTH = struct.Struct("<q")


_WORDS = _LENGTH.pack(-1)
"""Tells words from a second text: no length is negative."""
_MODE = _LENGTH.pack(-2)
_SPOKEN = _LENGTH.pack(-3)


def text_key(
    text: str,
    pair: str | None,
    words: Sequence[tuple[int, int]] = (),
    mode: str = "",
    spoken: str = "",
) -> bytes:
    """32 bytes that stand for a text, or for a pair in its order.

    Args:
        words: (begin, end) of each word in characters of the text, where words are the units of the answer.
        mode: how the row is given to a model. spoken: its languages, where a model may read them.
    """
    data = text.encode("utf-8", "surrogatepass")
    content = _LENGTH.pack(len(data)) + data
    if pair is not None:
        data = pair.encode("utf-8", "surrogatepass")
        content += _LENGTH.pack(len(data)) + data
    if words:
        content += _WORDS + struct.pack(f"<{2 * len(words)}q", *[place for word in words for place in word])
    if mode:
        content += _MODE + mode.encode()
    if spoken:
        content += _SPOKEN + spoken.encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).digest()


def text_keys(batch: TextBatch) -> list[bytes]:
    """The key of each row: of all that its answer depends on."""
    pairs = [None] * len(batch) if batch.pairs is None else batch.pairs
    words: Any = getattr(batch, "words", None) or ((),) * len(batch)
    modes = getattr(batch, "modes", None) or ("",) * len(batch)
    spoken = _spoken(batch)
    return [text_key(*row) for row in zip(batch.texts, pairs, words, modes, spoken, strict=True)]


def _spoken(batch: TextBatch) -> Sequence[str]:
    """Of sources and targets both languages, which some models read; "" of other rows."""
    sources = getattr(batch, "source_languages", None)
    if sources is None:
        return ("",) * len(batch.texts)
    return [f"{source}\0{target}" for source, target in zip(sources, batch.languages, strict=True)]


def value_bytes(classes: int | None) -> int | None:
    """Size of every value of a store of this many labels; None where values are of any size."""
    return None if classes is None else HEADER.size + 4 * classes


def encode(key: bytes, body: bytes) -> bytes:
    """A value: checksum, length, body."""
    return HEADER.pack(zlib.crc32(body, zlib.crc32(key)), len(body)) + body


def decode(key: bytes, value: Any, wanted: int | None) -> bytes | None:
    """The body of a value that `encode` made for this key; None of any other bytes.

    Args:
        wanted: size of the value, as `value_bytes` gives it; None: any.
    """
    size = 0 if value is None else len(value)
    if size < HEADER.size or (wanted is not None and size != wanted):
        return None
    checksum, length = HEADER.unpack_from(value)
    body = bytes(value[HEADER.size :])
    if length != len(body) or zlib.crc32(body, zlib.crc32(key)) != checksum:
        return None
    return body
