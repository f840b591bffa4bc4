"""Read CSV and TSV: find how the fields of a file are separated and quoted, and yield its records.

Decision record: a delimiter is taken from the header, not from statistics: the usual one of the ending unless another
one splits the header. A tab file has no quoting (every line is a record) unless its header stands in quotes, because
most such files hold bare quotes and a reader that knows quoting would silently join their rows. Where a field looks as
if quoting was meant, the user has to say which. In CSV a quoted field may hold line ends, so records are
compared with lines: a record whose lines would all be rows is refused, unless the source says that quotes count.
What was found is noted, so that it can be seen before a run.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Literal

from raykd.data.files.blocks import Block, group_rows
from raykd.data.files.opening import read_lines
from raykd.data.files.remote import AnyFile
from raykd.data.files.textfiles import Record, shorten_text
from raykd.errors import DataError

Quoting = Literal["minimal", "none"]
Tell = Callable[[str], None]

_LARGEST_FIELD = 2**31 - 1
_DELIMITERS = (",", "\t", ";", "|")
_SAMPLE = 50
"""Lines that are looked at for the delimiter."""
_SEP = re.compile(r'^"?sep=(.)"?\r?\n?\Z', re.IGNORECASE)
"""Excel's first line, which names the delimiter."""
_MOST_VALUES = 1000
"""Different values of a column that are remembered, to tell a row inside a quoted field from a text."""


@dataclass(frozen=True)
class Dialect:
    """How the fields of a file are written.

    Attributes:
        delimiter: Between two fields.
        trusted: Whether the user said how they are quoted.
    """

    delimiter: str
    trusted: bool


def read_delimited(
    path: AnyFile, usual: str, tell: Tell, delimiter: str | None = None, quoting: Quoting | None = None
) -> Iterator[Block]:
    """Yield the rows under the header; every value is the string that stands there.

    Args:
        path: The file.
        usual: The delimiter of the file's ending.
        tell: Takes what a person should know of how the file was read.
        delimiter: What the user says; None finds out.
        quoting: What the user says; None finds out.

    Raises:
        DataError: No text, no header, a name twice in it, a quote that is never closed or closed too early, rows inside
            a quoted field, or a row of another width than the header; with file and line.
    """
    csv.field_size_limit(_LARGEST_FIELD)
    lines = read_lines(path)
    head = list(islice(lines, _SAMPLE))
    if head and (named := _SEP.match(head[0][1])):
        delimiter = delimiter or named.group(1)
        del head[0]
    if not any(line.strip() for _, line in head):
        raise DataError(f"{path}: the file holds no rows", got="no rows", wanted="at least one row")
    texts = [line for _, line in head if line.strip()]
    found = delimiter or _find_delimiter(texts, usual)
    in_quotes = any(_is_quoted(name) for name in texts[0].strip().split(found))
    quoted = quoting == "minimal" if quoting is not None else found != "\t" or in_quotes
    if delimiter is None and found != usual:
        tell(
            f"{path.name}: by its header the delimiter seems to be {found!r}; delimiter on the source says otherwise"
        )
    if quoting is None and found == "\t" and in_quotes:
        tell(
            f"{path.name}: fields stand in quotes, as its header does; quoting: none on the source keeps them"
        )
    dialect = Dialect(found, quoting is not None)
    read = _read_quoted_rows if quoted else _read_unquoted_rows
    rows = read(path, chain(head, lines), dialect, tell)
    _, header = next(rows)
    yield from group_rows(rows, header, partial(_build_record, path, header))


def _find_delimiter(lines: Sequence[str], usual: str) -> str:
    """Return the delimiter that splits the header, preferably one by which the first rows are equally wide."""
    order = [usual, *(mark for mark in _DELIMITERS if mark != usual)]
    widths = {mark: [len(row) for row in csv.reader(lines[:-1] or lines, delimiter=mark)] for mark in order}
    for even in (True, False):
        for mark in order:
            if widths[mark][0] > 1 and (not even or len(set(widths[mark])) == 1):
                return mark
    return usual


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] == '"'


def _read_unquoted_rows(
    path: AnyFile, lines: Iterator[tuple[int, str]], dialect: Dialect, tell: Tell
) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the rows with their lines; quotes are part of the texts."""
    header: list[str] | None = None
    with_quotes = 0
    for number, line in lines:
        row = line.rstrip("\r\n").split(dialect.delimiter)
        if row == [""]:
            continue
        if header is None:
            header = _check_header(path, number, row)
            yield number, header
            continue
        if len(row) != len(header):
            raise _build_width_error(path, number, row, header, _ADVICE_WITHOUT_QUOTES)
        with_quotes += any(field.startswith('"') for field in row)
        for text in () if dialect.trusted else row:
            inside = text[1:-1]
            if _is_quoted(text) and '""' in inside and '"' not in inside.replace('""', ""):
                raise DataError(
                    f"{path}:{number}: a field is quoted as CSV quotes it, but a tab file has no quoting of its own",
                    got=shorten_text(text),
                    wanted="quoting: minimal on the source, where such quotes are taken off, or quoting: none, where "
                    "they are part of the text",
                )
        yield number, row
    if with_quotes and not dialect.trusted:
        tell(
            f"{path.name}: a tab file has no quoting; rows with a field that begins with a quote: {with_quotes:,}"
        )


@dataclass
class _RecordLines:
    """Hand lines to the CSV reader and remember those of the record that is being read."""

    lines: Iterator[tuple[int, str]]
    taken: list[tuple[int, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        for number, line in self.lines:
            self.taken.append((number, line))
            yield line


def _read_quoted_rows(
    path: AnyFile, lines: Iterator[tuple[int, str]], dialect: Dialect, tell: Tell
) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the rows, each with its first line."""
    feed = _RecordLines(lines)
    header: list[str] | None = None
    long = _MultilineRecords(dialect.delimiter)
    try:
        for row in csv.reader(feed, delimiter=dialect.delimiter, strict=True):
            taken, feed.taken = feed.taken, []
            number = taken[0][0]
            if not row:
                continue
            if header is None:
                header = _check_header(path, number, row)
                yield number, header
                continue
            if len(row) != len(header):
                raise _build_width_error(
                    path, number, row, header, _ADVICE_ON_WIDTH if len(header) > 1 else _ADVICE_ON_ONE
                )
            long.see(row, taken)
            yield number, row
    except csv.Error as error:
        raise _build_csv_error(path, feed.taken, str(error)) from None
    long.judge(path, dialect, tell)


