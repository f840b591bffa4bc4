"""Hold the columns of rows as Arrow tables, in memory or mapped from a file, and decode values when they are looked at.

Decision record: a run looks at a batch of rows at a time, so a process that holds a corpus as Python objects (about
1 kB a row) pays for what it never sees at once. A table is a list of Arrow record batches; a selection is which of its
rows there are, as int32; a column is a selection and a name, and behaves as a tuple does. Pickling a table that lies
in a file sends its path, and one in memory its buffers, which Ray's object store shares without a copy. So processes of
one machine map one file, and nodes that need not share a disk hold the rows once each, in their object store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from operator import eq
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raykd.text.batch import TextBatch

T = TypeVar("T")

Index = NDArray[np.int32]
PIECE = 1 << 13
"""Rows that are decoded at once where all are gone through."""
CODED = ("languages", "modes", "source_languages", "groups")
"""Columns of few different texts, which are held as numbers and a list."""
_MOST_ROWS = 2**31 - 1
_FEW = 256
"""Most rows that are decoded one by one."""


@cache
def find_arrow_types() -> dict[str, pa.DataType]:
    """Return the Arrow type of each column of `TextBatch`, which follows from its annotation."""
    hints = get_type_hints(TextBatch)
    hints.pop("labels_B")
    plain = {
        name: next(
            part
            for part in (get_args(hint) if NoneType in get_args(hint) else (hint,))
            if part is not NoneType
        )
        for name, hint in hints.items()
    }
    return {
        name: pa.dictionary(pa.int16(), pa.string()) if name in CODED else _find_type(get_args(hint)[0])
        for name, hint in plain.items()
    }


def _find_type(hint: object) -> pa.DataType:
    """Return the Arrow type of values of a Python type: text, number, or a tuple of one type."""
    if get_origin(hint) is tuple:
        first, *rest = get_args(hint)
        return pa.list_(_find_type(first), *([] if rest == [...] else [1 + len(rest)]))
    return {str: pa.large_string(), int: pa.int32(), float: pa.float64()}[hint]  # type: ignore[index]


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of rows as Arrow record batches. path: the file that they are mapped from; "" for memory."""

    batches: tuple[pa.RecordBatch, ...]
    path: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open_table, (self.path,)) if self.path else (Table, (self.batches,))


@cache
def open_table(path: str) -> Table:
    """Map a file of Arrow's IPC format, once in a process."""
    with pa.memory_map(path) as mapped:
        reader = pa.ipc.open_file(mapped)
        return Table(tuple(map(reader.get_batch, range(reader.num_record_batches))), path)


def build_table(columns: Mapping[str, Sequence[object]]) -> Table:
    """Return a table in memory of columns as tuples, by their names in `TextBatch`."""
    types = find_arrow_types()
    arrays = {name: pa.array(column, types[name]) for name, column in columns.items()}
    return Table((pa.record_batch(arrays),))


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows of tables, in an order.

    Attributes:
        tables: The tables, which count as one after the other.
        index: The rows; None for all in order.
    """

    tables: tuple[Table, ...]
    index: Index | None = None

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each record batch, and last the number of rows."""
        sizes = [len(batch) for table in self.tables for batch in table.batches]
        return np.cumsum([0, *sizes], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1]) if self.index is None else len(self.index)

    def __getstate__(self) -> dict[str, object]:
        return {"tables": self.tables, "index": self.index}

    def select(self, rows: NDArray[np.int64]) -> Selection:
        """Return the selection of these of the selected rows."""
        return Selection(self.tables, (rows if self.index is None else self.index[rows]).astype(np.int32))

    def in_memory(self) -> Selection:
        """Return the same rows, of which no table is pickled as its path."""
        return Selection(tuple(Table(table.batches) for table in self.tables), self.index)

    @staticmethod
    def concat(parts: Sequence[Selection]) -> Selection:
        """Return all selected rows, one part after the other; a table that several parts select from is kept once."""
        if len(parts) == 1:
            return parts[0]
        tables: dict[int, Table] = {id(table): table for part in parts for table in part.tables}
        joined = Selection(tuple(tables.values()))
        if len(joined) > _MOST_ROWS:
            raise ValueError(f"{len(joined)} rows, of {_MOST_ROWS} that are possible")
        if all(part.index is None for part in parts) and len(joined) == sum(map(len, parts)):
            return joined
        begins, total = {}, 0
        for key, table in tables.items():
            begins[key] = total
            total += sum(map(len, table.batches))
        found = []
        for part in parts:
            # Where the tables of the part begin: in the part, and in what they become a part of.
            sizes = [sum(map(len, table.batches)) for table in part.tables]
            own = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
            shifts = np.asarray([begins[id(table)] for table in part.tables], dtype=np.int64) - own
            at = np.arange(len(part)) if part.index is None else part.index.astype(np.int64)
            found.append((at + shifts[np.searchsorted(own, at, side="right") - 1]).astype(np.int32))
        return Selection(joined.tables, np.concatenate(found))


