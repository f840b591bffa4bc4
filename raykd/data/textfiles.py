"""JSON lines, CSV and TSV to records that know their line.

Decision record: text files are read here, with the standard library, and not through `datasets`: every error has
to name file and line, so each line is looked at anyway; and the Arrow readers guess types (a column of texts that
look like dates comes back as timestamps, "007" as 7, "NA" as nothing; a column of numbers and strings fails), which
changes what the user wrote. Lines are decoded one by one, so a file may be larger than a decoded copy of it.

A file that cannot be parsed always fails; what a *row* holds is judged by `read`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from raykd.errors import DataError

_LARGEST_FIELD = 2**31 - 1


@dataclass(frozen=True)
class Record:
    """A row as it stands in its source.

    place: ``file:line`` (or what the source has instead), for messages. flat: every value is a string, lists too.
    """

    place: str
    line: int
    values: dict[str, Any]
    flat: bool = False


def require_file(path: Path) -> None:
    """Raises a DataError unless the path is a regular file that can be read."""
    problem = None
    if not path.exists():
        near = path.parent
        while not near.exists():
            near = near.parent
        problem, got = "there is no such file", f"nothing at {path} (the folder {near} is there)"
    elif path.is_dir():
        inside = sorted(p.name for p in path.iterdir())[:5]
        problem, got = "is a directory, not a file", f"a directory that holds {inside}"
    elif not path.is_file():
        problem, got = "is no regular file", "a device, socket or pipe"
    elif not os.access(path, os.R_OK):
        problem, got = "cannot be read", "no permission"
    if problem is not None:
        raise DataError(
            f"{path}: {problem}",
            got=got,
            wanted="a file that ends in .jsonl, .csv, .tsv or .parquet",
            next_step="correct the path (relative paths are relative to the run file)",
        )


def read_json_lines(path: Path) -> Iterator[Record]:
    """One record a line; blank lines are passed over.

    Raises:
        DataError: bytes that are no UTF-8, a line that is no JSON or no object; with file and line.
    """
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            cut = not line.endswith("\n")
            raise DataError(
                f"{path}:{number}: the line is not JSON ({_reason(error)})",
                got=shortened(line.strip()),
                wanted="one JSON object a line",
                next_step="the file ends in the middle of a line: was it cut off while it was written or copied?"
                if cut
                else "correct the line; a file that is one JSON list has to be written one object a line",
            ) from None
        if not isinstance(value, dict):
            raise DataError(
                f"{path}:{number}: the line is not a JSON object",
                got=shortened(line.strip()),
                wanted='one object a line, for example {"text": "...", "label": "..."}',
            )
        yield Record(f"{path}:{number}", number, value)


def read_delimited(path: Path, delimiter: str) -> Iterator[Record]:
    """One record a CSV row under the header; every value is the string that stands there.

    Raises:
        DataError: bytes that are no UTF-8, no header, a name twice in it, a quote that is never closed, or a row of
            another width than the header; with file and line.
    """
    csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for row in reader:
            if header is None:
                header = _header(path, row)
            elif row and len(row) != len(header):
                raise DataError(
                    f"{path}:{line}: the row has another number of fields than the header",
                    got=f"{len(row)} fields: {shortened(str(row))}",
                    wanted=f"{len(header)} fields: {', '.join(header)}",
                    next_step='put fields that hold the delimiter or a quote in quotes, with "" for a quote',
                )
            elif row:
                yield Record(f"{path}:{line}", line, dict(zip(header, row, strict=True)), flat=True)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}:{line}: the row that begins here is not valid CSV",
            got=str(error),
            wanted="UTF-8 text with a header, fields in double quotes where needed",
            next_step="look for a quote that is never closed",
        ) from None
    if header is None:
        raise _empty(path)


def _header(path: Path, row: list[str]) -> list[str]:
    if len(set(row)) != len(row):
        raise DataError(
            f"{path}:1: a column stands twice in the header", got=", ".join(row), wanted="each name once"
        )
    return row


def _empty(path: Path) -> DataError:
    return DataError(f"{path}: the file holds no rows", got="no rows", wanted="at least one row")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, line ends kept, a byte order mark dropped."""
    with path.open("rb") as handle:
        yield from _decoded(path, handle)


def _decoded(path: Path, handle: BinaryIO) -> Iterator[tuple[int, str]]:
    offset = 0
    for number, raw in enumerate(handle, start=1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: not UTF-8, at byte {offset + error.start} of the file",
                got=f"byte 0x{raw[error.start]:02x} in {shortened(raw.decode('latin-1').strip())}",
                wanted="a UTF-8 file",
                next_step=f"re-encode it, for example: iconv -f latin1 -t utf-8 {path.name} > new{path.suffix}",
            ) from None
        offset += len(raw)
        yield number, line.removeprefix("\ufeff") if number == 1 else line


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return str(error).split(";")[0]


def shortened(text: str, limit: int = 80) -> str:
    """The text, or its beginning."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
