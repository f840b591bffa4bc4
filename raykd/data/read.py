"""Read a source of the config into checked `Rows`.

Decision record: rows are checked here, before a worker is taken, so that nothing after it has to. Files and hub sets
are brought to one form (blocks of rows) and checked by one function, block by block, so that no source is held whole.
All bad rows of a source are counted and the first few shown in one error, because a user corrects files, not rows. What
a row consists of is the task's form: `columns` says what is read, `forms` and `cells` check it, and `bulk` does so for
many rows at once where it can.

Columns are chosen by the first block. JSON lines may have another column later that would change the choice; then the
source is read again with that row in view.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raykd.cache import compute_key, read_entry, write_entry
from raykd.config import DataConfig, Embedded, Files, Hub, Source
from raykd.data.arrow.writing import KIND, TableWriter, convert_columns, find_table
from raykd.data.bad_rows import BadRows, advise_on_bad_rows
from raykd.data.bulk import BulkParser
from raykd.data.cells import BadRowError, suggest_spelling
from raykd.data.columns import choose_columns, lacks_gold_column, list_column_names
from raykd.data.embedded.rows import load_embedded_rows
from raykd.data.files.blocks import Block
from raykd.data.files.candidates import group_candidates
from raykd.data.files.opening import PACKED
from raykd.data.files.records import read_file_blocks, read_hub_blocks
from raykd.data.files.remote import AnyFile, RemoteFile
from raykd.data.files.slices import list_matching_files
from raykd.data.files.textfiles import Record, UnreadValue, require_file, show_cell
from raykd.data.forms import RowParts, WantedColumns, parse_row
from raykd.data.labels import ExcludedLabelError, NoLabelError
from raykd.data.rows import Rows
from raykd.errors import DataError
from raykd.tasks.forms import RowForm

log = logging.getLogger("raykd.data")

_MENDED: dict[RowForm, str] = {
    "words": "tags I- of {} read as B-",
    "marked": "entities of {} stand several times, the closest two are marked",
    "candidates": "queries of {} have no relevant candidate: they have no gold loss and are not scored",
}
"""What rows hold that was read otherwise than it stands, by form; the place is the source."""
NO_GOLD_COLUMN = "sources without a column of gold labels are read as texts without labels"
"""Note on such sources, once for all."""
_NOT_READ = {"train", "validation", "test", "unlabeled", "select_languages", "labelled_per_language"}
_NOT_READ |= {"labelled_seed", "undrawn", "augment", "max_candidates", "select_groups", "leave_out_groups"}
"""Keys of the data that rows do not follow from."""


@dataclass
class Tally:
    """Counts of what was left out or changed between records and rows. Made by `read_rows`, read by `raykd.data.load`.

    Attributes:
        skipped: Bad rows that were left out, by file or data set.
        mended: What was read otherwise than it stands (tags, places of entities), by a phrase that names the source.
        without_label: Rows that ``empty_label: drop`` left out, by file or data set.
        left_out: Rows that the label map leaves out, by label.
        notes: How files were read, for people.
        warnings: What is logged.
    """

    skipped: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    without_label: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def tell(self, line: str) -> None:
        """Take a note, which is logged too."""
        self.warnings.append(line)
        self.notes.append(line)

    def take(self, other: Tally) -> None:
        """Add what another one counted, and log its warnings."""
        for line in other.warnings:
            log.warning("%s", line)
        self.notes.extend(note for note in other.notes if note not in self.notes)
        for name in ("skipped", "mended", "without_label", "left_out"):
            getattr(self, name).update(getattr(other, name))


class _LaterColumnError(Exception):
    """A column that changes how a source is read stands in this row for the first time."""

    def __init__(self, name: str, record: Record) -> None:
        super().__init__(name)
        self.name, self.record = name, record


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
        ResourceError: There is no room for the rows.
    """
    if isinstance(source, Embedded):
        return load_embedded_rows(source, config, form, labelled)
    tally = Tally() if tally is None else tally
    reading = _Reading(source, config, base_dir, labelled, form)
    key = reading.compute_key()
    known = None if key is None else read_entry(KIND, key, Tally)
    table = None if known is None or key is None else find_table(key)
    if known is not None and table is not None:
        tally.take(known)
        return Rows.of(table)
    while True:
        writer, own = TableWriter(), Tally()
        try:
            for columns in reading.read(own):
                writer.add(columns)
        except _LaterColumnError as found:
            writer.discard()
            reading.samples.setdefault(found.name, []).append(found.record)
            continue
        except BaseException:
            writer.discard()
            raise
        break
    tally.take(own)
    if key is not None and key != reading.compute_key():
        key = None  # the files were changed meanwhile
    if key is not None and writer.is_in_file:
        write_entry(KIND, key, Tally, own)
    return Rows.of(writer.finish(key))


