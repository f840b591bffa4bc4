"""Read answers that somebody else wrote: Parquet or JSON lines, in shards, on any file system of fsspec.

Decision record:

- The form is what a person gets from pandas: a column per label beside `text`, or one column `probabilities` or
  `logits` that holds for each row a table by label (a struct, a JSON object) or a plain list. The column's name says
  what the numbers are and its keys say the labels, so a file needs no other description. Of taggers a row holds a list
  of those, one item a word. A cell that is null throughout is no answer.
- A file is of one teacher. So it has one content and one list of labels.
- Files are read in batches, both kinds through Arrow arrays, so that millions of rows are converted by column.
- Content is told by names, sizes and bytes: all of them up to 64 MiB, else blocks from end to end that share these 64
  MiB. Times of change do not count, since a copied file holds the same answers. Nothing tells two edits of a large file
  apart that keep its size and all sampled blocks (`version` does).
"""

from __future__ import annotations

import hashlib
import json
import lzma
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

from raykd.errors import ModelError
from raykd.teachers.backends.files.columns import NUMBERS, NumberColumns, Shape, is_list

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec.spec import AbstractFileSystem

PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".ndjson", ".json")
PACKED = (".gz", ".bz2", ".xz")
ROWS = 8192
"""Rows that are read at once."""
_SAMPLE = 1000
"""Rows of JSON lines that say which labels there are."""
_WHOLE, _BLOCK = 64 << 20, 1 << 16
"""Bytes up to which all content is hashed, and bytes of a block of larger files."""


