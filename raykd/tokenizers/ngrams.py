"""`HashedNgrams`: a tokenizer without a vocabulary, for the linear student.

Decision record: n-grams of characters and words are hashed into a fixed number of buckets (feature hashing,
arXiv:0902.2206; sub-word n-grams as in arXiv:1607.04606). So nothing is fitted, no text is out of vocabulary, and one
table serves all languages. Python's `hash` differs between processes; this hash is arithmetic modulo 2**64 on code
points and gives the same ids on every machine.

NumPy hashes all n-grams of some hundred texts at once (`raykd.tokenizers.ngram_batch`).

Words are those of BERT's pre-tokenizer: runs of letters and digits, single punctuation marks, single Chinese
characters. Character n-grams stay between two blanks and include these blanks.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ModelError
from raykd.text.ragged import Ragged
from raykd.tokenizers.ngram_batch import NgramBatch, mix

FILE = "hashed_ngrams.json"
FORMAT = 1
CHARS_PER_WORD = 16
"""A text is cut after this many characters per word of `max_length`, which bounds texts without blanks."""
_LOWER = 2
"""A character becomes so many in lower case at most."""

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
        blocks = range(0, len(text), _ROWS_AT_ONCE)
        parts = [
            self._encode(
                [side[at : at + _ROWS_AT_ONCE] for side in (text, text_pair) if side is not None], limit
            )
            for at in blocks
        ]
        values = np.concatenate([np.zeros(0, dtype=np.int64), *(part.values for part, _ in parts)])
        starts = np.concatenate([[0], *(part.counts_S for part, _ in parts)]).astype(np.int64).cumsum()
        long_B = np.concatenate([np.zeros(0, dtype=bool), *(long_R for _, long_R in parts)])
        fields = {"input_ids": Ragged(values, starts), "attention_mask": Ragged(np.ones_like(values), starts)}
        return EncodedNgrams(fields, long_B)

    def encode_words(
        self, rows: Sequence[Sequence[str]], max_length: int
    ) -> tuple[Mapping[str, Ragged], NDArray[np.int64], NDArray[np.bool_]]:
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
        flat = np.insert(own.values, own.starts_S1[:-1], 0)
        lengths_U = 1 + own.counts_S
        lengths_N, edges_N = lengths_U[word_N], np.cumsum(lengths_U[word_N])
        begins_N = edges_N - lengths_N
        shift_N = (np.cumsum(lengths_U) - lengths_U)[word_N] - begins_N
        ids = flat[np.repeat(shift_N, lengths_N) + np.arange(lengths_N.sum())]
        starts_B1 = np.concatenate([zero, np.cumsum(counts_B)])
        row_edges = np.concatenate([zero, edges_N])[starts_B1]
        first_N = begins_N - np.repeat(row_edges[:-1], counts_B)
        cut_B = np.asarray([len(row) for row in rows], dtype=np.int64) - counts_B
        fields = {"input_ids": Ragged(ids, row_edges), "attention_mask": Ragged(np.ones_like(ids), row_edges)}
        places_N = np.insert(first_N, np.repeat(starts_B1[1:], cut_B), -1)
        return fields, places_N, cut_B > 0

    def _encode(self, sides: Sequence[Sequence[str]], limit: int | None) -> tuple[Ragged, NDArray[np.bool_]]:
        """Return the sorted ids of some texts or pairs, and which rows were cut.

        Args:
            sides: The first texts, and perhaps the second ones.
            limit: Words of a row at most.
        """
        rows = len(sides[0])
        long_R = np.zeros(rows, dtype=bool)
        batches = []
        for texts in sides:
            own, is_cut = self._normalise(texts, limit)
            long_R |= is_cut
            batches.append(NgramBatch.of(own, lowercase=self.lowercase))
        if limit is not None:
            limits = _share([batch.counts_R for batch in batches], limit)
            long_R |= np.any(
                [batch.counts_R > most for batch, most in zip(batches, limits, strict=True)], axis=0
            )
            batches = [batch.cut(most) for batch, most in zip(batches, limits, strict=True)]
        found_rows, found_hashes = [], []
        for part, batch in enumerate(batches):
            for kind, bounds, find in (
                (0, self.char_ngrams, batch.hash_chars),
                (1, self.word_ngrams, batch.hash_words),
            ):
                for n, (row_G, hash_G) in enumerate(find(*bounds), bounds[0]) if bounds else ():
                    found_rows.append(row_G)
                    # The salt keeps kinds, lengths and the two texts apart.
                    salt = _mix_salt((part << 16) | (kind << 8) | n)
                    found_hashes.append(np.bitwise_xor(hash_G, salt, out=hash_G))
        # Of half the size where they fit, since nothing but memory takes time here.
        size: type[np.signedinteger[Any]] = np.int32 if rows * self.buckets < 2**31 else np.int64
        keys: NDArray[np.signedinteger[Any]] = self._find_buckets(np.concatenate(found_hashes)).astype(size)
        keys += np.concatenate(found_rows).astype(size) * size(self.buckets)
        # The row is the high part of a key, so one sort orders all rows at once.
        keys.sort()
        if not self.counted:
            # What `np.unique` gives, which hashes first and takes 30 times as long.
            new = np.ones(len(keys), dtype=bool)
            np.not_equal(keys[1:], keys[:-1], out=new[1:])
            keys = keys[new]
        begins_R1 = np.arange(rows + 1) * self.buckets
        starts_R1 = np.searchsorted(keys, begins_R1.astype(size))
        ids: NDArray[np.int64] = keys - np.repeat(begins_R1[:-1], np.diff(starts_R1))
        return Ragged(ids, starts_R1), long_R

    def _normalise(self, texts: Sequence[str], limit: int | None) -> tuple[list[str], NDArray[np.bool_]]:
        """Return texts in NFKC, cut where they are far too long for their words, and which were cut."""
        most = CHARS_PER_WORD * limit if limit is not None else max(map(len, texts), default=0)
        normal = [unicodedata.normalize("NFKC", text) if len(text) <= most else "" for text in texts]
        cut_R = np.zeros(len(texts), dtype=bool)
        if limit is not None:
            for at, text in enumerate(texts):
                if len(text) > most or _LOWER * len(normal[at]) > most:
                    normal[at], cut_R[at] = self._shorten(text, most)
        return normal, cut_R

    def _shorten(self, text: str, most: int) -> tuple[str, bool]:
        """Return the first characters of a long text in NFKC, and whether it has more."""
        # To keep 128 words of a megabyte it need not be normalised whole. Normalising may shorten a text, so this
        # leaves four times as much as the cut below.
        text = " ".join(text.split())
        is_cut = len(text) > 4 * most
        text = unicodedata.normalize("NFKC", text[: 4 * most])
        text = " ".join((text.lower() if self.lowercase else text).split())
        return text[:most], is_cut or len(text) > most

    def _find_buckets(self, hash_G: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Return the id of each n-gram, in the place of its hash."""
        mixed_G = mix(hash_G)
        # A division by one number is fast in NumPy, a remainder is not.
        whole_G = mixed_G // np.uint64(self.buckets - 1)
        whole_G *= np.uint64(self.buckets - 1)
        mixed_G -= whole_G
        mixed_G += np.uint64(1)
        return mixed_G

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


class EncodedNgrams(dict[str, Ragged]):
    """Texts as `HashedNgrams` encodes them.

    Args:
        fields: ``input_ids`` and ``attention_mask``.
        long_B: Which texts were cut.
    """

    def __init__(self, fields: Mapping[str, Ragged], long_B: NDArray[np.bool_]) -> None:
        super().__init__(fields)
        self.long_B = long_B


@lru_cache(maxsize=256)
def _mix_salt(salt: int) -> np.uint64:
    return np.uint64(mix(np.array([salt], dtype=np.uint64))[0])


def _share(counts: Sequence[NDArray[np.int64]], limit: int) -> list[NDArray[np.int64]]:
    """Return how many words of each text are kept, `limit` of a row together, the longer text of a pair cut first."""
    if len(counts) == 1:
        return [np.full_like(counts[0], limit)]
    first_R, second_R = counts
    short_R = np.minimum(np.minimum(first_R, second_R), limit // 2)
    long_R = limit - short_R
    cut_R = first_R + second_R > limit
    first_longer_R = first_R >= second_R
    return [
        np.where(cut_R, np.where(first_longer_R, long_R, short_R), first_R),
        np.where(cut_R, np.where(first_longer_R, short_R, long_R), second_R),
    ]
