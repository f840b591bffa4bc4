"""Keys and values of the store: a row's hash, and a body with a checksum that covers the key too.

Decision record: the checksum is over key and body, because a damaged B-tree can lead to another text's value, which
is whole in itself. Half of the hash is kept, 8 bytes as the number under which a library finds a value and 8 in the
value: two texts of ten million share both with a probability of 1e-25, and two that share the first alone are told
apart, at the cost of a miss. Where the units of a row are words, their places are part of what was asked, so they are
part of the key, as is the mode in which a row is given; a row without words and mode has the key of its text alone,
whatever the task.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch would come with it
    from raykd.text.batch import TextBatch

HEADER = struct.Struct("<I8s")
"""Of a value: crc32 over 16 bytes of the key and the body, and the second 8 of these bytes."""
_NUMBER = struct.Struct("<q")
_LENGTH = struct.Struct("<q")


_WORDS = _LENGTH.pack(-1)
"""Tells words from a second text: no length is negative."""
_MODE = _LENGTH.pack(-2)
_SPOKEN = _LENGTH.pack(-3)


def make_text_key(
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


def make_text_keys(batch: TextBatch) -> list[bytes]:
    """The key of each row: of all that its answer depends on."""
    pairs = [None] * len(batch) if batch.pairs is None else batch.pairs
    words: Any = getattr(batch, "words", None) or ((),) * len(batch)
    modes = getattr(batch, "modes", None) or ("",) * len(batch)
    spoken = _spoken(batch)
    return [make_text_key(*row) for row in zip(batch.texts, pairs, words, modes, spoken, strict=True)]


def _spoken(batch: TextBatch) -> Sequence[str]:
    """Of sources and targets both languages, which some models read; "" of other rows."""
    sources = getattr(batch, "source_languages", None)
    if sources is None:
        return ("",) * len(batch.texts)
    return [f"{source}\0{target}" for source, target in zip(sources, batch.languages, strict=True)]


def read_key_number(key: bytes) -> int:
    """Return the signed 64-bit number under which a key's value is found."""
    number: int = _NUMBER.unpack_from(key)[0]
    return number


def encode_value(key: bytes, body: bytes) -> bytes:
    """Return what is stored for a key: checksum, part of the key, body."""
    return HEADER.pack(zlib.crc32(body, zlib.crc32(key[:16])), key[8:16]) + body


def decode_value(key: bytes, value: Any) -> bytes | None:
    """Return the body of a value that `encode_value` made for this key; None for anything else."""
    if not isinstance(value, bytes) or len(value) < HEADER.size or value[4:12] != key[8:16]:
        return None
    body = value[HEADER.size :]
    return body if zlib.crc32(body, zlib.crc32(key[:16])) == int.from_bytes(value[:4], "little") else None


def is_whole(number: int, value: Any) -> bool:
    """Return whether a value is what was stored under this number."""
    return isinstance(value, bytes) and decode_value(_NUMBER.pack(number) + value[4:12], value) is not None
