"""Write columns of rows to an Arrow table while their source is read: to memory, and to a file where they are many.

Decision record: a file is written below raykd's cache (`RAYKD_CACHE`), named by what was read: paths, sizes and times
of the files, the run's data and raykd's own source, so the same rows are read once on a machine. It is written beside
its place and renamed; what was told while reading is an entry beside it. Where the cache cannot be written the file
lies in a folder that goes with the process. Files that are mapped may be removed, as their pages stay; those that were
not used for longest go first.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pyarrow as pa

from raykd.cache import find_cache_folder
from raykd.data.arrow.tables import CODED, Table, find_arrow_types, open_table
from raykd.errors import DataError, ResourceError

KIND = "rows"
"""Their folder in the cache."""
SMALL = 32 << 20
"""Bytes up to which rows are held in memory."""
MOST_BYTES = 50 * 10**9
"""Bound on the files of all sources together."""
_BATCH_ROWS, _BATCH_BYTES = 1 << 16, 1 << 26
_MOST_VALUES = 2**15 - 1
"""Different texts of a column that is held as numbers."""


def find_table(key: str) -> Table | None:
    """Return the table that was written under a key; None where there is none."""
    path = _find_folder() / f"{key}.arrow"
    try:
        os.utime(path)
        return open_table(str(path))
    except (OSError, pa.ArrowException):
        return None


class TableWriter:
    """Takes columns of rows, block by block."""

    def __init__(self) -> None:
        self._waiting: list[pa.RecordBatch] = []
        self._kept: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._names: dict[str, dict[str, int]] = {name: {} for name in CODED}
        self._sink: pa.OSFile | None = None
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._path = _find_folder() / f".{uuid.uuid4().hex}"

    def add(self, columns: Mapping[str, pa.Array]) -> None:
        """Take rows.

        Raises:
            ResourceError: The disk is full.
            DataError: A column of few texts has many.
        """
        # In one order, because blocks are read in two ways.
        batch = pa.record_batch({name: self._encode(name, columns[name]) for name in sorted(columns)})
        self._waiting.append(batch)
        self._rows, self._bytes = self._rows + len(batch), self._bytes + batch.nbytes
        if self._rows >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self._flush()

    def _encode(self, name: str, column: pa.Array) -> pa.Array:
        """Return a column of few texts with numbers that are the same in all batches."""
        if name not in CODED:
            return column
        own, names = column.dictionary.to_pylist(), self._names[name]
        if len(names.keys() | set(own)) > _MOST_VALUES:
            raise DataError(
                f"data.columns: the column of {name} has more than {_MOST_VALUES:,} different values",
                got=", ".join(map(repr, list(names)[:3])) + ", ...",
                wanted="a column of few values, such as a domain or a language",
                next_step="name another column",
            )
        codes = pa.array([names.setdefault(value, len(names)) for value in own], pa.int16())
        return pa.DictionaryArray.from_arrays(codes.take(column.indices), pa.array(list(names), pa.string()))

    def _flush(self) -> None:
        if self._waiting:
            self._kept.append(pa.concat_batches(self._waiting))
        self._waiting, self._rows, self._bytes = [], 0, 0
        if self._writer is None and sum(batch.nbytes for batch in self._kept) > SMALL:
            self._open()
        if self._writer is not None:
            try:
                for batch in self._kept:
                    self._writer.write_batch(batch)
            except OSError as error:
                self.discard()
                raise ResourceError(
                    f"{self._path.parent}: the rows cannot be written",
                    got=str(error),
                    wanted="room for the texts of the run's sources",
                    next_step="free some, or name another folder in RAYKD_CACHE",
                ) from None
            self._kept = []

    def _open(self) -> None:
        _trim(self._path.parent)
        self._sink = pa.OSFile(str(self._path), "wb")
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        self._writer = pa.ipc.new_file(self._sink, self._kept[0].schema, options=options)

    def finish(self, key: str | None) -> Table:
        """Return the rows.

        Args:
            key: The name under which they are found again, if they went to a file; None for none.
        """
        self._flush()
        if self._writer is None or self._sink is None:
            return Table(tuple(self._kept))
        self._writer.close()
        self._sink.close()
        path = self._path.with_name(f"{key or self._path.name[1:]}.arrow")
        self._path.replace(path)
        pa.default_memory_pool().release_unused()  # of reading, which Arrow would keep for more
        return open_table(str(path))

    @property
    def is_in_file(self) -> bool:
        """Whether the rows are too many for memory."""
        return self._writer is not None

    def discard(self) -> None:
        """Remove what was written."""
        if self._writer is not None and self._sink is not None:
            self._sink.close()
            self._path.unlink(missing_ok=True)


def convert_columns(columns: Mapping[str, object]) -> dict[str, pa.Array]:
    """Return columns of Python values as Arrow holds them."""
    types = {**find_arrow_types(), "labels_B": pa.int32()}
    return {name: pa.array(column, types[name]) for name, column in columns.items()}


def _find_folder() -> Path:
    """Return the folder for the files."""
    root = find_cache_folder()
    if root is not None:
        try:
            (root / KIND).mkdir(parents=True, exist_ok=True)
        except OSError:
            return _make_folder()
        if os.access(root / KIND, os.W_OK):
            return root / KIND
    return _make_folder()


@cache
def _make_folder() -> Path:
    """Make a folder that goes with this process."""
    folder = tempfile.mkdtemp(prefix="raykd-rows-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _trim(folder: Path) -> None:
    """Remove the files that were not used for longest, where all together are too large."""
    found = sorted(((p.stat().st_mtime, p.stat().st_size, p) for p in folder.iterdir()), reverse=True)
    total = 0
    for _, size, path in found:
        total += size
        if total > MOST_BYTES:
            path.unlink(missing_ok=True)