@dataclass
class _Reading:
    """How a source is read. samples: rows that hold columns which the first block does not have, by file."""

    source: Files | Hub
    config: DataConfig
    base_dir: Path
    labelled: bool
    form: RowForm
    samples: dict[str, list[Record]] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, Any]:
        """The column of each key."""
        return self.config.columns.model_dump() | dict(self.source.columns)

    def compute_key(self) -> str | None:
        """Return a hash of all that the rows follow from; None where that is not known.

        Hub sets have none, because `datasets` keeps them.
        """
        if isinstance(self.source, Hub):
            return None
        states = [_describe_file(path) for path in list_matching_files(self.source.paths, self.base_dir)]
        if None in states:
            return None
        data = self.config.model_dump(mode="json", exclude=_NOT_READ)
        own = self.source.model_dump(mode="json", exclude={"rows_per_language"})
        return compute_key([states, own, data, self.labelled, self.form], "pyarrow")

    def read(self, tally: Tally) -> Iterator[Mapping[str, Any]]:
        """Yield the columns of the good rows, block by block."""
        numbers = self.names["relevances"] if self.form == "candidates" else ""
        if isinstance(self.source, Hub):
            blocks = read_hub_blocks(self.source, self.base_dir, numbers)
            yield from self._read_part(self.source.name, blocks, tally)
            return
        for path in list_matching_files(self.source.paths, self.base_dir):
            require_file(path)
            blocks = read_file_blocks(path, self.source, tally.tell, numbers)
            yield from self._read_part(str(path), blocks, tally)

    def _read_part(self, name: str, blocks: Iterator[Block], tally: Tally) -> Iterator[Mapping[str, Any]]:
        """Yield the columns of one file or data set."""
        source, config = self.source, self.config
        if self.form == "candidates":
            blocks = group_candidates(blocks, self.names, config.min_candidates)
        first = next((block for block in blocks if any(True for _ in block.records())), None)
        if first is None:
            split = f" in split {source.split!r}" if isinstance(source, Hub) else ""
            raise DataError(f"{name}: holds no rows{split}", got="no rows", wanted="at least one row")
        samples = [*first.records(), *self.samples.get(name, ())]
        wanted = self._choose_columns(name, samples, blocks, tally)
        known = {column for record in samples for column in record.values}
        absent = list_column_names(source, config, self.form) - known
        stem = _name_rows(name) if isinstance(source, Files) else name
        bulk, part = BulkParser(wanted, config, stem, samples), _Part(wanted, config, stem, tally)
        for at, block in enumerate(_put_before(first, blocks)):
            if at and (record := _find_column(block, absent)):
                raise _LaterColumnError(name, record)
            rows = bulk.parse(block)
            if rows is None:
                yield part.parse(block)
                continue
            part.rows, part.bare = part.rows + rows.size, part.bare + rows.bare
            tally.left_out.update(rows.left_out)
            yield rows.columns
        part.judge(name)

    def _choose_columns(
        self, name: str, samples: list[Record], blocks: Iterator[Block], tally: Tally
    ) -> WantedColumns:
        """Return the columns to read. Where one is missing the rest of the source is looked through."""
        source, config, form = self.source, self.config, self.form
        labelled = self.labelled
        if (
            labelled
            and config.empty_label == "unlabeled"
            and lacks_gold_column(samples, source, config, form)
        ):
            labelled = False
            log.info("%s: no column of gold labels", name)
            if NO_GOLD_COLUMN not in tally.notes:
                tally.notes.append(NO_GOLD_COLUMN)
        try:
            return choose_columns(samples, name, source, config, form, labelled)
        except DataError:
            known = {column for record in samples for column in record.values}
            absent = list_column_names(source, config, form) - known
            record = next(filter(None, (_find_column(block, absent) for block in blocks)), None)
            if record is None:
                raise
            raise _LaterColumnError(name, record) from None


