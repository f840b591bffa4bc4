"""`SectionReader`: reads the sections of many bodies, each for all rows at once.

Decision record: a batch has a hundred rows and a row's answer seven sections, so reading row by row would make a
thousand small arrays. Here a row costs one slice per section, and everything else is one array operation for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MOST_SPREAD = 2**28
"""Most numbers to which units without an answer are filled up: they take no bytes in a body, but memory here."""


class SectionReader:
    """The bodies of B rows of one form, of which it returns one section of all rows after the other.

    Args:
        bodies: One per row.
        at: Where the first section begins.
        units_B: Units of each row.

    Attributes:
        row_N: The row of each unit.
        covered_N: Which units the teacher covers; all, until that section is read.
        held_B: How many units of each row it covers.
    """

    def __init__(self, bodies: Sequence[bytes], at: int, units_B: NDArray[np.int64]) -> None:
        self.bodies, self.units_B = bodies, units_B
        self._at = [at] * len(bodies)
        self.row_N = np.repeat(np.arange(len(bodies)), units_B)
        self.covered_N = np.ones(len(self.row_N), dtype=np.bool_)
        self.held_B = units_B

    def array(self, dtype: DTypeLike, count_B: NDArray[np.int64]) -> NDArray[Any]:
        """Read so many numbers of each row, row after row."""
        wide_B = (np.dtype(dtype).itemsize * count_B).tolist()
        ends = [at + wide for at, wide in zip(self._at, wide_B, strict=True)]
        read = zip(self.bodies, self._at, ends, strict=True)
        found = b"".join([body[begin:end] for body, begin, end in read])
        self._at = ends
        if len(found) != sum(wide_B):
            raise ValueError("a body ends before its contents")
        return np.frombuffer(found, dtype)

    def bits(self, count_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read so many bits of each row, whose last byte is filled up."""
        bytes_B = -(-count_B // 8)
        bits = np.unpackbits(self.array(np.uint8, bytes_B))
        skipped_B = 8 * (np.cumsum(bytes_B) - bytes_B) - (np.cumsum(count_B) - count_B)
        picked: NDArray[np.uint8] = bits[np.repeat(skipped_B, count_B) + np.arange(int(count_B.sum()))]
        return picked

    def row_sums(self, values_N: NDArray[Any]) -> NDArray[np.int64]:
        """Sum numbers of the units per row."""
        sums = np.concatenate([[0], np.cumsum(values_N, dtype=np.int64)])
        ends = np.cumsum(self.units_B)
        return np.asarray(sums[ends] - sums[ends - self.units_B])

    def spread(self, values: NDArray[Any], fill: float) -> NDArray[Any]:
        """Spread entries of the covered units over all units; the others get the fill value."""
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
        """Raise ValueError unless every body was read to its end."""
        for body, end in zip(self.bodies, self._at, strict=True):
            if end != len(body):
                raise ValueError(f"a body of {len(body)} bytes, its contents end at {end}")
