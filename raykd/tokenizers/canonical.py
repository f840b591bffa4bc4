"""Give each token a canonical key, so that the tokens of different tokenizers can be compared.

Decision record: spellings cannot be compared. `the`, `Ġthe` and `▁the` may be one string, and `the` may be three. So a
token's key is one byte that says where the token stands, followed by the bytes of its text:

* `BEGINS`: a blank comes before it (`Ġthe`, `▁the`) or a word begins with it (WordPiece's `the`).
* `WITHIN`: it follows directly (`the` in byte-level BPE, `##the`). WordPiece's punctuation and Chinese characters have
  this key too: its pre-tokenizer cuts them out, so whether a blank comes before them is unknown.
* `DEAD`: no text contains it (`##,` if the pre-tokenizer cuts punctuation out).
* `SPECIAL`: a special token, never equal to text with the same spelling.

How a tokenizer marks words is found out by trying its normaliser and pre-tokenizer, not from its class. Upper and lower
case are different strings.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ModelError
from raykd.text.alignment import NOWHERE, is_blank

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RustTokenizer

    from raykd.text.tokens import Tokenizer

BEGINS, WITHIN, DEAD, SPECIAL = b"\x01", b"\x00", b"\x02", b"\x03"
ULD = "use sorted probabilities (uld), which need no common strings"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class WordMarking:
    """How a tokenizer marks words. Made by `detect_marking`.

    Attributes:
        style: ``blank`` if a token says that a blank comes before it, ``word`` if it says that it continues a word.
        marker: ``Ġ``, ``▁`` or the blank itself with the first style, ``##`` with the second.
        first: Whether a text's first word is marked as if a blank came before it (``blank`` only).
        cut: Whether punctuation, and whether a Chinese character, is always a token of its own (``word`` only).
    """

    style: Literal["blank", "word"]
    marker: str
    first: bool = True
    cut: tuple[bool, bool] = (False, False)

    def stands_alone(self, character: str) -> bool:
        """Return whether this character is always a token of its own."""
        return (self.cut[0] and _is_punctuation(character)) or (
            self.cut[1] and _HAN.match(character) is not None
        )


@dataclass(frozen=True)
class CanonicalVocabulary:
    """The tokens of a vocabulary. Made by `list_canonical_tokens`.

    Attributes:
        ids: Ascending, but tokens that spell a single byte (``<0x41>``) come last. Of tokens with one key the earlier
            is preferred.
        keys: The key of each of these ids.
        tokens: The spelling of each of these ids.
        size: The highest id plus 1; a vocabulary may have gaps.
        marking: How its tokenizer marks words.
    """

    ids: list[int]
    keys: list[bytes]
    tokens: list[str]
    size: int
    marking: WordMarking

    def by_id(self) -> dict[int, bytes]:
        """Return the keys by id."""
        return dict(zip(self.ids, self.keys, strict=True))


def detect_marking(tokenizer: Tokenizer) -> WordMarking:
    """Find out how a tokenizer marks words, by what its normaliser and pre-tokenizer make of a few letters.

    Raises:
        ModelError: It marks words in no known way.
    """
    backend = find_backend(tokenizer)
    kind = type(backend.model).__name__
    inside: str | None = getattr(backend.model, "continuing_subword_prefix", None)
    pieces = _pieces(backend, "a a")
    for marker in ("Ġ", "▁", *(() if inside or kind == "WordLevel" else " ")):
        if any(marker in piece for piece in pieces):
            return WordMarking("blank", marker, first=_pieces(backend, "a")[0].startswith(marker))
    suffix = getattr(backend.model, "end_of_word_suffix", None)
    if suffix or (kind != "WordLevel" and not inside):
        raise ModelError(
            f"a {kind} tokenizer that marks neither blanks nor continued words cannot be compared by strings",
            got=suffix or pieces,
            wanted="WordPiece, byte-level BPE or SentencePiece",
            next_step=ULD,
        )
    cut = tuple(_pieces(backend, f"a{c}a")[:2] == ["a", c] for c in (",", "中"))
    return WordMarking("word", inside or "", cut=(cut[0], cut[1]))


def list_canonical_tokens(tokenizer: Tokenizer) -> CanonicalVocabulary:
    """Compute the key of each token of a vocabulary.

    Raises:
        ModelError: As `detect_marking`.
    """
    backend, marks = find_backend(tokenizer), detect_marking(tokenizer)
    added = backend.get_added_tokens_decoder()
    special = set(getattr(tokenizer, "all_special_ids", ())) | {i for i, t in added.items() if t.special}
    by_bytes = bool(getattr(backend.model, "byte_fallback", False))
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    tokens: list[tuple[int, bytes, str]] = []
    single_bytes: list[tuple[int, bytes, str]] = []
    for i, spelling in sorted({i: token for token, i in vocabulary.items()}.items()):
        if i in special:
            tokens.append((i, SPECIAL + _utf8(spelling), spelling))
        elif i in added:
            tokens.append((i, _key_of_added(_utf8(spelling)), spelling))
        elif by_bytes and (byte := _BYTE_TOKEN.fullmatch(spelling)):
            single_bytes.append((i, WITHIN + bytes.fromhex(byte[1]), spelling))
        else:
            tokens.append((i, _key(spelling, marks), spelling))
    tokens += single_bytes
    ids = [i for i, _, _ in tokens]
    keys, spellings = [key for _, key, _ in tokens], [spelling for _, _, spelling in tokens]
    return CanonicalVocabulary(ids, keys, spellings, max(ids, default=-1) + 1, marks)


def find_comparable_offsets(
    text: str, offsets_N: NDArray[np.int64], teacher: WordMarking, student: WordMarking
) -> NDArray[np.bool_]:
    """Find the offsets at which "a word begins here" means the same to both tokenizers.

    At the beginning of a text one tokenizer says ``The`` and another ``▁The``. After an opening bracket WordPiece
    begins a word where byte-level BPE has no blank. There one string is not the same token to both, and a teacher would
    give its probability to pieces that the student cannot use.

    Args:
        text: The text.
        offsets_N: Offsets of N tokens in it, in characters; `NOWHERE` for a token without one.
        teacher: How the teacher's tokenizer marks words.
        student: How the student's does.

    Returns:
        bool ``[N]``; False for `NOWHERE`, True for the text's end.
    """
    offsets_N = np.asarray(offsets_N, dtype=np.int64)
    fine_N = offsets_N > NOWHERE
    begin_N = offsets_N == 0
    if teacher.style == student.style:
        return fine_N & ~begin_N if teacher.first != student.first else fine_N
    blanks, words = (teacher, student) if teacher.style == "blank" else (student, teacher)
    if not text:
        return fine_N
    inner = np.asarray([not words.stands_alone(c) for c in text]) | is_blank(text)
    after_N = inner[np.clip(offsets_N, 1, len(text)) - 1]
    same_N: NDArray[np.bool_] = np.where(begin_N, blanks.first, after_N) | (offsets_N == len(text))
    return fine_N & same_N


def find_backend(tokenizer: Tokenizer) -> RustTokenizer:
    """Return the tokenizer's Rust form, or a `PieceTokenizer`'s stand-in for it.

    Raises:
        ModelError: It has none.
    """
    backend: RustTokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            "this tokenizer has no vocabulary to compare",
            got=type(tokenizer).__name__,
            wanted="a fast tokenizer",
            next_step=ULD,
        )
    return backend


def _pieces(backend: RustTokenizer, text: str) -> list[str]:
    """Return the words that a tokenizer's model gets to cut."""
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    if backend.pre_tokenizer is None:
        return [text]
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def _key(token: str, marks: WordMarking) -> bytes:
    """Return the key of an ordinary token."""
    marker = marks.marker
    if marks.style == "word":
        inside = bool(marker) and token.startswith(marker) and token != marker
        text = token[len(marker) :] if inside else token
        if len(text) == 1 and marks.stands_alone(text):
            return (DEAD if inside else WITHIN) + _utf8(text)
        return (WITHIN if inside else BEGINS) + _utf8(text)
    where, text = (BEGINS, token[1:]) if token.startswith(marker) else (WITHIN, token)
    if marker != "Ġ":
        return where + _utf8(text.replace(marker, " "))
    if text.isascii():
        return where + text.encode()
    try:
        return where + text.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:  # it is not written in the byte alphabet
        return where + _utf8(text)