class RowColumn(Sequence[T]):
    """Values of one column of selected rows. Reads as a tuple does; a value is decoded each time that it is asked for.

    Args:
        name: The column.
        rows: The rows.
    """

    def __init__(self, name: str, rows: Selection) -> None:
        self.name, self.rows = name, rows
        self._chunks = [batch.column(name) for table in rows.tables for batch in table.batches]

    def __reduce__(self) -> tuple[Any, ...]:
        return RowColumn, (self.name, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[T, ...]: ...
    def __getitem__(self, at: int | slice) -> T | tuple[T, ...]:
        if isinstance(at, slice):
            return self.take(np.arange(*at.indices(len(self))))
        if not -len(self) <= at < len(self):
            raise IndexError(f"row {at} of {len(self)}")
        own = at % len(self) if self.rows.index is None else int(self.rows.index[at])
        chunk = int(np.searchsorted(self.rows.starts, own, side="right")) - 1
        value: T = _decode(self._chunks[chunk].slice(own - int(self.rows.starts[chunk]), 1))[0]
        return value

    def __iter__(self) -> Iterator[T]:
        for values in self.iter_lists():
            yield from values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        more = f" and {len(self) - 3} more" if len(self) > 3 else ""
        return f"RowColumn({self.name}: {list(self[:3])}{more})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(list(self), dtype=dtype)

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> tuple[T, ...]:
        """Return the values of these rows, in this order."""
        at = np.asarray(rows, dtype=np.int64)
        at = np.where(at < 0, at + len(self), at)
        if len(at) > _FEW or len(self._chunks) < 2 or not self._is_text:
            return tuple(_decode(self._gather(at)))
        # A batch of a large corpus lies in nearly as many chunks as it has rows: one by one is four times as fast.
        own = at if self.rows.index is None else self.rows.index[at].astype(np.int64)
        chunk_of = np.searchsorted(self.rows.starts, own, side="right") - 1
        places = zip(chunk_of.tolist(), (own - self.rows.starts[chunk_of]).tolist(), strict=True)
        return tuple(self._chunks[chunk][place].as_py() for chunk, place in places)

    @property
    def _is_text(self) -> bool:
        kind = find_arrow_types()[self.name]
        return bool(pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))

    def iter_lists(self) -> Iterator[list[T]]:
        """Yield all values in order, as lists of at most `PIECE`."""
        yield from map(_decode, self.iter_arrays())

    def iter_arrays(self) -> Iterator[pa.Array]:
        """Yield all values in order as Arrow arrays of at most `PIECE`."""
        if self.rows.index is None:
            for chunk in self._chunks:
                yield from (chunk[begin : begin + PIECE] for begin in range(0, len(chunk), PIECE))
            return
        for begin in range(0, len(self), PIECE):
            yield self._gather(np.arange(begin, min(begin + PIECE, len(self))))

    def _gather(self, rows: NDArray[np.int64]) -> pa.Array:
        """Return the values of these rows as an Arrow array."""
        at = rows if self.rows.index is None else self.rows.index[rows].astype(np.int64)
        if not len(at):
            return pa.array([], find_arrow_types()[self.name])
        starts = self.rows.starts
        chunk_of = np.searchsorted(starts, at, side="right") - 1
        order = np.argsort(chunk_of, kind="stable")
        cuts = np.flatnonzero(np.diff(chunk_of[order])) + 1
        parts = [
            _take(self._chunks[chunk_of[own[0]]], at[own] - starts[chunk_of[own[0]]])
            for own in np.split(order, cuts)
        ]
        if len(parts) == 1:
            return parts[0]
        if (np.diff(order) > 0).all():
            return pa.concat_arrays(parts)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_arrays(parts).take(pa.array(back))

    def to_codes(self) -> tuple[tuple[T, ...], Index]:
        """Return the different values, sorted, and ``[B]``: which of them each row has."""
        names: dict[T, int] = {}
        codes = [np.zeros(0, dtype=np.int32)]
        for piece in self.iter_arrays():
            coded = piece if pa.types.is_dictionary(piece.type) else piece.dictionary_encode()
            own = [names.setdefault(name, len(names)) for name in coded.dictionary.to_pylist()]
            codes.append(np.asarray(own, dtype=np.int32)[coded.indices.to_numpy()])
        codes_B = np.concatenate(codes)
        used = np.bincount(codes_B, minlength=len(names)) > 0
        there = sorted((name, code) for name, code in names.items() if used[code])
        place = np.zeros(len(names), dtype=np.int32)
        place[[code for _, code in there]] = np.arange(len(there))
        return tuple(name for name, _ in there), place[codes_B]


def repeat_value(name: str, value: object, count: int) -> RowColumn[Any]:
    """Return a column that has the same value in every row; it takes 4 bytes a row."""
    return RowColumn(name, Selection((build_table({name: (value,)}),), np.zeros(count, dtype=np.int32)))


def _take(array: pa.Array, at: NDArray[np.int64]) -> pa.Array:
    """Return some values; neighbours are not copied."""
    if at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all():
        return array.slice(int(at[0]), len(at))
    return array.take(pa.array(at))


def _decode(array: pa.Array) -> list[Any]:
    """Return the values of an Arrow array as Python has them, lists as tuples."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        names = array.dictionary.to_pylist()
        return [names[code] for code in array.indices.to_pylist()]
    if pa.types.is_fixed_size_list(kind):
        return list(zip(*[iter(_decode(array.flatten()))] * kind.list_size, strict=True))
    if pa.types.is_list(kind):
        values = _decode(array.flatten())
        ends = array.offsets.to_numpy()
        ends = (ends - ends[0]).tolist()
        return [tuple(values[begin:end]) for begin, end in pairwise(ends)]
    plain: list[Any] = array.to_pylist() if pa.types.is_large_string(kind) else array.to_numpy().tolist()
    return plain
