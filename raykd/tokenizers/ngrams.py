"""`HashedNgrams`: a tokenizer without a vocabulary, for the linear student.

Decision record: n-grams of characters and words are hashed into a fixed number of buckets (feature hashing,
arXiv:0902.2206; sub-word n-grams as in arXiv:1607.04606). So nothing is fitted, no text is out of vocabulary, and one
table serves all languages. Python's `hash` differs between processes; this hash is arithmetic modulo 2**64 on code
points and gives the same ids on every machine.

numpy hashes all n-grams of a batch at once. With the prefix sums ``S[i] = sum(c[j] * BASE**j for j < i)`` the hash of
the text from s to e is ``(S[e] - S[s]) * BASE**-s = sum(c[s + k] * BASE**k)``, for characters and for words of any
length.

Words are those of BERT's pre-tokenizer: runs of letters and digits, single punctuation marks, single Chinese
characters. Character n-grams stay between two blanks and include these blanks.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ModelError

FILE = "hashed_ngrams.json"
FORMAT = 1
CHARS_PER_WORD = 16
"""A text is cut after this many characters per word of `max_length`, which bounds texts without blanks."""

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+|[^\w\s]")
_BASE = 0x9E3779B97F4A7C15
_BASE_INVERSE = pow(_BASE, -1, 2**64)
_WORD_STEP = 0xD1342543DE82EF95
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class HashedNgrams:
    """Turns texts into sorted bucket numbers; bucket 0 is padding.

    Args:
        buckets: Ids are 1 to buckets - 1.
        char_ngrams: Shortest and longest n-gram of characters; None takes none.
        word_ngrams: Shortest and longest n-gram of words; None takes none.
        lowercase: Whether to lowercase texts before hashing; all texts are normalised (NFKC).
        counted: Whether an n-gram that occurs twice gives its id twice.

    Raises:
        ValueError: A range is empty or not positive, or there are no n-grams at all.
    """

    buckets: int = 2**18
    char_ngrams: tuple[int, int] | None = (1, 4)
    word_ngrams: tuple[int, int] | None = (1, 2)
    lowercase: bool = True
    counted: bool = False

    model_input_names: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")

    def __post_init__(self) -> None:
        if self.char_ngrams is None and self.word_ngrams is None:
            raise ValueError("char_ngrams and word_ngrams are both null: there is nothing to hash")
        for name in ("char_ngrams", "word_ngrams"):
            bounds = getattr(self, name)
            if bounds is not None and not 1 <= bounds[0] <= bounds[1] <= 16:
                raise ValueError(
                    f"{name} is [shortest, longest] with 1 <= shortest <= longest <= 16, got {list(bounds)}"
                )

    def __len__(self) -> int:
        return self.buckets

    @property
    def pad_token_id(self) -> int:
        """The bucket of padding, which no n-gram gets."""
        return 0

    def __call__(
        self,
        text: Sequence[str],
        text_pair: Sequence[str] | None = None,
        *,
        truncation: bool = True,
        max_length: int | None = None,
    ) -> EncodedNgrams:
        """Encode B texts or pairs.

        Args:
            text: The texts, or the first texts of pairs.
            text_pair: The second texts; their n-grams are hashed with another salt.
            truncation: Whether to cut texts at `max_length`, the longer text of a pair first, as in transformers.
            max_length: In *words*, not n-grams. A word is at least one token of any sub-word tokenizer, so nothing is
                cut that a sub-word model with the same number would read.

        Returns:
            Sorted ids and masks (all ones), one array per text, not padded; and which texts were cut.
        """
        if text_pair is not None and len(text_pair) != len(text):
            raise ValueError(f"{len(text)} texts and {len(text_pair)} second texts")
        limit = max_length if truncation else None
        rows: list[NDArray[np.int64]] = []
        long: list[bool] = []
        for at in range(0, len(text), _ROWS_AT_ONCE):
            firsts = [self._words(t, limit) for t in text[at : at + _ROWS_AT_ONCE]]
            parts = [firsts]
            if text_pair is not None:
                seconds = [self._words(t, limit) for t in text_pair[at : at + _ROWS_AT_ONCE]]
                parts = list(_share(firsts, seconds, limit))
            rows.extend(self._rows(parts))
            long.extend(any(words.is_cut for words in row) for row in zip(*parts, strict=True))
        fields = {"input_ids": rows, "attention_mask": [np.ones_like(row) for row in rows]}
        return EncodedNgrams(fields, np.asarray(long, dtype=bool))

    def encode_words(
        self, rows: Sequence[Sequence[str]], max_length: int
    ) -> tuple[Mapping[str, list[NDArray[np.int64]]], NDArray[np.int64], NDArray[np.bool_]]:
        """Encode B rows of words, each word by itself, for a model that labels words.

        Args:
            rows: The words.
            max_length: Words of a row at most.

        Returns:
            Ids and masks of each row: per word a 0, at which it is read, and the ids of its n-grams; for all words of
            all rows, in order, the index of that 0 in the row, -1 where the word is cut off; which rows were cut.
        """
        kept = [list(row[:max_length]) for row in rows]
        counts_B = np.asarray([len(row) for row in kept], dtype=np.int64)
        # A word is encoded once, however often it comes: half of the words of 256 sentences come again.
        places: dict[str, int] = {}
        word_N = np.asarray([places.setdefault(w, len(places)) for row in kept for w in row], dtype=np.int64)
        own = self(list(places), truncation=False)["input_ids"]
        zero = np.zeros(1, dtype=np.int64)
        flat = np.concatenate([zero, *(part for word in own for part in (zero, word))])[1:]
        lengths_U = np.asarray([1 + len(word) for word in own], dtype=np.int64)
        lengths_N, edges_N = lengths_U[word_N], np.cumsum(lengths_U[word_N])
        begins_N = edges_N - lengths_N
        shift_N = (np.cumsum(lengths_U) - lengths_U)[word_N] - begins_N
        ids = flat[np.repeat(shift_N, lengths_N) + np.arange(lengths_N.sum())]
        starts_B1 = np.concatenate([zero, np.cumsum(counts_B)])
        row_edges = np.concatenate([zero, edges_N])[starts_B1]
        first_N = begins_N - np.repeat(row_edges[:-1], counts_B)
        cut_B = np.asarray([len(row) for row in rows], dtype=np.int64) - counts_B
        fields = {"input_ids": np.split(ids, row_edges[1:-1]) if rows else []}
        fields["attention_mask"] = [np.ones_like(row) for row in fields["input_ids"]]
        places_N = np.insert(first_N, np.repeat(starts_B1[1:], cut_B), -1)
        return fields, places_N, cut_B > 0

    def _words(self, text: str, limit: int | None) -> _Words:
        """Normalise a text and find its words."""
        text = " ".join(text.split())
        is_cut = False
        if limit is not None:
            # To keep 128 words of a megabyte it need not be normalised whole. Normalising may shorten a text, so this
            # leaves four times as much as the cut below.
            is_cut = len(text) > 4 * CHARS_PER_WORD * limit
            text = text[: 4 * CHARS_PER_WORD * limit]
        text = unicodedata.normalize("NFKC", text)
        text = " ".join((text.lower() if self.lowercase else text).split())
        if limit is not None:
            is_cut = is_cut or len(text) > CHARS_PER_WORD * limit
            text = text[: CHARS_PER_WORD * limit]
        text = f" {text} "
        spans = [m.span() for m in _WORD.finditer(text)]
        return _Words(text, spans, is_cut).first(limit)

    def _rows(self, parts: Sequence[Sequence[_Words]]) -> list[NDArray[np.int64]]:
        """Return the sorted ids of each row; `parts` are the first texts and perhaps the second ones."""
        keys = []
        for salt, words in enumerate(parts):
            batch = _Batch.of(words)
            if self.char_ngrams is not None:
                keys += [self._keys(*batch.chars(n), salt=(salt, 0, n)) for n in _lengths(self.char_ngrams)]
            if self.word_ngrams is not None:
                keys += [self._keys(*batch.words(n), salt=(salt, 1, n)) for n in _lengths(self.word_ngrams)]
        # The row is the high part of a key, so one sort orders all rows at once.
        flat = np.sort(np.concatenate(keys))
        if not self.counted:
            # What `np.unique` gives, which hashes first and takes 30 times as long.
            flat = flat[np.diff(flat, prepend=-1) > 0]
        edges = np.searchsorted(flat, np.arange(1, len(parts[0])) * self.buckets)
        return [row % self.buckets for row in np.split(flat, edges)]

    def _keys(
        self, row_G: NDArray[np.int64], hash_G: NDArray[np.uint64], *, salt: tuple[int, int, int]
    ) -> NDArray[np.int64]:
        """Return ``row * buckets + id`` of G n-grams; the salt keeps kinds, lengths and the two texts apart."""
        part, kind, n = salt
        mixed_G = _finalise_hash(
            hash_G ^ _finalise_hash(np.array([(part << 16) | (kind << 8) | n], dtype=np.uint64))
        )
        id_G = 1 + (mixed_G % np.uint64(self.buckets - 1)).astype(np.int64)
        key_G: NDArray[np.int64] = row_G * self.buckets + id_G
        return key_G

    def save_pretrained(self, save_directory: str) -> tuple[str]:
        """Write `hashed_ngrams.json` into the directory, which is made if need be."""
        path = Path(save_directory) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n", encoding="utf-8")
        return (str(path),)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> HashedNgrams:
        """Read what `save_pretrained` wrote.

        Raises:
            ModelError: The file is missing, no JSON, of another format or with unknown settings.
        """
        path = Path(directory) / FILE
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            found = settings.pop("format")
            if found != FORMAT:
                raise ValueError(f"format {found}")
            for name in ("char_ngrams", "word_ngrams"):
                if settings[name] is not None:
                    shortest, longest = settings[name]
                    settings[name] = (int(shortest), int(longest))
            return cls(**settings)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ModelError(
                f"the tokenizer {path} cannot be read", got=error, wanted=f"a {FILE} of format {FORMAT}"
            ) from None


class EncodedNgrams(dict[str, list[NDArray[np.int64]]]):
    """Texts as `HashedNgrams` encodes them.

    Args:
        fields: ``input_ids`` and ``attention_mask``.
        long_B: Which texts were cut.
    """

    def __init__(self, fields: Mapping[str, list[NDArray[np.int64]]], long_B: NDArray[np.bool_]) -> None:
        super().__init__(fields)
        self.long_B = long_B


@dataclass(frozen=True)
class _Words:
    """A normalised text with a blank at both ends, the spans of its words, and whether some of it was left out."""

    text: str
    spans: Sequence[tuple[int, int]]
    is_cut: bool

    def first(self, count: int | None) -> _Words:
        """Return the text with its first `count` words."""
        if count is None or len(self.spans) <= count:
            return self
        kept = self.spans[:count]
        return _Words(f"{self.text[: kept[-1][1] if kept else 0]} ", kept, is_cut=True)


@dataclass(frozen=True)
class _Batch:
    """R texts, joined to one of N characters with W words.

    Attributes:
        inverse: ``BASE**-i`` for each place, ``[N + 1]``.
        sums: Prefix sums of the hash, ``[N + 1]``.
        blanks: How many blanks come before each place, ``[N + 1]``.
        row: The text of each character, ``[N]``.
        starts_W: Where each word begins.
        ends_W: Where each word ends.
    """

    inverse: NDArray[np.uint64]
    sums: NDArray[np.uint64]
    blanks: NDArray[np.int64]
    row: NDArray[np.int64]
    starts_W: NDArray[np.int64]
    ends_W: NDArray[np.int64]

    @classmethod
    def of(cls, words: Sequence[_Words]) -> _Batch:
        lengths_R = np.asarray([len(w.text) for w in words], dtype=np.int64)
        offsets_R = np.cumsum(lengths_R) - lengths_R
        raw = "".join(w.text for w in words).encode("utf-32-le", "surrogatepass")
        points = np.frombuffer(raw, dtype="<u4").astype(np.uint64)
        counts_R = np.asarray([len(w.spans) for w in words], dtype=np.int64)
        spans = np.asarray([span for w in words for span in w.spans], dtype=np.int64).reshape(-1, 2)
        spans = spans + np.repeat(offsets_R, counts_R)[:, None]
        return cls(
            inverse=_powers(_BASE_INVERSE, len(points) + 1),
            sums=np.concatenate([np.zeros(1, np.uint64), np.cumsum(points * _powers(_BASE, len(points)))]),
            blanks=np.concatenate([np.zeros(1, np.int64), np.cumsum(points == ord(" "))]),
            row=np.repeat(np.arange(len(words)), lengths_R),
            starts_W=spans[:, 0],
            ends_W=spans[:, 1],
        )

    def hashes(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return ``sum(c[s + k] * BASE**k)`` from each start to its end."""
        return (self.sums[ends] - self.sums[starts]) * self.inverse[starts]

    def chars(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Return rows and hashes of the n-grams of characters that have blanks at their edges only."""
        starts = np.arange(max(0, len(self.row) - n + 1))
        ends = starts + n
        inner = self.blanks[np.maximum(ends - 1, starts + 1)] - self.blanks[starts + 1]
        all_blank = self.blanks[ends] - self.blanks[starts] == n
        # Each text begins and ends with a blank, so an n-gram that reaches into the next text has an inner blank, or
        # consists of two blanks.
        starts = starts[(inner == 0) & ~all_blank]
        return self.row[starts], self.hashes(starts, starts + n)

    def words(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Return rows and hashes of n words in a row: ``(h1 * STEP + h2) * STEP + ...`` of the mixed word hashes."""
        count = max(0, len(self.starts_W) - n + 1)
        hash_W = _finalise_hash(self.hashes(self.starts_W, self.ends_W))
        joined = hash_W[:count]
        for k in range(1, n):
            joined = joined * np.uint64(_WORD_STEP) + hash_W[k : k + count]
        row_W = self.row[self.starts_W]
        same = row_W[:count] == row_W[n - 1 : n - 1 + count]
        return row_W[:count][same], joined[same]


def _share(
    firsts: Sequence[_Words], seconds: Sequence[_Words], limit: int | None
) -> tuple[list[_Words], list[_Words]]:
    """Cut both texts of each pair to `limit` words together, the longer one first."""
    kept_first, kept_second = [], []
    for first, second in zip(firsts, seconds, strict=True):
        a, b = len(first.spans), len(second.spans)
        if limit is not None and a + b > limit:
            short = min(a, b, limit // 2)
            a, b = (limit - short, short) if a >= b else (short, limit - short)
        kept_first.append(first.first(a))
        kept_second.append(second.first(b))
    return kept_first, kept_second


def _lengths(bounds: tuple[int, int]) -> range:
    return range(bounds[0], bounds[1] + 1)


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    """Return ``base ** i`` modulo 2**64 for i < count."""
    factors = np.full(count, base, dtype=np.uint64)
    if count:
        factors[0] = 1
    return np.cumprod(factors)


def _finalise_hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finaliser of splitmix64, by which every bit of the input reaches every bit of the output."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
