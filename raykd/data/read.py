"""`read_source`: a source of the config becomes checked `Rows`.

Decision record: rows are judged here, before a worker is taken, so that nothing after it has to. What a file, the
hub and the embedded corpus hold is brought to one form (`Record`s with a place) and judged by one function; all bad
rows of a source are counted and the first few shown in one error, because a user mends files, not rows. Labels are
compared as text: a label 1 in a file is the label "1" of the config, nothing else is converted.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raykd.config import DataConfig, Embedded, Files, Hub, Source
from raykd.data import corpus
from raykd.data.records import file_records, hub_records
from raykd.data.rows import Rows
from raykd.data.textfiles import Record, require_file, shortened
from raykd.distill.signals import UNLABELLED
from raykd.errors import DataError

log = logging.getLogger("raykd.data")

SHOWN_BAD_ROWS = 5


def read_source(
    source: Source,
    config: DataConfig,
    *,
    base_dir: Path,
    labelled: bool,
    skipped: dict[str, int] | None = None,
) -> Rows:
    """All rows of a source, in its order.

    Args:
        base_dir: what relative paths are relative to.
        labelled: whether rows need a gold label; False leaves every row `UNLABELLED` and looks at no label.
        skipped: takes the number of bad rows that were skipped, by file or data set.

    Raises:
        DataError: a file that cannot be read, a column that is not there, or bad rows (any, or with
            ``on_bad_row: skip`` more than ``max_bad_rows``); names file and line.
    """
    if isinstance(source, Embedded):
        return _embedded(source, config, labelled)
    if isinstance(source, Hub):
        return _judged(hub_records(source, base_dir), source.name, source, config, labelled, skipped)
    parts = []
    for name in source.paths:
        path = base_dir / name
        require_file(path)
        parts.append(_judged(file_records(path), str(path), source, config, labelled, skipped))
    return Rows.concat(parts)


@dataclass(frozen=True)
class _Wanted:
    """Columns to read (None: not there) and the language of all rows, if the source tells one."""

    text: str
    text_pair: str | None
    label: str | None
    language: str | None
    id: str | None
    of_all: str | None


class _BadRowError(Exception):
    """What is wrong with one row; never leaves this module."""


def _judged(
    records: Iterable[Record],
    name: str,
    source: Files | Hub,
    config: DataConfig,
    labelled: bool,
    skipped: dict[str, int] | None,
) -> Rows:
    """The good rows of one file or data set."""
    found = list(records)
    if not found:
        raise DataError(f"{name}: holds no rows", got="no rows", wanted="at least one row")
    wanted = _columns(found, name, source, config, labelled)
    stem = Path(name).stem if isinstance(source, Files) else name
    kept: list[tuple[str, str, str, str, int]] = []
    bad: list[str] = []
    for record in found:
        try:
            kept.append(_row(record, wanted, config, stem))
        except _BadRowError as error:
            bad.append(f"{record.place}: {error}")
    if bad:
        _report(bad, len(found), name, config)
        if skipped is not None:
            skipped[name] = len(bad)
    ids, texts, pairs, languages, labels = zip(*kept, strict=True) if kept else ((), (), (), (), ())
    return Rows(
        ids, texts, pairs if wanted.text_pair else None, languages, np.asarray(labels, dtype=np.int64)
    )


def _columns(
    found: list[Record], name: str, source: Files | Hub, config: DataConfig, labelled: bool
) -> _Wanted:
    """Which columns to read, all of them there."""
    names: dict[str, Any] = config.columns.model_dump() | dict(source.columns)
    there: dict[str, None] = {}
    for record in found:
        there.update(dict.fromkeys(record.values))
    if not labelled:
        names["label"] = None
    of_all = source.language
    if of_all is None and len(config.languages) == 1:
        of_all = config.languages[0]
    if of_all is not None and of_all not in config.languages:
        raise DataError(
            f"{name}: the source's language is not in data.languages",
            got=of_all,
            wanted=f"one of {list(config.languages)}",
        )
    if of_all is not None and names["language"] not in there:
        names["language"] = None
    missing = {key: column for key, column in names.items() if column is not None and column not in there}
    if names["language"] is None and of_all is None:
        missing["language"] = "(none is named)"
    if missing:
        raise DataError(
            f"{name}: no column "
            + ", ".join(f"{column!r} (data.columns.{key})" for key, column in missing.items()),
            got=f"columns {', '.join(map(str, there))}",
            wanted=", ".join(str(column) for column in names.values() if column is not None),
            next_step=_how_to_name(missing),
        )
    return _Wanted(**names, of_all=of_all)


def _how_to_name(missing: dict[str, str]) -> str:
    advice = f"name it: data.columns.{next(iter(missing))}, or columns of the source"
    if "language" in missing:
        advice += "; a source of one language can say so with `language`"
    if "label" in missing:
        advice += "; texts without labels belong in data.unlabeled"
    return advice


def _row(record: Record, wanted: _Wanted, config: DataConfig, stem: str) -> tuple[str, str, str, str, int]:
    """id, text, second text, language and label of a good row."""
    values = record.values
    text = _text(values.get(wanted.text), wanted.text)
    pair = "" if wanted.text_pair is None else _text(values.get(wanted.text_pair), wanted.text_pair)
    language = _language(values.get(wanted.language) if wanted.language else None, wanted, config)
    label = UNLABELLED if wanted.label is None else _label(values.get(wanted.label), config.labels)
    given = values.get(wanted.id) if wanted.id else None
    return (f"{stem}:{record.line}" if given is None else str(given)), text, pair, language, label


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise _BadRowError(f"column {column!r}: got {shortened(repr(value))}, wanted a text")
    if not value.strip():
        raise _BadRowError(f"column {column!r}: got an empty text {value!r}, wanted words")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _BadRowError(
            f"column {column!r}: got half a surrogate pair at character {error.start}, wanted Unicode text"
        ) from None
    return value


def _language(value: Any, wanted: _Wanted, config: DataConfig) -> str:
    if value is None and wanted.of_all is not None:
        return wanted.of_all
    if not isinstance(value, str) or value not in config.languages:
        near = _near(value, config.languages)
        raise _BadRowError(f"language: got {value!r}, wanted one of {list(config.languages)}{near}")
    if wanted.of_all is not None and value != wanted.of_all:
        raise _BadRowError(f"language: got {value!r}, wanted {wanted.of_all!r}, the language of the source")
    return value


def _label(value: Any, labels: tuple[str, ...]) -> int:
    name = str(value) if isinstance(value, int) else value
    if not isinstance(name, str) or name not in labels:
        raise _BadRowError(f"label: got {value!r}, wanted one of {list(labels)}{_near(value, labels)}")
    return labels.index(name)


def _near(value: Any, allowed: tuple[str, ...]) -> str:
    """A suggestion where only case, blanks or a letter differ."""
    if not isinstance(value, str):
        return ""
    folded = {name.casefold(): name for name in allowed}
    plain = value.strip().casefold()
    exact = folded.get(plain) or folded.get(plain.replace("_", "-").split("-")[0])
    close = (
        [exact] if exact else [folded[n] for n in difflib.get_close_matches(plain, folded, n=1, cutoff=0.8)]
    )
    return f" (did you mean {close[0]!r}?)" if close else ""


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


def _embedded(source: Embedded, config: DataConfig, labelled: bool) -> Rows:
    """The generated corpus in the run's label order."""
    if not labelled:
        return corpus.generate(source, config.languages).without_labels()
    if source.split == "unlabeled":
        raise DataError(
            "the embedded split 'unlabeled' has no labels",
            got="split: unlabeled where labels are needed",
            wanted="split: train, validation or test",
            next_step="use it as data.unlabeled",
        )
    if set(config.labels) != set(corpus.LABELS):
        raise DataError(
            "data.labels are not those of the embedded corpus",
            got=list(config.labels),
            wanted=f"{list(corpus.LABELS)}, in any order",
        )
    rows = corpus.generate(source, config.languages)
    order = np.asarray([config.labels.index(name) for name in corpus.LABELS], dtype=np.int64)
    return Rows(rows.ids, rows.texts, rows.pairs, rows.languages, order[rows.labels_B])
