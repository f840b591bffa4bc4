"""Choose the shapes of forward passes on a device that wants few of them.

Decision record: a GPU plans kernels, and often compiles or times them, for each new shape (sequences x length); on the
first GPU that ran raykd a batch of a new shape took fifty times as long as one of a known shape. So there lengths and
numbers of sequences come from a fixed list of at most `MOST_SHAPES`: lengths that grow by a constant factor up to the
model's limit, and for each length three numbers of sequences, of about 1/16, 1/4 and all of the tokens that a pass may
have. A pass is filled up with shorter rows, which cost nothing there, and then with copies of its last sequence, which
are dropped. On a CPU every padded token costs time and no shape does, so `raykd.text.padding.split_passes` is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raykd.text.encoding import EncodedRows
from raykd.text.padding import Padding
from raykd.text.ragged import count_each

MOST_SHAPES = 16
_SHARES = (16, 4, 1)
"""What parts of a pass's tokens the numbers of sequences are made for."""
_SHORTEST = 16
"""Tokens of the shortest length."""
_LENGTHS, _LENGTHS_WITH_TARGETS, _TARGETS = 5, 2, 2
"""How many lengths there are: 5 x 3 numbers of sequences, or 2 of sources x 2 of targets x 3."""


@dataclass(frozen=True)
class Shape:
    """The shape of a forward pass.

    Attributes:
        sequences: S.
        length: Tokens of each sequence.
        target: Tokens of each target of an encoder-decoder; 0 where there is none.
    """

    sequences: int
    length: int
    target: int = 0

    def apply(self, padding: Padding) -> Padding:
        """Return a model's padding, changed so that a batch gets this shape."""
        targets = (self.target,) if self.target else ()
        return replace(padding, buckets=(self.length,), target_buckets=targets, sequences=self.sequences)


@dataclass(frozen=True)
class Buckets:
    """All shapes that passes of one model may have. Made by `make_buckets`.

    Attributes:
        lengths: Of sequences, ascending.
        targets: Of the targets of an encoder-decoder, ascending; () where there are none.
        max_tokens: Padded tokens of a pass.
    """

    lengths: tuple[int, ...]
    targets: tuple[int, ...]
    max_tokens: int

    def list_sequences(self, length: int, target: int = 0) -> tuple[int, ...]:
        """Return the numbers of sequences that a pass of these lengths may have, ascending."""
        counts = {max(1, self.max_tokens // (share * (length + target))) for share in _SHARES}
        return tuple(sorted({n if n < 8 else n // 8 * 8 for n in counts}))

    def list_shapes(self) -> list[Shape]:
        """Return every shape; at most `MOST_SHAPES`."""
        return [
            Shape(sequences, length, target)
            for length in self.lengths
            for target in self.targets or (0,)
            for sequences in self.list_sequences(length, target)
        ]


def make_buckets(max_length: int, max_target: int, max_tokens: int) -> Buckets:
    """Return the shapes for one model.

    Args:
        max_length: Tokens of the longest sequence.
        max_target: Tokens of the longest target of an encoder-decoder; 0 where targets stand in the sequences.
        max_tokens: Padded tokens of one pass.
    """
    lengths = _grow(max_length, _LENGTHS_WITH_TARGETS if max_target else _LENGTHS)
    return Buckets(lengths, _grow(max_target, _TARGETS) if max_target else (), max_tokens)


def _grow(longest: int, count: int) -> tuple[int, ...]:
    """Return lengths that grow by a constant factor, multiples of 8 but for the last, which is the longest."""
    if count == 2:
        return tuple(sorted({max(1, longest // 4), longest}))
    factor = max(1.0, longest / _SHORTEST) ** (1.0 / (count - 1))
    grown = {-(-round(_SHORTEST * factor**at) // 8) * 8 for at in range(count - 1)}
    return tuple(sorted({length for length in grown if length < longest} | {longest}))


def plan_passes(rows: EncodedRows, buckets: Buckets) -> list[tuple[list[int], Shape]]:
    """Cut rows into passes of the buckets' shapes; returns the rows of each pass, the longest first, and its shape.

    A sequence that is longer than every bucket gets a pass of its own length, and a row of more sequences than any pass
    holds one of as many. Rows of different adapters share no pass.
    """
    ids, targets = rows.fields["input_ids"], rows.fields.get("labels")
    starts_B1 = rows.sequences_B1 if rows.sequences_B1 is not None else np.arange(len(rows) + 1)
    longest_B = _find_longest(ids, starts_B1)
    target_B = np.zeros_like(longest_B) if targets is None else _find_longest(targets, starts_B1)
    lengths_B2 = np.stack(
        [_round_up(longest_B, buckets.lengths), _round_up(target_B, buckets.targets)], axis=1
    )
    order = np.lexsort((-longest_B, -lengths_B2[:, 1], -lengths_B2[:, 0]))
    adapters_B = rows.adapters_B
    parts = [order] if adapters_B is None else [order[adapters_B[order] == n] for n in np.unique(adapters_B)]
    return [
        found
        for part in parts
        for found in _fill_passes(part.tolist(), lengths_B2, np.diff(starts_B1), buckets)
    ]


def _fill_passes(
    order: Sequence[int], lengths_B2: NDArray[np.int64], sequences_B: NDArray[np.int64], buckets: Buckets
) -> Iterator[tuple[list[int], Shape]]:
    at = 0
    while at < len(order):
        length, target = lengths_B2[order[at]].tolist()
        rest = np.asarray(order[at:])
        alike = (lengths_B2[rest] == (length, target)).all(axis=1)
        size = _choose_sequences(int(sequences_B[rest[alike]].sum()), buckets.list_sequences(length, target))
        # Behind those of this shape stand shorter rows; of an encoder-decoder their targets must be no longer.
        fits = np.cumsum(sequences_B[rest]) <= size
        fits &= np.logical_and.accumulate(lengths_B2[rest, 1] <= target)
        taken = max(1, int(fits.sum()))
        picked = rest[:taken].tolist()
        yield picked, Shape(max(size, int(sequences_B[picked].sum())), length, target)
        at += taken


def _choose_sequences(wanted: int, sizes: Sequence[int]) -> int:
    """Return the size of the next pass for so many sequences: that of one pass, where at most half is left free."""
    larger = next((size for size in sizes if size >= wanted), sizes[-1])
    smaller = max((size for size in sizes if size <= wanted), default=larger)
    return larger if 2 * wanted > larger else smaller


def _find_longest(sequences: Sequence[NDArray[np.int64]], starts_B1: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``[B]``: the tokens of each row's longest sequence; every row has one."""
    lengths_S = count_each(sequences)
    return np.maximum.reduceat(lengths_S, starts_B1[:-1]) if len(lengths_S) else lengths_S


def _round_up(lengths_B: NDArray[np.int64], buckets: Sequence[int]) -> NDArray[np.int64]:
    """Return each length's bucket; a length beyond all of them stays."""
    if not buckets:
        return np.zeros_like(lengths_B)
    place_B = np.searchsorted(buckets, lengths_B)
    known = np.append(np.asarray(buckets, dtype=np.int64), 0)
    return np.where(place_B < len(buckets), known[place_B], lengths_B)
