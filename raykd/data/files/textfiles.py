"""Read JSON lines as records that know their line.

Decision record: text files are read here and in `delimited`, with the standard library, and not through `datasets`:
every error has to name file and line, so each line is looked at anyway; and the Arrow readers guess types (a column of
texts that look like dates comes back as timestamps, "007" as 7, "NA" as nothing; a column of numbers and strings
fails), which changes what the user wrote. How bytes become lines stands in `opening`.

A file that cannot be parsed always fails; what a *row* holds is checked by `read`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from raykd.data.files.opening import LineBlock
from raykd.data.files.remote import AnyFile, RemoteFile
from raykd.errors import DataError, show_value

_VARIABLE = re.compile(r"\$\{?[A-Za-z_]")


@dataclass(frozen=True)
class Record:
    """A row as it stands in its source.

    Attributes:
        place: ``file:line`` (or what the source has instead), for messages.
        line: The number of the row's first line, or of the row.
        values: Values by column; `UnreadValue` where a value holds no text.
        flat: Whether every value is a string, lists too.
    """

    place: str
    line: int
    values: Mapping[str, object]
    flat: bool = False


@dataclass(frozen=True, repr=False)
class UnreadValue:
    """Stands for a value that is no text, list or number; a message about the row shows what it is."""

    what: str

    def __repr__(self) -> str:
        return self.what


def require_file(path: AnyFile) -> None:
    """Raise a DataError unless the path is a regular file that can be read; a remote one is tried when it is opened."""
    if isinstance(path, RemoteFile):
        return
    problem = None
    advice = "correct the path (relative paths are relative to the run file)" + _advise_on_path(path)
    if not path.exists():
        near = path.parent
        while not near.exists():
            near = near.parent
        problem, got = "there is no such file", f"nothing at {path} (the folder {near} is there)"
        # A link that leads nowhere is no proposal: it is what was named.
        beside = [p.name for p in path.parent.iterdir() if p.exists()] if near == path.parent else []
        if meant := difflib.get_close_matches(path.name, beside, n=1, cutoff=0.6):
            advice = f"did you mean {meant[0]}, which lies in the same folder?"
    elif path.is_dir():
        inside = sorted(p.name for p in path.iterdir())
        problem, got = "is a directory, not a file", f"a directory that holds {inside[:5]}"
        if {"dataset_dict.json", "state.json"} & set(inside):
            advice = f"it was written by save_to_disk: name it as {{kind: hub, name: {path}, split: ...}}"
    elif not path.is_file():
        problem, got = "is no regular file", "a device, socket or pipe"
    elif not os.access(path, os.R_OK):
        problem, got = "cannot be read", "no permission"
    if problem is not None:
        raise DataError(
            f"{path}: {problem}",
            got=got,
            wanted="a file that ends in .jsonl, .csv, .tsv, .txt or .parquet, packed (.gz) or not",
            next_step=advice,
        )


def _advise_on_path(path: AnyFile) -> str:
    """Return advice about parts of a path that other programs fill in."""
    return "; variables of the shell are not filled in here, ~ is" if _VARIABLE.search(str(path)) else ""


def parse_json_lines(block: LineBlock) -> Iterator[Record]:
    """Yield one record per line; blank lines are skipped.

    Raises:
        DataError: A line is no JSON or no object, with file and line; as `LineBlock.split`.
    """
    for number, whole in block.split():
        line = whole.lstrip("\ufeff")  # files that were put together keep the mark of each
        if line.strip():
            place = f"{block.path}:{number}"
            yield Record(place, number, _parse_json_line(line, place))


def _parse_json_line(line: str, place: str) -> dict[str, object]:
    try:
        value = json.loads(line, object_pairs_hook=_build_object)
    except (ValueError, RecursionError) as error:
        cut = not line.endswith(("\n", "\r"))
        raise DataError(
            f"{place}: the line is not JSON ({_describe_json_error(error, line)})",
            got=shorten_text(line.strip()),
            wanted="one JSON object a line",
            next_step="the file ends in the middle of a line: was it cut off while it was written or copied?"
            if cut
            else "correct the line; a file that is one JSON list or object has to be written one object a line"
            if line.lstrip()[:1] in "[{"
            else "correct the line; a table has the ending .csv or .tsv",
        ) from None
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: the line is not a JSON object",
            got=shorten_text(line.strip()),
            wanted='one object a line, for example {"text": "...", "label": "..."}',
            next_step="write each part of the list as a line of its own"
            if isinstance(value, list)
            else "correct the line",
        )
    return value


def _build_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object; a key with two different values has no value, since JSON does not say which counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        for key in found:
            values = [value for name, value in pairs if name == key]
            if any(value != values[0] for value in values):
                found[key] = UnreadValue(
                    f"{len(values)} values, as the key stands {len(values)} times: {values}"
                )
    return found


def _describe_json_error(error: Exception, line: str) -> str:
    if "\0" in line:
        return f"a NUL byte, column {line.index(chr(0)) + 1}"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return str(error).split(";")[0]


def show_cell(value: object) -> str:
    """Return the beginning of a cell, for a message. A truth value stands as in JSON and not as in Python."""
    return show_value(value) if isinstance(value, bool) else shorten_text(repr(value))


def shorten_text(text: str, limit: int = 80) -> str:
    """Return the text, or its beginning."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