def spell_key(key: bytes, marks: WordMarking) -> str | None:
    """Return how a tokenizer that marks blanks spells a canonical key of text; None where it has no such string."""
    text = key[1:]
    if marks.marker == "Ġ":
        spelling = "".join(_CHARACTERS[byte] for byte in text)
    else:
        try:
            spelling = text.decode().replace(" ", marks.marker)
        except UnicodeDecodeError:
            return None
    return marks.marker + spelling if key[:1] == BEGINS else spelling


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _key_of_added(text: bytes) -> bytes:
    """Return the key of a token that was added to the vocabulary, which is spelt with blanks as in the text."""
    return BEGINS + text[1:] if text.startswith(b" ") else WITHIN + text


def toggle_blank(key: bytes, words: WordMarking) -> bytes:
    """Return the key of the same single character with or without a blank before it.

    Args:
        key: A token's key.
        words: The marking of the tokenizer that cuts such characters out.

    Returns:
        The other key; b"" if the token is something else.
    """
    if len(key) > 5 or key[:1] not in (BEGINS, WITHIN):
        return b""
    text = key[1:].decode("utf-8", "replace")
    if len(text) != 1 or not words.stands_alone(text):
        return b""
    return (WITHIN if key[:1] == BEGINS else BEGINS) + key[1:]


def _is_punctuation(character: str) -> bool:
    """Return whether BERT's pre-tokenizer cuts a character out: printable ASCII signs, and Unicode's class P."""
    code = ord(character)
    if code < 128:
        return 33 <= code <= 126 and not character.isalnum()
    return unicodedata.category(character).startswith("P")


def _byte_alphabet() -> dict[int, int]:
    """Return the bytes by the code points of the characters that stand for them in byte-level BPE, as in GPT-2."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in set(plain)]
    return {b: b for b in plain} | {256 + n: b for n, b in enumerate(others)}


_BYTES = _byte_alphabet()
_CHARACTERS = {byte: chr(point) for point, byte in _BYTES.items()}
