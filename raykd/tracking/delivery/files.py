"""Keep what waits for MLflow in files of JSON lines, which survive a killed process.

A line that was torn by a crash is passed over, and a file is replaced in one step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from raykd.parse import JsonObject

T = TypeVar("T")


def append_json_rows(path: Path, rows: Sequence[JsonObject]) -> None:
    """Add rows to a file, which is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


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
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield parse(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
