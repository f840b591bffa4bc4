"""Write encoded rows to a folder chunk by chunk, and map them back: memory does not grow with their number.

Decision record: a file an array, without a header, appended to as chunks come; `arrays.json` says what they hold and
is written last. Tokens are written in the smallest integers that hold them (a mask takes a byte a token, most ids two);
a file is rewritten where a later chunk needs wider ones. Arrays whose name ends with 1 (`starts_B1`, `words_B1`) say
where each row's part begins, so a chunk's are counted on from the end of the chunk before. All others are rows or
units one behind the other, or one number that is the same in all chunks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raykd.text.encoding import EncodedRows
from raykd.text.ragged import Ragged

if TYPE_CHECKING:
    Array = NDArray[Any]

FILE = "arrays.json"
FORMAT = 1
_COLUMNS = [f.name for f in fields(EncodedRows) if f.name not in ("fields", "pad_values", "extra")]
_TOKENS, _EXTRA = "tokens.", "extra."
_WIDTHS: list[np.dtype[Any]] = [np.dtype(kind) for kind in (np.int8, np.int16, np.int32, np.int64)]
_COPIED = 1 << 20
"""Numbers of a file that are widened at once."""


class TokenWriter:
    """Appends encoded rows to the files of a folder; used as a context, which closes them.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.rows = folder, 0
        self._columns: dict[str, _Column] = {}
        self._pad_values: Mapping[str, int] = {}

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for column in self._columns.values():
            column.file.close()

    def append(self, rows: EncodedRows) -> None:
        """Write more rows.

        Raises:
            ValueError: They have other arrays than the rows before them.
        """
        arrays = dict(_list_arrays(rows))
        if not self._columns:
            self._columns = {name: _Column(self._folder / name, array) for name, array in arrays.items()}
            self._pad_values = rows.pad_values
        if self._columns.keys() != arrays.keys() or self._pad_values != rows.pad_values:
            raise ValueError(f"chunks of rows differ: {sorted(self._columns)}, then {sorted(arrays)}")
        for name, array in arrays.items():
            self._columns[name].append(array)
        self.rows += len(rows)

    def finish(self) -> None:
        """Write all that is pending to the disk, and at last what the files hold."""
        for column in self._columns.values():
            column.flush()
        about = {
            "format": FORMAT,
            "rows": self.rows,
            "pad_values": {name: int(value) for name, value in self._pad_values.items()},
            "arrays": {name: [c.dtype.str, c.shape] for name, c in self._columns.items()},
        }
        with (self._folder / FILE).open("w", encoding="utf-8") as file:
            json.dump(about, file)
            file.flush()
            os.fsync(file.fileno())


class _Column:
    """The file of one array.

    Args:
        path: Where it is.
        first: The array of the first chunk, which says its type and the shape of an entry.
    """

    def __init__(self, path: Path, first: Array) -> None:
        self._path, self._is_scalar = path, first.ndim == 0
        self._is_starts, self._is_tokens = path.name.endswith("1"), path.name.startswith(_TOKENS)
        self.dtype = _WIDTHS[0] if self._is_narrow else first.dtype
        self._entry, self._count = first.shape[1:], 0
        self._last: Array | None = None
        self.file: IO[bytes] = path.open("w+b")

    @property
    def _is_narrow(self) -> bool:
        return self._is_tokens and not self._is_starts

    @property
    def shape(self) -> list[int]:
        return [] if self._is_scalar else [self._count, *self._entry]

    def append(self, array: Array) -> None:
        last = self._last
        if self._is_scalar:
            if last is not None and last != array:
                raise ValueError(f"{self._path.name} differs between chunks: {last}, then {array}")
            self._last, array = array, array.reshape(1)[: int(last is None)]
        elif self._is_starts:
            array = array if last is None else array[1:] - array[0] + last
            self._last = array[-1] if len(array) else last
        if self._is_narrow and array.size:
            least, most = int(array.min()), int(array.max())
            self._widen(next(t for t in _WIDTHS if most <= np.iinfo(t).max and least >= np.iinfo(t).min))
        self.file.write(np.ascontiguousarray(array, dtype=self.dtype).data)
        self._count += len(array)

    def _widen(self, needed: np.dtype[Any]) -> None:
        """Rewrite the file in integers that hold what is to come, if those so far do not."""
        wider = np.promote_types(self.dtype, needed)
        if wider == self.dtype:
            return
        self.file.flush()
        fresh = self._path.with_name(f"{self._path.name}.wide")
        with self._path.open("rb") as old, fresh.open("wb") as new:
            while len(part := np.fromfile(old, self.dtype, _COPIED)):
                new.write(part.astype(wider).data)
        self.file.close()
        fresh.replace(self._path)
        self.file, self.dtype = self._path.open("r+b"), wider
        self.file.seek(0, os.SEEK_END)

    def flush(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())


def map_tokens(folder: Path) -> EncodedRows | None:
    """Map what a `TokenWriter` finished; None where there is none, or a file is not as long as it should be."""
    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            return None
        arrays = {
            name: _map_array(folder / name, np.dtype(dtype), tuple(shape))
            for name, (dtype, shape) in about["arrays"].items()
        }
        names = [name.removeprefix(_TOKENS) for name in arrays if name.startswith(_TOKENS)]
        tokens = {
            name: Ragged(arrays[_TOKENS + name], arrays[f"{_TOKENS}{name}_S1"])
            for name in names
            if not name.endswith("_S1")
        }
        extra = {name.removeprefix(_EXTRA): a for name, a in arrays.items() if name.startswith(_EXTRA)}
        own = {name: arrays.get(name) for name in _COLUMNS}
        return EncodedRows(tokens, about["pad_values"], extra=extra, **own)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _map_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if path.stat().st_size != wanted:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, not {wanted}")
    if not wanted or not shape:
        return np.fromfile(path, dtype).reshape(shape)
    # A plain array over the map: numpy's memmap class would go on into everything that is computed of it.
    return np.asarray(np.memmap(path, dtype, "r", shape=shape)).view(np.ndarray)


def _list_arrays(rows: EncodedRows) -> Iterator[tuple[str, Array]]:
    """Yield name and content of each array of encoded rows."""
    for name, values in rows.fields.items():
        own = Ragged.of(values)
        yield _TOKENS + name, own.values
        yield f"{_TOKENS}{name}_S1", own.starts_S1
    for name in _COLUMNS:
        array = getattr(rows, name)
        if array is not None:
            yield name, array
    for name, array in rows.extra.items():
        yield _EXTRA + name, array
