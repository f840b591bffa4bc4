"""`Ragged`: sequences of several lengths, one behind the other in one array.

Decision record: a list of small arrays costs about a hundred bytes a sequence beside its tokens, and cannot be mapped
from a file. Two arrays can: the values of all sequences, and where each begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class Ragged(Sequence[NDArray[np.int64]]):
    """S sequences of numbers. An item is a view of its numbers.

    Args:
        values: The numbers of all sequences, in memory or mapped from a file.
        starts_S1: Where each sequence begins, and where the last one ends.
    """

    def __init__(self, values: NDArray[Any], starts_S1: NDArray[np.int64]) -> None:
        self.values, self.starts_S1 = values, starts_S1

    @staticmethod
    def of(rows: Sequence[Sequence[int] | NDArray[Any]]) -> Ragged:
        """Copy sequences; those that are ragged already are returned as they are."""
        if isinstance(rows, Ragged):
            return rows
        starts_S1 = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=starts_S1[1:])
        if len(rows) and isinstance(rows[0], np.ndarray):
            return Ragged(np.concatenate(rows).astype(np.int64, copy=False), starts_S1)
        return Ragged(np.fromiter(chain.from_iterable(rows), np.int64, int(starts_S1[-1])), starts_S1)

    def __len__(self) -> int:
        return len(self.starts_S1) - 1

    @overload
    def __getitem__(self, at: int) -> NDArray[np.int64]: ...

    @overload
    def __getitem__(self, at: slice) -> list[NDArray[np.int64]]: ...

    def __getitem__(self, at: int | slice) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        row: NDArray[np.int64] = self.values[self.starts_S1[at] : self.starts_S1[at + 1]]
        return row

    def take(self, picked: Sequence[int] | NDArray[np.int64]) -> Ragged:
        """Return the picked sequences, copied; of a file nothing else is read."""
        chosen = np.asarray(picked, dtype=np.int64)
        if len(chosen) and bool((chosen[1:] - chosen[:-1] == 1).all()):
            begin, end = self.starts_S1[[chosen[0], chosen[-1] + 1]]
            own, starts_S1 = (
                np.array(self.values[begin:end]),
                self.starts_S1[chosen[0] : chosen[-1] + 2] - begin,
            )
            return Ragged(own, starts_S1)
        own = np.asarray(self.values[expand_ranges(self.starts_S1, chosen)])
        return Ragged(own, compute_starts(count_ranges(self.starts_S1, chosen)))

    @property
    def counts_S(self) -> NDArray[np.int64]:  # noqa: N802  (a shape)
        """The numbers of each sequence."""
        return np.diff(self.starts_S1)


def count_each(rows: Sequence[Sequence[object] | NDArray[Any]]) -> NDArray[np.int64]:
    """Return ``[B]``: the length of each row."""
    if isinstance(rows, Ragged):
        return rows.counts_S
    return np.asarray([len(row) for row in rows], dtype=np.int64)


def compute_starts(counts_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``[B + 1]``: where each row's units begin, and where the last row's end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_B, dtype=np.int64)])


def count_ranges(starts_B1: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sizes of the picked rows' ranges; reads nothing of the other rows, which may be millions."""
    counts: NDArray[np.int64] = starts_B1[chosen + 1] - starts_B1[chosen]
    return counts


def expand_ranges(
    starts_B1: NDArray[np.int64], picked: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the positions ``starts[i] .. starts[i + 1] - 1`` of each picked row, row after row."""
    chosen = np.asarray(picked, dtype=np.int64)
    counts = count_ranges(starts_B1, chosen)
    inside = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    result: NDArray[np.int64] = np.repeat(starts_B1[chosen], counts) + inside
    return result
