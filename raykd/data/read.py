"""`read_source`: a source of the config becomes checked `Rows`.

Decision record: rows are judged here, before a worker is taken, so that nothing after it has to. What a file, the
hub and the embedded corpus hold is brought to one form (`Record`s with a place) and judged by one function; all bad
rows of a source are counted and the first few shown in one error, because a user mends files, not rows. What a row
consists of is the task's form: `columns` says what is read, `forms` and `cells` judge it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from raykd.config import DataConfig, Embedded, Files, Hub, Source
from raykd.data.cells import BadRowError, near
from raykd.data.columns import columns_of
from raykd.data.embedded import embedded_rows
from raykd.data.forms import Parts, Wanted, parts_of
from raykd.data.records import file_records, hub_records
from raykd.data.rows import Rows
from raykd.data.textfiles import Record, require_file
from raykd.errors import DataError
from raykd.tasks.forms import RowForm

log = logging.getLogger("raykd.data")

SHOWN_BAD_ROWS = 5

_Tallies = tuple[dict[str, int], dict[str, int]]
"""Skipped rows and mended tags, by file."""


def read_source(
    source: Source,
    config: DataConfig,
    *,
    base_dir: Path,
    labelled: bool,
    form: RowForm = "text",
    skipped: dict[str, int] | None = None,
    mended: dict[str, int] | None = None,
) -> Rows:
    """All rows of a source, in its order.

    Args:
        base_dir: what relative paths are relative to.
        labelled: whether rows need a gold label; False leaves every row `UNLABELLED` and looks at no label.
        form: what a row of the task consists of.
        skipped: takes the number of bad rows that were skipped, by file or data set.
        mended: takes the number of tags that were read as others (``on_loose_inside: begin``), likewise.

    Raises:
        DataError: a file that cannot be read, a column that is not there, or bad rows (any, or with
            ``on_bad_row: skip`` more than ``max_bad_rows``); names file and line.
    """
    if isinstance(source, Embedded):
        return embedded_rows(source, config, form, labelled)
    tallies: _Tallies = ({} if skipped is None else skipped, {} if mended is None else mended)
    if isinstance(source, Hub):
        records: Iterable[Record] = hub_records(source, base_dir)
        return _judged(records, source.name, source, config, form, labelled, tallies)
    parts = []
    for name in source.paths:
        path = base_dir / name
        require_file(path)
        parts.append(_judged(file_records(path), str(path), source, config, form, labelled, tallies))
    return Rows.concat(parts)


def _judged(
    records: Iterable[Record],
    name: str,
    source: Files | Hub,
    config: DataConfig,
    form: RowForm,
    labelled: bool,
    tallies: _Tallies,
) -> Rows:
    """The good rows of one file or data set."""
    found = list(records)
    if not found:
        raise DataError(f"{name}: holds no rows", got="no rows", wanted="at least one row")
    wanted = columns_of(found, name, source, config, form, labelled)
    stem = Path(name).stem if isinstance(source, Files) else name
    kept: list[tuple[str, str, Parts]] = []
    bad: list[str] = []
    for record in found:
        try:
            kept.append(_row(record, wanted, config, stem))
        except BadRowError as error:
            bad.append(f"{record.place}: {error}")
    skipped, mended = tallies
    if bad:
        _report(bad, len(found), name, config)
        skipped[name] = len(bad)
    tags = sum(parts.mended for _, _, parts in kept)
    if tags:
        mended[name] = tags
        log.warning("%s: read %d tags I- that no B- precedes as B-", name, tags)
    return _as_rows(kept, wanted)


def _row(record: Record, wanted: Wanted, config: DataConfig, stem: str) -> tuple[str, str, Parts]:
    """id, language and parts of a good row."""
    parts = parts_of(record, wanted, config)
    column = wanted.names.get("language")
    language = _language(record.values.get(column) if column else None, wanted, config)
    given = record.values.get(wanted.names["id"]) if "id" in wanted.names else None
    return (f"{stem}:{record.line}" if given is None else str(given)), language, parts


def _as_rows(kept: list[tuple[str, str, Parts]], wanted: Wanted) -> Rows:
    with_pairs = wanted.form not in ("text", "words", "plain") or "text_pair" in wanted.names
    with_golds = wanted.form in ("words", "answers")
    return Rows(
        ids=tuple(name for name, _, _ in kept),
        texts=tuple(parts.text for _, _, parts in kept),
        pairs=tuple(parts.pair or "" for _, _, parts in kept) if with_pairs else None,
        languages=tuple(language for _, language, _ in kept),
        labels_B=np.asarray([parts.label for _, _, parts in kept], dtype=np.int64),
        words=tuple(parts.words or () for _, _, parts in kept) if wanted.form == "words" else None,
        golds=tuple(parts.gold or () for _, _, parts in kept) if with_golds else None,
        modes=tuple(parts.mode for _, _, parts in kept) if wanted.form == "words" else None,
    )


def _language(value: Any, wanted: Wanted, config: DataConfig) -> str:
    if value is None and wanted.of_all is not None:
        return wanted.of_all
    if not isinstance(value, str) or value not in config.languages:
        raise BadRowError(
            f"language: got {value!r}, wanted one of {list(config.languages)}{near(value, config.languages)}"
        )
    if wanted.of_all is not None and value != wanted.of_all:
        raise BadRowError(f"language: got {value!r}, wanted {wanted.of_all!r}, the language of the source")
    return value


def _report(bad: list[str], rows: int, name: str, config: DataConfig) -> None:
    """Raises, or logs where bad rows may be skipped."""
    shown = bad[:SHOWN_BAD_ROWS]
    if len(bad) > len(shown):
        shown.append(f"and {len(bad) - len(shown)} more")
    listed = "".join(f"\n    {line}" for line in shown)
    if config.on_bad_row == "skip" and len(bad) <= config.max_bad_rows * rows:
        log.warning("%s: skipped %d bad rows of %d:%s", name, len(bad), rows, listed)
        return
    skipping = config.on_bad_row == "skip"
    raise DataError(
        f"{name}: {len(bad)} of {rows} rows {'is' if len(bad) == 1 else 'are'} bad:{listed}",
        got=f"{len(bad)} bad rows ({len(bad) / rows:.1%})",
        wanted=f"at most data.max_bad_rows {config.max_bad_rows:.1%}" if skipping else "none",
        next_step="correct the rows"
        + ("" if skipping else ", or set data.on_bad_row: skip to leave them out, counted and logged"),
    )
