"""Read a source of the config into checked `Rows`.

Decision record: rows are checked here, before a worker is taken, so that nothing after it has to. Files and hub sets
are brought to one form (`Record`s with a place) and checked by one function. All bad rows of a source are counted and
the first few shown in one error, because a user corrects files, not rows. What a row consists of is the task's form:
`columns` says what is read, `forms` and `cells` check it.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from raykd.config import DataConfig, Embedded, Files, Hub, Source
from raykd.data.cells import BadRowError, find_spelling, suggest_spelling
from raykd.data.columns import choose_columns, lacks_gold_column
from raykd.data.embedded.rows import load_embedded_rows
from raykd.data.files.opening import PACKED
from raykd.data.files.records import read_file_records, read_hub_records
from raykd.data.files.slices import list_matching_files
from raykd.data.files.textfiles import Record, UnreadValue, require_file, show_cell
from raykd.data.forms import RowParts, WantedColumns, parse_row
from raykd.data.labels import ExcludedLabelError, NoLabelError, UnknownLabelError
from raykd.data.rows import Rows
from raykd.errors import DataError
from raykd.tasks.forms import RowForm

log = logging.getLogger("raykd.data")

_MENDED: dict[RowForm, str] = {
    "words": "tags I- of {} read as B-",
    "marked": "entities of {} stand several times, the closest two are marked",
}
"""What rows hold that was read otherwise than it stands, by form; the place is the source."""
NO_GOLD_COLUMN = "sources without a column of gold labels are read as texts without labels"
"""Note on such sources, once for all."""
SHOWN_BAD_ROWS = 5
"""Bad rows that a message shows."""


@dataclass
class Tally:
    """Counts of what was left out or changed between records and rows. Made by `read_rows`, read by `raykd.data.load`.

    Attributes:
        skipped: Bad rows that were left out, by file or data set.
        mended: What was read otherwise than it stands (tags, places of entities), by a phrase that names the source.
        without_label: Rows that ``empty_label: drop`` left out, by file or data set.
        left_out: Rows that the label map leaves out, by label.
        notes: How files were read, for people.
    """

    skipped: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    without_label: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def tell(self, line: str) -> None:
        """Take a note, and log it."""
        log.warning("%s", line)
        self.notes.append(line)


def read_rows(
    source: Source,
    config: DataConfig,
    *,
    base_dir: Path,
    labelled: bool,
    form: RowForm = "text",
    tally: Tally | None = None,
) -> Rows:
    """Return all rows of a source, in its order.

    Args:
        source: What to read.
        config: The run's data, for labels, languages and the treatment of bad rows.
        base_dir: The folder that relative paths start from.
        labelled: Whether rows need a gold label; False leaves every row `UNLABELLED` and looks at no label. Rows
            without a label are `UNLABELLED` too if ``empty_label`` says so.
        form: What a row of the task consists of.
        tally: Takes what was left out, changed and noted.

    Raises:
        DataError: A file cannot be read, a column is missing, or rows are bad (any, or with ``on_bad_row: skip`` more
            than ``max_bad_rows``); names file and line.
    """
    if isinstance(source, Embedded):
        return load_embedded_rows(source, config, form, labelled)
    tally = Tally() if tally is None else tally
    if isinstance(source, Hub):
        records: Iterable[Record] = read_hub_records(source, base_dir)
        return _parse_records(records, source.name, source, config, form, labelled, tally)
    parts = []
    for path in list_matching_files(source.paths, base_dir):
        require_file(path)
        records = read_file_records(path, source, tally.tell)
        parts.append(_parse_records(records, str(path), source, config, form, labelled, tally))
    return Rows.concat(parts)


def _parse_records(
    records: Iterable[Record],
    name: str,
    source: Files | Hub,
    config: DataConfig,
    form: RowForm,
    labelled: bool,
    tally: Tally,
) -> Rows:
    """Return the good rows of one file or data set."""
    found = list(records)
    if not found:
        split = f" in split {source.split!r}" if isinstance(source, Hub) else ""
        raise DataError(f"{name}: holds no rows{split}", got="no rows", wanted="at least one row")
    if labelled and config.empty_label == "unlabeled" and lacks_gold_column(found, source, config, form):
        labelled = False
        log.info("%s: no column of gold labels", name)
        if NO_GOLD_COLUMN not in tally.notes:
            tally.notes.append(NO_GOLD_COLUMN)
    wanted = choose_columns(found, name, source, config, form, labelled)
    file = Path(Path(name).stem) if Path(name).suffix in PACKED else Path(name)
    stem = file.stem if isinstance(source, Files) else name
    kept: list[tuple[str, str, RowParts]] = []
    bad: list[str] = []
    unknown: dict[str, None] = {}
    bare = 0
    for record in found:
        try:
            kept.append(_parse_record(record, wanted, config, stem))
        except ExcludedLabelError as label:
            tally.left_out[str(label)] += 1
        except NoLabelError as error:
            bare += 1
            if config.empty_label == "fail":
                bad.append(f"{record.place}: {error}")
        except BadRowError as error:
            bad.append(f"{record.place}: {error}")
            if isinstance(error, UnknownLabelError):
                unknown[error.label] = None
    if bad:
        bare = bare if config.empty_label == "fail" else 0
        share = len(bad) / len(found)
        advice = _advise_on_bad_rows(share, bare, tuple(unknown), config, wanted.form)
        _report_bad_rows(bad, len(found), name, config, advice)
        tally.skipped[name] = len(bad)
    if bare and config.empty_label == "drop":
        tally.without_label[name] = bare
    mended = sum(parts.mended for _, _, parts in kept)
    if mended:
        what = _MENDED[form].format(name)
        tally.mended[what] = mended
        log.warning("%d %s", mended, what)
    return _build_rows(kept, wanted)


def _parse_record(
    record: Record, wanted: WantedColumns, config: DataConfig, stem: str
) -> tuple[str, str, RowParts]:
    """Return id, language and parts of a good row."""
    try:
        parts = parse_row(record, wanted, config)
    except NoLabelError:
        if config.empty_label != "unlabeled":
            raise
        parts = parse_row(record, replace(wanted, labelled=False), config)
    column = wanted.names.get("language")
    language = _parse_language(record.values.get(column) if column else None, wanted, config)
    given = record.values.get(wanted.names["id"]) if "id" in wanted.names else None
    if isinstance(given, UnreadValue):
        raise BadRowError(f"column {wanted.names['id']!r}: got {given!r}, wanted a text or a number")
    name = f"{stem}:{record.line}" if given is None else str(given)
    return name.encode("utf-8", "backslashreplace").decode(), language, parts


def _build_rows(kept: list[tuple[str, str, RowParts]], wanted: WantedColumns) -> Rows:
    with_pairs = (
        wanted.form not in ("text", "words", "plain", "value", "marked") or "text_pair" in wanted.names
    )
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
        source_languages=tuple(parts.source_language for _, _, parts in kept)
        if wanted.form == "source_target"
        else None,
        values=tuple(parts.values for _, _, parts in kept) if wanted.form == "value" else None,
    )


def _parse_language(value: object, wanted: WantedColumns, config: DataConfig) -> str:
    if value is None and wanted.of_all is not None:
        return wanted.of_all
    if not isinstance(value, str) or value not in config.languages:
        raise BadRowError(
            f"language: got {show_cell(value)}, wanted one of {list(config.languages)}"
            f"{suggest_spelling(value, config.languages)}"
        )
    if wanted.of_all is not None and value != wanted.of_all:
        raise BadRowError(
            f"language: got {show_cell(value)}, wanted {wanted.of_all!r}, the language of the source"
        )
    return value


def _advise_on_bad_rows(
    share: float, bare: int, unknown: tuple[str, ...], config: DataConfig, form: RowForm
) -> str:
    """Return what to do about bad rows.

    Args:
        share: Bad rows of all rows.
        bare: How many of them have no label.
        unknown: Labels of the others that are not the run's.
        config: The run's data.
        form: What a row consists of.
    """
    if bare:
        return (
            "rows without a label are texts for data.unlabeled; data.empty_label: unlabeled reads them so here, and "
            "drop leaves them out"
        )
    advice = "correct the rows"
    if unknown:
        advice += f", or set {_propose_label_map(unknown, config, form)}"
    needed = f"data.max_bad_rows: {math.ceil(1000 * share) / 1000:g}"
    if config.on_bad_row == "skip":
        advice += f", or set {needed}"
    elif share <= config.max_bad_rows:
        advice += ", or set data.on_bad_row: skip to leave them out, counted and logged"
    else:
        advice += f", or set data.on_bad_row: skip and {needed} to leave them out, counted and logged"
    return advice


def _propose_label_map(unknown: tuple[str, ...], config: DataConfig, form: RowForm) -> str:
    """Return a label map for labels of a file that the run does not have, as one line of YAML."""
    others = "O" if form == "words" else None
    meant = {label: find_spelling(label, config.labels) or others for label in unknown[:SHOWN_BAD_ROWS]}
    pairs = ", ".join(f"{json.dumps(label)}: {json.dumps(to)}" for label, to in meant.items())
    more = ", ..." if len(unknown) > len(meant) else ""
    why = "O is for what the run does not tag" if form == "words" else "null leaves its rows out"
    return f"data.label_map: {{{pairs}{more}}}" + (f" ({why})" if others in meant.values() else "")


def _report_bad_rows(bad: list[str], rows: int, name: str, config: DataConfig, advice: str) -> None:
    """Raise, or log where bad rows may be skipped."""
    shown = bad[:SHOWN_BAD_ROWS]
    if len(bad) > len(shown):
        shown.append(f"and {len(bad) - len(shown)} more")
    listed = "".join(f"\n    {line}" for line in shown)
    if config.on_bad_row == "skip" and len(bad) <= config.max_bad_rows * rows:
        log.warning("%s: skipped %d bad rows of %d:%s", name, len(bad), rows, listed)
        return
    skipping = config.on_bad_row == "skip"
    raise DataError(
        f"{name}: {len(bad)} of {rows} rows cannot be used:{listed}",
        got=f"bad rows: {len(bad)} ({len(bad) / rows:.1%})",
        wanted=f"at most data.max_bad_rows {config.max_bad_rows:.1%}" if skipping else "none",
        next_step=advice,
    )