_ADVICE_WITHOUT_QUOTES = (
    "a file without quoting holds one row a line; if fields that hold tabs or line ends stand in quotes, set quoting: "
    "minimal on the source"
)
_ADVICE_ON_WIDTH = (
    'put a field that holds the delimiter, a quote or a line end in quotes, with "" for a quote in it; another '
    "delimiter can be named on the source (delimiter: ...)"
)
_ADVICE_ON_ONE = (
    'put texts that hold the delimiter in quotes, with "" for a quote; where every line is one text, set '
    "delimiter: tab and quoting: none on the source"
)


class _MultilineRecords:
    """Records of several lines: how many, and which of them look as if a quote had swallowed rows."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._values: list[set[str]] = []
        self._doubtful: list[tuple[int, int, list[list[str]]]] = []
        self.count = 0

    def see(self, row: list[str], taken: list[tuple[int, str]]) -> None:
        """Take a record and its lines."""
        if len(taken) == 1:
            self._values = self._values or [set() for _ in row]
            for values, value in zip(self._values, row, strict=True):
                if len(values) < _MOST_VALUES:
                    values.add(value)
            return
        self.count += 1
        alone = [line.rstrip("\r\n").split(self._delimiter) for _, line in taken]
        alone = alone[1:-1] or alone  # the first and the last hold the quotes, and may hold more
        if len(row) > 1 and {len(parts) for parts in alone} == {len(row)}:
            self._doubtful.append((taken[0][0], taken[-1][0], alone))

    def judge(self, path: AnyFile, dialect: Dialect, tell: Tell) -> None:
        """Refuse records whose lines are rows: as wide as the header, with values that the column has elsewhere."""
        for first, last, alone in () if dialect.trusted else self._doubtful:
            if any(all(parts[at] in seen for parts in alone) for at, seen in enumerate(self._values)):
                raise DataError(
                    f"{path}:{first}: a quote opens here and closes in line {last}, and every line between looks like "
                    "a row of its own",
                    got=f"{last - first + 1} lines as one row: {shorten_text(self._delimiter.join(alone[0]))} ...",
                    wanted='each quote inside a field doubled, and the field in quotes: """so"" they said"',
                    next_step="correct the lines; set quoting: none on the source if no field is quoted, or quoting: "
                    "minimal if this is one text of several lines",
                )
        if self.count:
            tell(
                f"{path.name}: rows whose quoted fields hold line ends, so that they are several lines: {self.count:,}"
            )


def _build_csv_error(path: AnyFile, taken: list[tuple[int, str]], reason: str) -> DataError:
    """Return an error for what csv finds wrong; it knows two kinds, told apart by its message."""
    first, text = taken[0] if taken else (1, "")
    last = taken[-1][0] if taken else 1
    if "unexpected end" in reason:
        what, got = "a quote is opened in this row and never closed", f"no closing quote down to line {last}"
    elif "expected after" in reason:
        what, got = "a field begins with a quote and goes on after the next one", reason
    else:
        what, got = "the row that begins here is not valid CSV", reason
    return DataError(
        f"{path}:{first}: {what}",
        got=f"{got}: {shorten_text(text.strip())}",
        wanted='each quote inside a field doubled, and the field in quotes: """so"" they said" (a backslash does not '
        "do it)",
        next_step="correct the row, or set quoting: none on the source if quotes are part of the texts and no field "
        "is quoted",
    )


def _check_header(path: AnyFile, number: int, row: list[str]) -> list[str]:
    named = [name for name in row if name]
    if len(set(named)) != len(named):
        raise DataError(
            f"{path}:{number}: a column stands twice in the header",
            got=", ".join(row),
            wanted="each name once",
        )
    return row


def _build_record(path: AnyFile, header: list[str], number: int, row: list[str]) -> Record:
    values = {name: value for name, value in zip(header, row, strict=True) if name}
    return Record(f"{path}:{number}", number, values, flat=True)


def _build_width_error(
    path: AnyFile, number: int, row: list[str], header: list[str], advice: str
) -> DataError:
    return DataError(
        f"{path}:{number}: the row has another number of fields than the header",
        got=f"{len(row)} fields: {shorten_text(str(row))}",
        wanted=f"{len(header)} fields: {', '.join(header)}",
        next_step=advice,
    )