@dataclass(frozen=True)
class AnswerFiles:
    """The files of one teacher, in the order of their names.

    Attributes:
        fs: Their file system.
        paths: Their paths there.
        who: What a message calls them.
    """

    fs: AbstractFileSystem
    paths: tuple[str, ...]
    who: str

    def open(self, path: str) -> IO[bytes]:
        """Open a file, unpacked.

        Raises:
            ModelError: It cannot be read.
        """
        try:
            return cast("IO[bytes]", self.fs.open(path, "rb", compression="infer"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{self.who}: {path} cannot be read", got=str(error)[:200], wanted="a file that you may read"
            ) from None

    def digest(self) -> str:
        """Return the sha256 (hex) over names, sizes and bytes; of more than 64 MiB over sampled blocks."""
        found, sizes = hashlib.sha256(), [int(self.fs.size(path)) for path in self.paths]
        blocks = max(2, _WHOLE // _BLOCK // len(sizes))
        for path, size in zip(self.paths, sizes, strict=True):
            found.update(f"{path.rpartition('/')[2]} {size}\0".encode())
            with self.fs.open(path, "rb") as file:
                if sum(sizes) <= _WHOLE or size <= blocks * _BLOCK:
                    found.update(file.read())
                    continue
                for at in range(blocks):
                    file.seek(at * (size - _BLOCK) // (blocks - 1))
                    found.update(file.read(_BLOCK))
        return found.hexdigest()


def list_answer_files(path: str, who: str) -> AnswerFiles:
    """Return the files behind a path: a file, a folder or a pattern.

    Args:
        path: As in `FileTeacher.path`.
        who: The teacher, for messages.

    Raises:
        ModelError: There are none, or the file system cannot be asked.
    """
    from fsspec.core import has_magic, url_to_fs

    try:
        fs, root = url_to_fs(path)
        fs.invalidate_cache()
        if has_magic(root):
            found = [str(each) for each in fs.glob(root)]
        else:
            found = [str(each) for each in fs.find(root)] if fs.exists(root) else []
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{who}: {path} cannot be looked at",
            got=f"{type(error).__name__}: {str(error)[:200]}",
            wanted="a path, or a URL of a file system that fsspec knows and whose package is installed",
        ) from None
    paths = tuple(sorted(each for each in found if _find_ending(each) in (*PARQUET, *JSON_LINES)))
    if not paths:
        raise ModelError(
            f"{who}: there is no file of answers",
            got=f"{path}, where " + (f"{', '.join(sorted(found)[:5])} is" if found else "nothing is"),
            wanted=f"files that end in {', '.join((*PARQUET, *JSON_LINES))}, on every node that serves the teacher",
            next_step="correct its path; raykd label RUN.yaml --to PATH writes such a file",
        )
    return AnswerFiles(fs, paths, who)


def _find_ending(path: str) -> str:
    name = path.rpartition("/")[2].lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return f".{name.rpartition('.')[2]}" if "." in name else ""


def read_shape(files: AnswerFiles) -> Shape:
    """Return the columns of the first file, from its head.

    Raises:
        ModelError: It cannot be read, or a column of numbers holds something else.
    """
    path = files.paths[0]
    found: Shape = {}
    if _find_ending(path) in PARQUET:
        from pyarrow import types

        for field in _open_parquet(files, path).schema_arrow:
            kind = field.type
            while is_list(kind) and types.is_nested(kind.value_type):
                kind = kind.value_type
            found[field.name] = tuple(part.name for part in kind) if types.is_struct(kind) else None
        return found
    for count, (_, row) in enumerate(_read_objects(files, path)):
        if count == _SAMPLE:
            break
        for name, cell in row.items():
            keys = found.setdefault(name, None)
            for unit in cell if isinstance(cell, list) and name in NUMBERS else [cell]:
                if isinstance(unit, dict):
                    keys = tuple(dict.fromkeys((*(keys or ()), *unit)))
            found[name] = keys
    if not found:
        raise ModelError(f"{files.who}: {path} holds no rows", got="no rows", wanted="at least one row")
    return found


def read_batches(
    files: AnswerFiles, numbers: NumberColumns, texts: Sequence[str]
) -> Iterator[tuple[str, int, dict[str, pa.Array]]]:
    """Yield the file, the number of the first row there (from 1) and the columns of each batch of rows.

    Args:
        files: The files.
        numbers: Where the numbers stand.
        texts: Further columns; of those that a file lacks nothing is yielded.

    Raises:
        ModelError: A file cannot be read, lacks a column, or holds something else there.
    """
    for path in files.paths:
        is_parquet = _find_ending(path) in PARQUET
        yield from (_read_parquet if is_parquet else _read_json)(files, path, numbers, texts)


def _read_parquet(
    files: AnswerFiles, path: str, numbers: NumberColumns, texts: Sequence[str]
) -> Iterator[tuple[str, int, dict[str, pa.Array]]]:
    import pyarrow as pa

    file = _open_parquet(files, path)
    there = file.schema_arrow.names
    if lacking := [name for name in numbers.columns if name not in there]:
        raise ModelError(
            f"{files.who}: {path} has other columns than {files.paths[0]}",
            got=f"{', '.join(there)}",
            wanted=f"{', '.join(lacking)} as well",
        )
    wanted, row = [*numbers.columns, *(name for name in texts if name in there)], 1
    try:
        for batch in file.iter_batches(ROWS, columns=wanted):
            yield path, row, {name: batch.column(name) for name in wanted}
            row += len(batch)
    except (OSError, ValueError, NotImplementedError, pa.ArrowException) as error:
        raise _build_parquet_error(files, path, error) from None


def _open_parquet(files: AnswerFiles, path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(files.fs.open(path, "rb"))
    except (OSError, ValueError, NotImplementedError, pa.ArrowException) as error:
        raise _build_parquet_error(files, path, error) from None


def _build_parquet_error(files: AnswerFiles, path: str, error: Exception) -> ModelError:
    return ModelError(
        f"{files.who}: {path} cannot be read as Parquet",
        got=str(error)[:200],
        wanted="a complete Parquet file",
        next_step="was it cut off while it was written or copied?",
    )


def _read_json(
    files: AnswerFiles, path: str, numbers: NumberColumns, texts: Sequence[str]
) -> Iterator[tuple[str, int, dict[str, pa.Array]]]:
    rows: list[dict[str, Any]] = []
    first = 1
    for line, row in _read_objects(files, path):
        if numbers.named and len(numbers.columns) == 1:
            _refuse_unknown_labels(files, f"{path}:{line}", row.get(numbers.columns[0]), numbers.labels)
        first = first if rows else line
        rows.append(row)
        if len(rows) == ROWS:
            yield path, first, _build_columns(files, path, rows, first, numbers, texts)
            rows = []
    if rows:
        yield path, first, _build_columns(files, path, rows, first, numbers, texts)


def _build_columns(
    files: AnswerFiles,
    path: str,
    rows: Sequence[dict[str, Any]],
    first: int,
    numbers: NumberColumns,
    texts: Sequence[str],
) -> dict[str, pa.Array]:
    import pyarrow as pa

    kind = numbers.arrow_type if len(numbers.columns) == 1 and numbers.columns[0] in NUMBERS else pa.float64()
    wanted = {name: kind for name in numbers.columns} | {
        name: None for name in texts if any(name in row for row in rows)
    }
    found = {}
    for name, own in wanted.items():
        try:
            found[name] = pa.array([row.get(name) for row in rows], type=own)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ModelError(
                f"{files.who}: {path} holds something else in {name} than its other rows",
                got=f"{str(error)[:120]}, from line {first} on",
                wanted=f"{own or 'texts, numbers or lists of texts'}",
            ) from None
    return found


def _refuse_unknown_labels(files: AnswerFiles, place: str, cell: object, labels: Sequence[str]) -> None:
    for unit in cell if isinstance(cell, list) else [cell]:
        if isinstance(unit, dict) and (strange := sorted(set(unit) - set(labels))):
            raise ModelError(
                f"{files.who}: {place} names a label that the rows before do not have",
                got=", ".join(strange),
                wanted=f"labels among {list(labels)}",
                next_step="write all of them in the key labels of the teacher, or correct the line",
            )


def _read_objects(files: AnswerFiles, path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the object of each line that is not blank."""
    for number, line in enumerate(_read_lines(files, path), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                row = error
            if not isinstance(row, dict):
                raise ModelError(
                    f"{files.who}: {path}:{number} is no JSON object",
                    got=f"{line[:80]!r}" + (f" ({row})" if isinstance(row, ValueError) else ""),
                    wanted='a line like {"text": "...", "probabilities": {"a": 0.9, "b": 0.1}}',
                )
            yield number, row


def _read_lines(files: AnswerFiles, path: str) -> Iterator[bytes]:
    try:
        with files.open(path) as file:
            yield from file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ModelError(
            f"{files.who}: {path} cannot be read to its end",
            got=f"{type(error).__name__}: {str(error)[:200]}",
            wanted="a complete file",
            next_step="was it cut off while it was written or copied?",
        ) from None
