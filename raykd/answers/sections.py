"""The sections of many bodies, each read for all rows at once.

Decision record: a batch has a hundred rows and an answer of a row seven sections, so reading row by row is a thousand
small arrays. Here a row costs one slice a section, and everything else is one array operation over all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MOST_SPREAD = 2**28
"""Numbers that units without an answer may be filled up to: they cost a body nothing, and memory here."""


class SectionReader:
    """The bodies of B rows of one form; hands out one section of all rows after the other.

    units_B: of each row. row_N: the row of each unit. covered_N: which units the teacher covers; all, until they are
    read. held_B: how many of a row those are.
    """

    def __init__(self, bodies: Sequence[bytes], at: int, units_B: NDArray[np.int64]) -> None:
        self.bodies, self.units_B = bodies, units_B
        self._at = [at] * len(bodies)
        self.row_N = np.repeat(np.arange(len(bodies)), units_B)
        self.covered_N = np.ones(len(self.row_N), dtype=np.bool_)
        self.held_B = units_B

    def array(self, dtype: DTypeLike, count_B: NDArray[np.int64]) -> NDArray[Any]:
        """So many numbers of each row, row after row."""
        wide_B = (np.dtype(dtype).itemsize * count_B).tolist()
        ends = [at + wide for at, wide in zip(self._at, wide_B, strict=True)]
        read = zip(self.bodies, self._at, ends, strict=True)
        found = b"".join([body[begin:end] for body, begin, end in read])
        self._at = ends
        if len(found) != sum(wide_B):
            raise ValueError("a body ends before its contents")
        return np.frombuffer(found, dtype)

    def bits(self, count_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        """So many bits of each row, whose last byte is filled up."""
        bytes_B = -(-count_B // 8)
        bits = np.unpackbits(self.array(np.uint8, bytes_B))
        skipped_B = 8 * (np.cumsum(bytes_B) - bytes_B) - (np.cumsum(count_B) - count_B)
        picked: NDArray[np.uint8] = bits[np.repeat(skipped_B, count_B) + np.arange(int(count_B.sum()))]
        return picked

    def row_sums(self, values_N: NDArray[Any]) -> NDArray[np.int64]:
        """Of numbers of the units, one sum a row."""
        sums = np.concatenate([[0], np.cumsum(values_N, dtype=np.int64)])
        ends = np.cumsum(self.units_B)
        return np.asarray(sums[ends] - sums[ends - self.units_B])

    def spread(self, values: NDArray[Any], fill: float) -> NDArray[Any]:
        """What is held for the covered units, for all units."""
        if self.covered_N.all():
            return values
        if len(self.covered_N) * int(np.prod(values.shape[1:])) > MOST_SPREAD:
            raise ValueError(
                f"bodies of {len(self.covered_N)} units, {values.shape[1]} numbers each, most of them not there"
            )
        out = np.full((len(self.covered_N), *values.shape[1:]), fill, dtype=values.dtype)
        out[self.covered_N] = values
        return out

    def finish(self) -> None:
        """Every body was read to its end."""
        for body, end in zip(self.bodies, self._at, strict=True):
            if end != len(body):
                raise ValueError(f"a body of {len(body)} bytes, its contents end at {end}")
