"""Add predictions to the rows of a file, and write them as JSON lines, CSV, TSV or Parquet.

Decision record: a row keeps all keys that it came with and gets `prediction`, and what was asked for beside it. A
key of that name in the file is refused, because one of the two values would be lost. Parquet to Parquet keeps
columns as they are. In CSV and TSV, which hold texts alone, anything else is JSON. A file is written beside its
place and then renamed, so a command that is stopped leaves no half of one.
"""

from __future__ import annotations

import csv
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.data.files.records import DELIMITED, JSON_LINES, PARQUET
from raykd.errors import ConfigError, DataError
from raykd.folders.places import try_folder
from raykd.scoring.inputs import InputRows

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTION = "prediction"
_PROBABLE = ("probabilities", "probability")
"""What a model may say beside its answer."""


def check_output(output: Path, source: Path | None) -> None:
    """Refuse an output that cannot be written, before a model is asked.

    Raises:
        ConfigError: Its ending says no kind, its folder is not there or cannot be written, or it is the file that is
            read.
    """
    known = (*JSON_LINES, *DELIMITED, *PARQUET)
    if output.suffix.lower() not in known:
        raise ConfigError(
            f"--output {output}: the ending does not say what to write",
            got=output.suffix or "no ending",
            wanted=", ".join(known),
        )
    if not output.parent.is_dir() or output.is_dir():
        raise ConfigError(
            f"--output {output} cannot be written",
            got="a folder" if output.is_dir() else f"no folder {output.parent}",
            wanted="a file in a folder that is there",
        )
    try_folder(output.parent, "the folder of --output")
    if source is not None and output.exists() and source.exists() and output.samefile(source):
        raise ConfigError(
            f"--output {output} is the file that is read", got=str(source), wanted="another file"
        )


def add_predictions(
    rows: InputRows, answers: Iterable[Mapping[str, object]], keys: Sequence[str], *, probabilities: bool
) -> Iterator[dict[str, object]]:
    """Yield each row of a file with its prediction.

    Args:
        rows: The file's rows.
        answers: What `raykd.scoring.model.Model.iterate` yields for them.
        keys: See `Model.list_answer_keys`.
        probabilities: Whether to add how probable the answer is: ``probabilities`` of all labels, or ``probability``.

    Raises:
        ConfigError: Probabilities are asked of a model that gives none.
        DataError: The file has a key of one of these names.
    """
    gives = "probability" in keys or any(key.startswith("p_") for key in keys)
    if probabilities and not gives:
        raise ConfigError(
            "--probabilities: this model gives none",
            got=f"a model that answers with {keys[0]}",
            wanted="a model that chooses a label or a span",
        )
    added = (PREDICTION, *(_PROBABLE if probabilities else ()))
    originals = rows.originals or []
    if taken := [key for key in added if any(key in row for row in originals)]:
        raise DataError(
            f"the file has a column {taken[0]!r} already",
            got=", ".join(dict.fromkeys(key for row in originals for key in row)),
            wanted=f"no column {taken[0]!r}, which the command adds",
            next_step="rename or drop it",
        )
    return _join_answers(originals, answers, keys[0], probabilities=probabilities)


def _join_answers(
    originals: Sequence[dict[str, object]],
    answers: Iterable[Mapping[str, object]],
    key: str,
    *,
    probabilities: bool,
) -> Iterator[dict[str, object]]:
    for row, answer in zip(originals, answers, strict=True):
        beside = {name: answer[name] for name in _PROBABLE if probabilities and name in answer}
        yield {**row, PREDICTION: answer[key], **beside}


def format_row(row: Mapping[str, object]) -> str:
    """Return a row as JSON; what JSON has no form for, such as a date of Parquet, as text."""
    return json.dumps(row, ensure_ascii=False, default=str)


def write_rows(rows: Iterable[dict[str, object]], output: Path, table: pa.Table | None = None) -> int:
    """Write rows as the output's ending says and return how many there are.

    Args:
        rows: As `add_predictions` yields them.
        output: Checked by `check_output`.
        table: The Parquet table that the rows come from; its columns keep their types in a Parquet output.

    Raises:
        DataError: The values of a column fit no one type of Parquet.
    """
    ending = output.suffix.lower()
    with _replace_when_done(output) as fresh:
        if ending in JSON_LINES:
            return _write_json_lines(rows, fresh)
        if ending in PARQUET:
            return _write_parquet(list(rows), fresh, table)
        return _write_delimited(list(rows), fresh, DELIMITED[ending])


@contextmanager
def _replace_when_done(output: Path) -> Iterator[Path]:
    fresh = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    try:
        yield fresh
        os.replace(fresh, output)
    finally:
        fresh.unlink(missing_ok=True)


def _write_json_lines(rows: Iterable[dict[str, object]], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(format_row(row) + "\n")
            count += 1
    return count


def _write_delimited(rows: Sequence[dict[str, object]], path: Path, delimiter: str) -> int:
    """Write CSV, or TSV with every field in quotes, by which its readers know that it is quoted."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(
            file, delimiter=delimiter, quoting=csv.QUOTE_ALL if delimiter == "\t" else csv.QUOTE_MINIMAL
        )
        writer.writerow(heads)
        writer.writerows([_format_cell(row.get(head)) for head in heads] for row in rows)
    return len(rows)


def _format_cell(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def _write_parquet(rows: list[dict[str, object]], path: Path, table: pa.Table | None) -> int:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if table is None:
            table = pa.Table.from_pylist(rows)
            # Of rows with different keys, pyarrow would take the first one's.
            heads = list(dict.fromkeys(key for row in rows for key in row))
            table = pa.table({head: [row.get(head) for row in rows] for head in heads})
        else:
            own = set(table.column_names)
            for head in [key for key in (rows[0] if rows else {PREDICTION: None}) if key not in own]:
                table = table.append_column(head, pa.array([row[head] for row in rows]))
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(
            "these rows cannot be written as Parquet",
            got=str(error)[:200],
            wanted="values of one type in each column",
            next_step="write .jsonl, which takes any values",
        ) from None
    pyarrow.parquet.write_table(table, path)
    return len(rows)
