"""`NgramBatch`: the words and n-grams of many texts at once, in NumPy, and their hashes.

Decision record: a linear student is so small that Python's share of reading a text decides its speed, so nothing here
loops over texts. The texts stand in one array of code points, a line break before each and one at the end. Every kind
of whitespace is made a blank there and none is removed: an n-gram has blanks at its edges only, so that further blanks
change nothing, and a text is cut by writing blanks over its end.

With the prefix sums ``S[i] = sum(c[j] * BASE**j for j < i)`` the hash of the text from s to e is
``(S[e] - S[s]) * BASE**-s = sum(c[s + k] * BASE**k)``, for characters and for words of any length.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

_BASE = 0x9E3779B97F4A7C15
_BASE_INVERSE = pow(_BASE, -1, 2**64)
_WORD_STEP = 0xD1342543DE82EF95

_SPACE, _LETTER, _ALONE, _UNSEEN = range(4)
"""What a character is to words: between them, part of a run, a word by itself; and not looked at yet."""
_KINDS = re.compile(r"(\s)|[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]|(\w)")
_kind_of = np.full(0x110000, _UNSEEN, dtype=np.uint8)
_BREAK = ord("\n")


@dataclass(frozen=True)
class NgramBatch:
    """R texts as N characters with W words.

    Attributes:
        points_N: Code points.
        blank_N: Whether a character is a blank.
        row_N: The text of each character, of which the line break before it is the first; R for the last line break.
        starts_W: Where each word begins.
        ends_W: Where each word ends.
        counts_R: Words of each text.
    """

    points_N: NDArray[np.uint32]
    blank_N: NDArray[np.bool_]
    row_N: NDArray[np.int64]
    starts_W: NDArray[np.int64]
    ends_W: NDArray[np.int64]
    counts_R: NDArray[np.int64]

    @staticmethod
    def of(texts: Sequence[str], *, lowercase: bool) -> NgramBatch:
        """Find the words of normalised texts."""
        joined = "\n".join(texts)
        if joined.count("\n") >= max(1, len(texts)):
            joined = "\n".join(text.replace("\n", " ") for text in texts)
        # A line break takes no part in what `lower` does: a sigma before it is the last of its word, as at the end.
        joined = f"\n{joined.lower() if lowercase else joined}\n"
        points_N = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint32)
        kind_N = _find_kinds(points_N)
        row_N = np.cumsum(points_N == _BREAK) - 1
        letter_N, alone_N = kind_N == _LETTER, kind_N == _ALONE
        begins_N = alone_N.copy()
        begins_N[1:] |= letter_N[1:] & ~letter_N[:-1]
        finishes_N = alone_N
        finishes_N[:-1] |= letter_N[:-1] & ~letter_N[1:]
        starts_W = np.flatnonzero(begins_N)
        blank_N = kind_N == _SPACE
        return NgramBatch(
            points_N=np.where(blank_N, np.uint32(ord(" ")), points_N),
            blank_N=blank_N,
            row_N=row_N,
            starts_W=starts_W,
            ends_W=np.flatnonzero(finishes_N) + 1,
            counts_R=np.bincount(row_N[starts_W], minlength=len(texts)),
        )

    def cut(self, limit_R: NDArray[np.int64]) -> NgramBatch:
        """Return the texts with the first words of each, `limit_R` at most."""
        cut_R = self.counts_R > limit_R
        if not cut_R.any():
            return self
        row_W = self.row_N[self.starts_W]
        first_R = np.cumsum(self.counts_R) - self.counts_R
        kept_W = np.arange(len(row_W)) - first_R[row_W] < limit_R[row_W]
        end_R = np.zeros(len(cut_R) + 1, dtype=np.int64)
        np.maximum.at(end_R, row_W[kept_W], self.ends_W[kept_W])
        lost_N = np.append(cut_R, False)[self.row_N] & (np.arange(len(self.row_N)) >= end_R[self.row_N])
        return replace(
            self,
            points_N=np.where(lost_N, np.uint32(ord(" ")), self.points_N),
            blank_N=self.blank_N | lost_N,
            starts_W=self.starts_W[kept_W],
            ends_W=self.ends_W[kept_W],
            counts_R=np.minimum(self.counts_R, limit_R),
        )

    def hash_chars(self, shortest: int, longest: int) -> list[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
        """Return for each length the texts and hashes of the n-grams of characters with blanks at their edges only."""
        count = len(self.points_N)
        sums, inverse = self._sums
        edges = np.append(np.flatnonzero(self.blank_N), count)
        # How far the next blank is from each character; a blank within an n-gram is at least so far from its start.
        distance_N = edges[np.cumsum(self.blank_N)] - np.arange(count)
        found = []
        for n in range(shortest, longest + 1):
            places = max(0, count - n + 1)
            usable = distance_N[:places] >= n - 1
            if n == 1:
                usable &= ~self.blank_N[:places]
            elif n == 2:
                usable &= ~(self.blank_N[:places] & (distance_N[:places] == 1))
            hashes = sums[n : n + places] - sums[:places]
            hashes *= inverse[:places]
            found.append((self.row_N[:places][usable], hashes[usable]))
        return found

    def hash_words(self, shortest: int, longest: int) -> list[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
        """Return for each n texts and hashes of n words in a row, ``(h1 * STEP + h2) * STEP + ...`` of mixed hashes."""
        sums, inverse = self._sums
        hash_W = mix((sums[self.ends_W] - sums[self.starts_W]) * inverse[self.starts_W])
        row_W = self.row_N[self.starts_W]
        found = []
        for n in range(shortest, longest + 1):
            places = max(0, len(row_W) - n + 1)
            joined = hash_W[:places]
            for k in range(1, n):
                joined = joined * np.uint64(_WORD_STEP) + hash_W[k : k + places]
            same = row_W[:places] == row_W[n - 1 : n - 1 + places]
            found.append((row_W[:places][same], joined[same]))
        return found

    @cached_property
    def _sums(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return the prefix sums ``[N + 1]`` and ``BASE**-i`` ``[N + 1]``."""
        count = len(self.points_N)
        sums = np.zeros(count + 1, dtype=np.uint64)
        np.cumsum(self.points_N * _powers(_BASE, count), out=sums[1:])
        return sums, _powers(_BASE_INVERSE, count + 1)


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of splitmix64, by which every bit of the input reaches every bit of the output; in place."""
    shifted = values >> np.uint64(30)
    values ^= shifted
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= np.right_shift(values, np.uint64(27), out=shifted)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= np.right_shift(values, np.uint64(31), out=shifted)
    return values


def _find_kinds(points_N: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return what each character is to words; a character is looked up once in the life of a process."""
    kind_N = _kind_of[points_N]
    unseen_N = kind_N == _UNSEEN
    if unseen_N.any():
        for point in np.unique(points_N[unseen_N]).tolist():
            match = _KINDS.match(chr(point))
            _kind_of[point] = (
                _ALONE if match is None or match.lastindex is None else (_SPACE, _LETTER)[match.lastindex - 1]
            )
        kind_N = _kind_of[points_N]
    return kind_N


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    """Return ``base ** i`` modulo 2**64 for i < count."""
    return _build_powers(base, 1 << max(0, count - 1).bit_length())[:count]


@lru_cache(maxsize=4)
def _build_powers(base: int, count: int) -> NDArray[np.uint64]:
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    powers: NDArray[np.uint64] = np.cumprod(factors)
    return powers
