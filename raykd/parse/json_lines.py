"""Append to and read files of JSON lines, which survive a killed process.

Decision record: a process may be killed while it writes, so a line may be half there. It is passed over, with a
warning that names it, and the next line begins on its own: appended to the half, it would be lost with it.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from raykd.parse.bounded import JsonObject

T = TypeVar("T")
log = logging.getLogger("raykd")


def append_json_rows(path: Path, rows: Sequence[JsonObject], *, lasting: bool = False) -> None:
    """Add rows to a file, which is made where there is none.

    Args:
        path: The file.
        rows: One line each.
        lasting: Return only when they are on the disk, where they survive the machine too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            lines = b"\n" + lines
        file.write(lines)
        if lasting:
            file.flush()
            os.fsync(file.fileno())


def replace_json_rows(path: Path, rows: Sequence[JsonObject]) -> None:
    """Replace a file by these rows, at once; no rows removes it."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    fresh = path.with_suffix(".tmp")
    fresh.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fresh.replace(path)


def read_json_rows(path: Path, parse: Callable[[JsonObject], T]) -> Iterator[T]:
    """Yield what each whole line holds; nothing where there is no file.

    Args:
        path: The file.
        parse: Reads one row; a row that it refuses is passed over.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = parse(json.loads(line))
            except (ValueError, LookupError, TypeError, AttributeError):
                if line.strip():
                    _warn_of_line(str(path), number)
                continue
            yield row


@functools.cache  # a file is read more than once
def _warn_of_line(path: str, number: int) -> None:
    log.warning("%s: line %d is not whole and was passed over; was its writer killed?", path, number)
