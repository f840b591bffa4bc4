"""What a token says: where it stands and which text it is, in a form that all tokenizers share.

Decision record: a token's spelling proves nothing. `the`, `Ġthe` and `▁the` may be one string and `the` may be
three. So each token gets a canonical key, one byte that says where it stands and the text's bytes:

* `BEGINS`: a blank comes before it (`Ġthe`, `▁the`) or a word begins with it (WordPiece's `the`).
* `WITHIN`: it follows directly (`the` of byte-level BPE, `##the`). WordPiece's punctuation and Chinese
  characters, which its pre-tokenizer cuts out, too: whether a blank comes before them is not known.
* `DEAD`: `##,` where the pre-tokenizer cuts punctuation out, which no text ever gives.
* `SPECIAL`: never equal to a text that reads like it.

How a tokenizer marks words is found by trying its normaliser and pre-tokenizer, not by its class. Upper and
lower case are different strings.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ModelError
from raykd.text.alignment import NOWHERE, is_blank

if TYPE_CHECKING:
    from raykd.text.tokens import Tokenizer

BEGINS, WITHIN, DEAD, SPECIAL = b"\x01", b"\x00", b"\x02", b"\x03"
ULD = "use sorted probabilities (uld), which need no common strings"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class WordMarking:
    """How a tokenizer marks words. Written by `marking`, read by `list_canonical_tokens` and `find_comparable_offsets`.

    style: ``blank``: a token says that a blank comes before it; ``word``: that it continues a word.
    marker: ``Ġ``, ``▁`` or the blank itself of the first style, ``##`` of the second.
    first: whether a text's first word is marked as if a blank came before it (``blank`` only).
    cut: which characters always are a token of their own (``word`` only): punctuation, Chinese.
    """

    style: Literal["blank", "word"]
    marker: str
    first: bool = True
    cut: tuple[bool, bool] = (False, False)

    def stands_alone(self, character: str) -> bool:
        """Whether this character is never in one token with its neighbours."""
        return (self.cut[0] and _is_punctuation(character)) or (
            self.cut[1] and _HAN.match(character) is not None
        )


@dataclass(frozen=True)
class CanonicalVocabulary:
    """The tokens of a vocabulary. Written by `list_canonical_tokens`, read by `raykd.models.vocabulary.overlap` and
    unions.

    ids: without gaps in the vocabulary. In this order tokens of one key are preferred: by number, but tokens
        that spell a single byte (``<0x41>``) come after all others.
    keys, tokens: key and spelling of each of these ids.
    size: the highest id plus 1.
    """

    ids: list[int]
    keys: list[bytes]
    tokens: list[str]
    size: int
    marking: WordMarking

    def by_id(self) -> dict[int, bytes]:
        """The key of each id."""
        return dict(zip(self.ids, self.keys, strict=True))


def marking(tokenizer: Any) -> WordMarking:
    """Found by what normaliser and pre-tokenizer make of a few letters.

    Raises:
        ModelError: a tokenizer that marks words in no known way.
    """
    backend = find_backend(tokenizer)
    kind = type(backend.model).__name__
    inside = getattr(backend.model, "continuing_subword_prefix", None)
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


def list_canonical_tokens(tokenizer: Any) -> CanonicalVocabulary:
    """The key of each token of a vocabulary; see the module's docstring.

    Raises:
        ModelError: as `marking`.
    """
    backend, marks = find_backend(tokenizer), marking(tokenizer)
    added = backend.get_added_tokens_decoder()
    special = set(getattr(tokenizer, "all_special_ids", ())) | {i for i, t in added.items() if t.special}
    by_bytes = bool(getattr(backend.model, "byte_fallback", False))
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    size = max(vocabulary.values(), default=-1) + 1
    at: list[str | None] = [None] * size
    for token, i in vocabulary.items():
        at[i] = token
    ids, keys, tokens = [], [], []
    spelt: list[tuple[int, bytes, str]] = []
    for i, spelling in enumerate(at):
        if spelling is None:
            continue
        if i in special:
            key = SPECIAL + _utf8(spelling)
        elif i in added:
            key = _after_blank(_utf8(spelling))
        elif by_bytes and (byte := _BYTE_TOKEN.fullmatch(spelling)):
            spelt.append((i, WITHIN + bytes.fromhex(byte[1]), spelling))
            continue
        else:
            key = _key(spelling, marks)
        ids.append(i)
        keys.append(key)
        tokens.append(spelling)
    for i, key, spelling in spelt:
        ids.append(i)
        keys.append(key)
        tokens.append(spelling)
    return CanonicalVocabulary(ids, keys, tokens, size, marks)


def find_comparable_offsets(
    text: str, offsets_N: NDArray[np.int64], teacher: WordMarking, student: WordMarking
) -> NDArray[np.bool_]:
    """At which offsets "a word begins here" means the same to both; ``[N]``, false for `NOWHERE`.

    At a text's beginning one tokenizer says ``The`` and another ``▁The``; after an opening bracket WordPiece
    begins a word where byte-level BPE has no blank. The same string is then not the same token, and a
    teacher's mass would be given to pieces that the student must not use there. The text's end is the same to
    all.
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


def find_backend(tokenizer: Tokenizer) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            "this tokenizer has no vocabulary to compare",
            got=type(tokenizer).__name__,
            wanted="a fast tokenizer",
            next_step=ULD,
        )
    return backend


def _pieces(backend: Any, text: str) -> list[str]:
    """What the model of a tokenizer gets to cut."""
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    if backend.pre_tokenizer is None:
        return [text]
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def _key(token: str, marks: WordMarking) -> bytes:
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
    except UnicodeEncodeError:  # no token of the byte alphabet
        return where + _utf8(text)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _after_blank(text: bytes) -> bytes:
    return BEGINS + text[1:] if text.startswith(b" ") else WITHIN + text


def toggle_blank(key: bytes, words: WordMarking) -> bytes:
    """The key of the same sign with or without a blank before it; of all else a key that matches nothing."""
    if len(key) > 5 or key[:1] not in (BEGINS, WITHIN):
        return b""
    text = key[1:].decode("utf-8", "replace")
    if len(text) != 1 or not words.stands_alone(text):
        return b""
    return (WITHIN if key[:1] == BEGINS else BEGINS) + key[1:]


def _is_punctuation(character: str) -> bool:
    """As BERT's pre-tokenizer sees it: all of ASCII that is no letter, digit or blank, and Unicode's P."""
    code = ord(character)
    if code < 128:
        return 33 <= code <= 126 and not character.isalnum()
    return unicodedata.category(character).startswith("P")


def _byte_alphabet() -> dict[int, int]:
    """The characters by which byte-level BPE writes the 256 bytes, as GPT-2 numbered them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in set(plain)]
    return {b: b for b in plain} | {256 + n: b for n, b in enumerate(others)}


_BYTES = _byte_alphabet()
