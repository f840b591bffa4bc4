"""Hold rows of a source as a block that is read in one of two ways: column by column, or record by record.

Decision record: the columns of a block of well-formed rows are read by Arrow, ten times as fast as row by row. Arrow is
told what each column holds and never guesses; where it stumbles, or would read anything otherwise than the reader of
records does, the block has no columns and its records are read, which know their line and say what is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.json

from raykd.data.files.opening import LineBlock, read_line_blocks
from raykd.data.files.remote import AnyFile
from raykd.data.files.textfiles import Record, parse_json_lines

ROWS = 1 << 13
"""Rows of a block, where the source is not read by bytes."""


@dataclass(frozen=True)
class ArrowRows:
    """Columns of rows. lines: the number of each row; columns: by name."""

    lines: Sequence[int]
    columns: Mapping[str, pa.Array]


@dataclass(frozen=True)
class Block:
    """Rows of a source, one after the other.

    Attributes:
        records: Reads the rows one by one.
        columns: Reads these columns, by name with the type of their values; None where the records have to be read.
        may_hold: Whether a row may have a column that the block before did not have.
    """

    records: Callable[[], Iterable[Record]]
    columns: Callable[[Mapping[str, pa.DataType]], ArrowRows | None] = lambda kinds: None
    may_hold: Callable[[str], bool] = lambda name: False


def read_json_blocks(path: AnyFile) -> Iterator[Block]:
    """Yield the rows of a file of JSON lines.

    Raises:
        DataError: As `parse_json_lines`, when records are read.
    """
    for lines in read_line_blocks(path):
        yield _make_json_block(lines)


def _make_json_block(lines: LineBlock) -> Block:
    def may_hold(name: str) -> bool:
        # Inside a text the quotes would be escaped.
        written = {json.dumps(name).encode(), json.dumps(name, ensure_ascii=False).encode()}
        return any(re.search(re.escape(key) + rb"\s*:", lines.data) for key in written)

    return Block(lambda: parse_json_lines(lines), lambda kinds: _read_json_columns(lines, kinds), may_hold)


def _read_json_columns(lines: LineBlock, kinds: Mapping[str, pa.DataType]) -> ArrowRows | None:
    """Return the columns of lines that are an object each, of values of these types or null."""
    data, count = lines.data, lines.count()
    between = data.count(b"}\r\n{") if b"\r" in data else data.count(b"}\n{")
    if not data.startswith(b"{") or not data.rstrip(b"\r\n").endswith(b"}") or between != count - 1:
        return None
    try:
        data.decode("utf-8")
        table = pyarrow.json.read_json(
            pa.BufferReader(data),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(list(kinds.items())), unexpected_field_behavior="ignore"
            ),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    if len(table) != count:
        return None
    columns = {name: table[name].combine_chunks() for name in kinds}
    return ArrowRows(range(lines.first, lines.first + count), columns)


def group_rows(
    rows: Iterable[tuple[int, list[str]]], header: Sequence[str], build: Callable[[int, list[str]], Record]
) -> Iterator[Block]:
    """Yield numbered rows of texts in blocks.

    Args:
        rows: The rows, each as wide as the header.
        header: Names of the columns; "" for one that is not read.
        build: Makes the record of a row.
    """
    kept: list[tuple[int, list[str]]] = []
    for row in rows:
        kept.append(row)
        if len(kept) == ROWS:
            yield _make_text_block(kept, header, build)
            kept = []
    if kept:
        yield _make_text_block(kept, header, build)


def _make_text_block(
    rows: list[tuple[int, list[str]]], header: Sequence[str], build: Callable[[int, list[str]], Record]
) -> Block:
    def columns(kinds: Mapping[str, pa.DataType]) -> ArrowRows | None:
        if not all(name in header and kind == pa.large_string() for name, kind in kinds.items()):
            return None
        places = {name: header.index(name) for name in kinds}
        found = {name: pa.array([row[at] for _, row in rows], kinds[name]) for name, at in places.items()}
        return ArrowRows([number for number, _ in rows], found)

    return Block(lambda: [build(*row) for row in rows], columns)


def as_plain_array(array: pa.Array) -> pa.Array:
    """Return texts as Arrow holds them here, whatever kind of text they are; other values as they are."""
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.large_string())
    return array
