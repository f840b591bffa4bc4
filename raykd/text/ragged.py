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

    @property
    def counts_S(self) -> NDArray[np.int64]:  # noqa: N802  (a shape)
        """The numbers of each sequence."""
        return np.diff(self.starts_S1)
