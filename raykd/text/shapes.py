"""Choose a few shapes for batches that are known beforehand: those of a student in training, and of its scoring.

Decision record: why a GPU wants few shapes is said in `raykd.text.buckets`. A teacher does not know what it will be
asked, so its shapes are fixed. A student's rows and the order of its batches are known before the first step, so its
shapes are fitted to the batches of an epoch: their distinct shapes are merged, always the two whose merging adds fewest
padded tokens, until few enough are left. One more shape is merged with them that covers any batch of these rows. So
sequences, sources and targets are chosen together, and batches of one shape, such as those of a language model whose
rows are full, are not padded at all.

The number of sequences differs from batch to batch only where rows have several (windows of a context), or where
micro-batches share a batch unevenly. Such a batch is filled up with copies of its last sequence. Their outputs are
dropped before the loss, so they change neither it nor its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd.text.buckets import Shape
from raykd.text.encoding import EncodedRows
from raykd.text.ragged import count_each

_FINEST = 8
"""Lengths are multiples of this."""
_MOST_COMPARED = 256
"""Distinct shapes from which lengths are rounded up further before they are merged."""


@dataclass(frozen=True)
class FittedShapes:
    """The shapes that the batches of given rows may have. Made by `fit_shapes`.

    Attributes:
        sizes_B3: Of each row: its sequences, tokens of its longest sequence, tokens of its longest target.
        shapes: Those that batches may have, the smallest first; the last one covers every batch that was known.
    """

    sizes_B3: NDArray[np.int64]
    shapes: tuple[Shape, ...]

    def find(self, picked: Sequence[int] | NDArray[np.int64]) -> Shape:
        """Return the smallest shape into which a batch of the picked rows fits.

        A batch of more sequences than any shape has gets the greatest lengths, and its own number rounded up.
        """
        sequences, length, target = _measure_batches(self.sizes_B3, [np.asarray(picked)])[0].tolist()
        for shape in self.shapes:
            if shape.sequences >= sequences and shape.length >= length and shape.target >= target:
                return shape
        last = self.shapes[-1]
        return Shape(-(-sequences // _FINEST) * _FINEST, max(last.length, length), max(last.target, target))


def fit_shapes(
    rows: EncodedRows, batches: Sequence[Sequence[int] | NDArray[np.int64]], most: int
) -> FittedShapes:
    """Fit shapes to batches.

    Args:
        rows: The rows.
        batches: The rows of each batch, at least one; others may come later.
        most: How many shapes there may be, at least 1.
    """
    sizes_B3 = _measure_rows(rows)
    sizes_K3 = _measure_batches(sizes_B3, [np.asarray(picked) for picked in batches])
    limit_3 = np.max([sizes_B3.max(axis=0), sizes_K3.max(axis=0)], axis=0)
    if rows.sequences_B1 is not None:
        # A later epoch may put more windows into a batch.
        limit_3[0] = -(-int(1.1 * sizes_K3[:, 0].max()) // _FINEST) * _FINEST
    else:
        limit_3[0] = sizes_K3[:, 0].max()
    found_K3, weights_K = _round_up(sizes_K3, limit_3)
    merged = _merge(np.concatenate([found_K3, limit_3[None]]), np.append(weights_K, 0), most)
    shapes = [Shape(*size.tolist()) for size in merged]
    return FittedShapes(sizes_B3, tuple(sorted(shapes, key=lambda s: s.sequences * (s.length + s.target))))


def _measure_rows(rows: EncodedRows) -> NDArray[np.int64]:
    """Return ``[B, 3]``: the sequences of each row, and the tokens of the longest one and of the longest target."""
    starts_B1 = rows.sequences_B1 if rows.sequences_B1 is not None else np.arange(len(rows) + 1)
    sizes_B3 = np.zeros((len(rows), 3), dtype=np.int64)
    sizes_B3[:, 0] = np.diff(starts_B1)
    for column, name in ((1, "input_ids"), (2, "labels")):
        if name in rows.fields and len(rows):
            sizes_B3[:, column] = np.maximum.reduceat(count_each(rows.fields[name]), starts_B1[:-1])
    return sizes_B3


def _measure_batches(sizes_B3: NDArray[np.int64], batches: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return ``[K, 3]``: of each batch all sequences, and the greatest lengths."""
    starts = np.cumsum([0, *(len(picked) for picked in batches[:-1])])
    found = sizes_B3[np.concatenate(batches)]
    return np.concatenate(
        [
            np.add.reduceat(found[:, :1], starts, axis=0),
            np.maximum.reduceat(found[:, 1:], starts, axis=0),
        ],
        axis=1,
    )


def _round_up(
    sizes_K3: NDArray[np.int64], limit_3: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return distinct shapes that cover the batches, no larger than the limit, and how many batches each covers."""
    step = np.asarray([1, _FINEST, _FINEST])
    while True:
        rounded = np.minimum(-(-sizes_K3 // step) * step, limit_3)
        found, counts = np.unique(rounded, axis=0, return_counts=True)
        if len(found) <= _MOST_COMPARED:
            return found, counts
        step = 2 * step


def _merge(sizes_K3: NDArray[np.int64], weights_K: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Merge shapes until at most so many are left; always the two whose merging adds fewest padded tokens."""
    sizes, weights = sizes_K3.astype(np.float64), weights_K.astype(np.float64)
    left = len(sizes)
    added = np.full((left, left), np.inf)  # tokens that merging the row's shape with the column's adds
    for at in range(left):
        added[at, at + 1 :] = _count_added(sizes[at], weights[at], sizes[at + 1 :], weights[at + 1 :])
    while left > most:
        one, other = divmod(int(added.argmin()), len(sizes))
        sizes[one] = np.maximum(sizes[one], sizes[other])
        weights[one] += weights[other]
        weights[other] = np.nan  # gone
        own = _count_added(sizes[one], weights[one], sizes, weights)
        own[np.isnan(own)] = np.inf
        added[other, :] = added[:, other] = np.inf
        added[one, one + 1 :], added[:one, one] = own[one + 1 :], own[:one]
        left -= 1
    return np.unique(sizes[~np.isnan(weights)].astype(np.int64), axis=0)


def _count_added(
    one_3: NDArray[np.float64], weight: float, others_K3: NDArray[np.float64], weights_K: NDArray[np.float64]
) -> NDArray[np.float64]:
    both_K = _count_tokens(np.maximum(one_3, others_K3))
    added_K: NDArray[np.float64] = weight * (both_K - _count_tokens(one_3)) + weights_K * (
        both_K - _count_tokens(others_K3)
    )
    return added_K


def _count_tokens(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(sizes[..., 0] * (sizes[..., 1] + sizes[..., 2]))