def _describe_file(path: AnyFile) -> tuple[object, ...] | None:
    """Return what is another for another content; None for a remote file of which that is not known."""
    if isinstance(path, RemoteFile):
        return path.describe()
    require_file(path)
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns, state.st_ino


def _name_rows(name: str) -> str:
    """Return what the ids of a file's rows begin with."""
    return Path(Path(name).stem).stem if Path(name).suffix in PACKED else Path(name).stem


def _put_before(first: Block, blocks: Iterator[Block]) -> Iterator[Block]:
    yield first
    yield from blocks


def _find_column(block: Block, absent: set[str]) -> Record | None:
    """Return a row of a block that has one of these columns."""
    if not any(map(block.may_hold, absent)):
        return None
    return next((record for record in block.records() if absent & record.values.keys()), None)


@dataclass
class _Part:
    """Rows of one file or data set that are read one by one, and counts of all its rows."""

    wanted: WantedColumns
    config: DataConfig
    stem: str
    tally: Tally
    rows: int = 0
    bare: int = 0
    mended: int = 0
    bad: BadRows = field(default_factory=BadRows)

    def parse(self, block: Block) -> Mapping[str, Any]:
        """Return the columns of a block's good rows."""
        kept: list[tuple[str, str, RowParts]] = []
        for record in block.records():
            self.rows += 1
            try:
                kept.append(_parse_record(record, self.wanted, self.config, self.stem))
            except ExcludedLabelError as label:
                self.tally.left_out[str(label)] += 1
            except NoLabelError as error:
                self.bare += 1
                if self.config.empty_label == "fail":
                    self.bad.add(record.place, error)
            except BadRowError as error:
                self.bad.add(record.place, error)
        self.mended += sum(parts.mended for _, _, parts in kept)
        return convert_columns(
            _list_columns(kept, self.wanted, grouped=self.config.columns.group is not None)
        )

    def judge(self, name: str) -> None:
        """Count what was left out and changed.

        Raises:
            DataError: There are bad rows that may not be skipped.
        """
        fails = self.config.empty_label == "fail"
        if self.bad.count:
            share, bare = self.bad.count / self.rows, self.bare if fails else 0
            advice = advise_on_bad_rows(share, bare, tuple(self.bad.unknown), self.config, self.wanted.form)
            self.tally.warnings.append(self.bad.report(self.rows, name, self.config, advice))
            self.tally.skipped[name] = self.bad.count
        if self.bare and self.config.empty_label == "drop":
            self.tally.without_label[name] = self.bare
        if self.mended:
            what = _MENDED[self.wanted.form].format(name)
            self.tally.mended[what] = self.mended
            self.tally.warnings.append(f"{self.mended} {what}")


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


def _list_columns(
    kept: list[tuple[str, str, RowParts]], wanted: WantedColumns, *, grouped: bool
) -> dict[str, list[Any]]:
    """Return the columns that rows of a form have, by their names in `TextBatch`."""
    form, parts = wanted.form, [row for _, _, row in kept]
    columns: dict[str, list[Any]] = {
        "ids": [name for name, _, _ in kept],
        "texts": [row.text for row in parts],
        "languages": [language for _, language, _ in kept],
        "labels_B": [row.label for row in parts],
    }
    if form in ("answers", "target", "source_target", "sentences") or "text_pair" in wanted.names:
        columns["pairs"] = [row.pair or "" for row in parts]
    if form == "words":
        columns["words"] = [row.words or () for row in parts]
        columns["modes"] = [row.mode for row in parts]
    if form in ("words", "answers", "labels"):
        columns["golds"] = [row.gold for row in parts]
    if form == "source_target":
        columns["source_languages"] = [row.source_language for row in parts]
    if form == "candidates":
        columns["candidates"] = [row.candidates for row in parts]
    if form in ("value", "sentences", "candidates"):
        columns["values"] = [row.values for row in parts]
    if grouped:
        columns["groups"] = [row.group for row in parts]
    return columns


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
