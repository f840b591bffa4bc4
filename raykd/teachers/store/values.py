"""Keys and values of the store: a row's hash, and a body with a checksum that also covers the key.

Decision record:

- The checksum is over key and body, because a damaged B-tree can lead to another text's value, which is whole in
  itself.
- Half of the hash is kept: 8 bytes as the number under which the library finds a value, and 8 in the value. Two of ten
  million texts share both with a probability of 1e-25; two that share only the first are told apart, at the cost of a
  miss.
- Where the units of a row are words, their places are part of the question and so of the key, as is the mode in which a
  row is given. A row without words and mode has the key of its text alone, whatever the task.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch would come with it
    from raykd.text.batch import Spans, TextBatch

HEADER = struct.Struct("<I8s")
"""Of a value: crc32 over 16 bytes of the key and the body, then the second 8 of these bytes."""
_NUMBER = struct.Struct("<q")
_LENGTH = struct.Struct("<q")
# No length is negative, so these cannot be taken for the length of a second text.
_WORDS, _MODE, _LANGUAGES, _CANDIDATES = (_LENGTH.pack(number) for number in (-1, -2, -3, -4))


def make_text_key(
    text: str,
    pair: str | None,
    words: Sequence[tuple[int, int]] = (),
    mode: str = "",
    languages: str = "",
    candidates: Sequence[str] = (),
) -> bytes:
    """Hash a text, or a pair in its order, to 32 bytes.

    Args:
        text: The first text.
        pair: The second text, if there is one.
        words: (begin, end) of each word in characters of the text, where words are the units of the answer.
        mode: How the row is given to a model.
        languages: Its languages, where a model may read them.
        candidates: The texts that are ranked for it, in their order.
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
    if languages:
        content += _LANGUAGES + languages.encode("utf-8", "surrogatepass")
    if candidates:
        content += _CANDIDATES
    for candidate in candidates:
        data = candidate.encode("utf-8", "surrogatepass")
        content += _LENGTH.pack(len(data)) + data
    return hashlib.sha256(content).digest()


def make_text_keys(batch: TextBatch) -> list[bytes]:
    """Hash all that the answer to each row depends on."""
    rows = len(batch)
    pairs = batch.pairs or (None,) * rows
    words: Sequence[Spans] = batch.words or ((),) * rows
    modes = batch.modes or ("",) * rows
    languages: Sequence[str] = ("",) * rows
    if batch.source_languages is not None:  # rows of source and target: some models read both languages
        both = zip(batch.source_languages, batch.languages, strict=True)
        languages = [f"{source}\0{target}" for source, target in both]
    ranked: Sequence[tuple[str, ...]] = batch.candidates or ((),) * rows
    columns = zip(batch.texts, pairs, words, modes, languages, ranked, strict=True)
    return [make_text_key(*row) for row in columns]


def read_key_number(key: bytes) -> int:
    """Return the signed 64-bit number under which a key's value is found."""
    number: int = _NUMBER.unpack_from(key)[0]
    return number


def encode_value(key: bytes, body: bytes) -> bytes:
    """Return what is stored for a key: checksum, part of the key, body."""
    return HEADER.pack(zlib.crc32(body, zlib.crc32(key[:16])), key[8:16]) + body


def decode_value(key: bytes, value: object) -> bytes | None:
    """Return the body of a value that `encode_value` made for this key; None for anything else."""
    if not isinstance(value, bytes) or len(value) < HEADER.size or value[4:12] != key[8:16]:
        return None
    body = value[HEADER.size :]
    return body if zlib.crc32(body, zlib.crc32(key[:16])) == int.from_bytes(value[:4], "little") else None


def is_whole(number: int, value: object) -> bool:
    """Return whether a value is what was stored under this number."""
    return isinstance(value, bytes) and decode_value(_NUMBER.pack(number) + value[4:12], value) is not None
