"""Read a file of labelled rows for a model that has its labels already.

Decision record: a run says what its files hold; here a model says what it needs and the file is looked at first: which
columns, languages and labels it has. What does not fit is refused before the model is asked, in the words of the
command. The rows themselves are read and checked by `raykd.data.read`, so that a file means the same in a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from raykd.config.data import ColumnKey, Columns, DataConfig, Files
from raykd.data import cells
from raykd.data.files.candidates import is_one_row_per_query
from raykd.data.files.records import read_file_records
from raykd.data.files.textfiles import Record, require_file, show_cell
from raykd.data.labels import add_direction, find_ranges, is_missing, list_spellings
from raykd.data.read import Tally, read_rows
from raykd.data.rows import Rows
from raykd.data.selection.labelled import may_lack_answers
from raykd.errors import ConfigError, DataError
from raykd.scoring.evaluation.matching import LabelMap, MatchedLabels, match_labels
from raykd.tasks.forms import LABELLED_FORMS, RowForm
from raykd.tasks.label_columns import ColumnMap
from raykd.tasks.schemes import SchemeName, parse_scheme

_NEEDED: dict[RowForm, tuple[ColumnKey, ...]] = {
    "text": ("text", "label"),
    "words": ("tokens", "tags"),
    "answers": ("question", "context", "answers"),
    "target": ("target",),
    "source_target": ("source", "target"),
    "plain": ("text",),
    "value": ("text", "value"),
    "marked": ("text", "label"),
    "labels": ("text", "labels"),
    "sentences": ("text", "text_pair"),
    "candidates": ("query", "candidates", "relevances"),
}
"""The columns that rows of a form cannot do without."""
_GOLD = ("label", "tags", "answers", "relevances")


@dataclass(frozen=True)
class FileOptions:
    """What a person says of a file that it does not say itself.

    Attributes:
        columns: Names of columns by their keys (`raykd.config.data.Columns`).
        language: The language of all rows.
        label_map: See `raykd.scoring.evaluation.matching`.
        skip_bad_rows: Whether rows that cannot be used are left out, counted.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    language: str | None = None
    label_map: LabelMap = field(default_factory=dict)
    skip_bad_rows: bool = False


class _Notes(Tally):
    """Takes notes without logging them: the result shows them."""

    def take(self, other: Tally) -> None:
        """Add what was found; what a source in a run file could say otherwise is no option of the command."""
        notes = [note.partition("; ")[0] for note in other.notes]
        super().take(
            replace(other, notes=notes, warnings=[w for w in other.warnings if w not in other.notes])
        )


@dataclass(frozen=True)
class LabelledFile:
    """A file of labelled rows in the labels of a model. Made by `read_labelled_file`.

    Attributes:
        rows: Rows with gold.
        labels: The common labels; None of a task without labels.
        notes: How the file was read and what was left out.
    """

    rows: Rows
    labels: MatchedLabels | None
    notes: tuple[str, ...]


def holds_candidates(path: Path, options: FileOptions) -> bool:
    """Return whether the first row of a file has a query, and candidates or one of them."""
    require_file(path)
    first = next(iter(read_file_records(path)), None)
    keys = ("query", "candidates", "candidate", "positive")
    query, *others = (options.columns.get(key, Columns.model_fields[key].default) for key in keys)
    return first is not None and query in first.values and any(name in first.values for name in others)


def read_labelled_file(
    path: Path, form: RowForm, own: Sequence[str], options: FileOptions, model: str, language: str = ""
) -> LabelledFile:
    """Read the rows of a file that have gold.

    Args:
        path: JSON lines, CSV, TSV or Parquet.
        form: What a row of the model's task consists of.
        own: The model's labels.
        options: What a person says of the file.
        model: The model, for messages.
        language: The language of rows where neither the file nor the options tell one.

    Raises:
        DataError: The file cannot be read, a column is missing, a row is bad, or no row has gold.
        ConfigError: An option names what is not there.
        LabelMismatchError: The file has a label that the model has not.
    """
    require_file(path)
    tally = _Notes()
    records = list(read_file_records(path, tell=tally.tell))
    if not records:
        raise DataError(f"{path}: holds no rows", got="no rows", wanted="at least one row")
    names = _choose_names(path, records, form, options, own)
    there = _list_columns(records)
    languages, of_all = _find_languages(records, there, names, options, language)
    labels = None
    settings: dict[str, object] = {}
    if form == "labels":  # a row may have labels that the model lacks none of, so there is nothing to match
        labels = MatchedLabels(tuple(own), ColumnMap(tuple((i,) for i in range(len(own)))), {})
        settings = {"labels": labels.names, "label_map": dict(options.label_map)}
    elif form in LABELLED_FORMS:
        found = _list_labels(records, names, form, dict.fromkeys((*own, *options.label_map)))
        labels = match_labels(
            own, found, options.label_map, tags=form == "words", file=path.name, model=model
        )
        settings = {"labels": labels.names, "label_map": labels.file_map}
        if form == "words":
            settings |= {"scheme": _find_scheme(found, labels.names), "on_loose_inside": "begin"}
    notes = _note_unread_pair(there, names, form)
    del records  # they are read again, row by row
    files = Files(paths=(str(path.resolve()),), language=of_all)
    config = DataConfig(
        train=files,
        validation=files,
        languages=languages,
        columns=Columns.model_validate(names),
        empty_label="fail" if form in ("target", "source_target", "plain", "sentences") else "drop",
        on_bad_row="skip" if options.skip_bad_rows else "fail",
        max_bad_rows=1.0,
        **settings,
    )
    rows = _read_with_advice(path, files, config, form, tally)
    if form == "answers" and may_lack_answers({path.name: rows}, "auto"):
        rows = rows.with_mode("optional")
    return LabelledFile(rows, labels, (*tally.notes, *notes, *_describe_changes(tally)))


def _read_with_advice(path: Path, files: Files, config: DataConfig, form: RowForm, tally: Tally) -> Rows:
    """Return the rows, and say what to do about bad ones in the words of the command."""
    tally.notes.clear()  # of the first look, which come again
    try:
        rows = read_rows(files, config, base_dir=path.parent, labelled=True, form=form, tally=tally)
    except DataError as error:
        if "data." not in f"{error.next_step}":
            raise
        raise DataError(
            error.what.replace("data.on_loose_inside", "on_loose_inside"),
            got=error.got,
            wanted="none",
            next_step="correct the rows, or leave them out with --skip-bad-rows, counted",
        ) from None
    if not len(rows):
        gone = _describe_changes(tally)
        raise DataError(
            f"{path}: no row is left to evaluate on",
            got="; ".join(gone) or "no rows",
            wanted="rows with gold",
            next_step="raykd predict answers texts without gold"
            if tally.without_label
            else "correct the rows, or change --label-map",
        )
    return rows


def _list_columns(records: Sequence[Record]) -> list[str]:
    there: dict[str, None] = {}
    for record in records:
        there.update(dict.fromkeys(record.values))
    return list(there)


def _choose_names(
    path: Path, records: Sequence[Record], form: RowForm, options: FileOptions, own: Sequence[str]
) -> dict[str, str]:
    """Return the names that a person gave, after a look whether all needed columns are there.

    Raises:
        ConfigError: A key plays no part in the task.
        DataError: A column is missing.
    """
    allowed = Columns.keys_of(form)
    if idle := [key for key in options.columns if key not in allowed]:
        raise ConfigError(
            f"--column {idle[0]} plays no part in the model's task",
            got=f"{idle[0]}={options.columns[idle[0]]}",
            wanted=f"one of {', '.join(allowed)}",
        )
    there = _list_columns(records)
    usual = {"text_pair": "text_pair"} if form == "sentences" else {}
    given: dict[str, str] = {
        key: options.columns.get(key, usual.get(key, Columns.model_fields[key].default)) for key in allowed
    }
    needed = {key: given[key] for key in _NEEDED[form]} | dict(options.columns)
    if form == "labels" and "labels" not in options.columns and set(own) <= set(there):
        needed.pop("labels")  # each label has a column of its own
    if form == "candidates":
        if not is_one_row_per_query(there, given):
            needed = {"query": given["query"]}
        elif given["label"] in there:
            needed.pop("relevances")
    missing = {key: name for key, name in needed.items() if name not in there}
    if "source" not in options.columns and "prompt" in there:
        missing.pop("source", None)
    if missing:
        key, name = next(iter(missing.items()))
        meant = cells.find_spelling(name, tuple(there)) or "NAME"
        wanted = ", ".join(f"{k} ({n})" if k != n else k for k, n in needed.items())
        raise DataError(
            f"{path}: no column {name!r}",
            got=f"columns {', '.join(map(repr, there))}",
            wanted=wanted,
            next_step=f"name it: --column {key}={meant}"
            + ("; raykd predict answers rows without labels" if key in _GOLD else "")
            + ("; the first line of the file is read as its header" if records[0].flat else ""),
        )
    return dict(options.columns)


def _find_languages(
    records: Sequence[Record],
    there: Sequence[str],
    names: Mapping[str, str],
    options: FileOptions,
    language: str,
) -> tuple[tuple[str, ...], str | None]:
    """Return the languages of the rows, and the one of all rows that name none; None where each row names one."""
    column = names.get("language", "lang")
    if "language" not in names and column not in there and "tgt_lang" in there:
        column = "tgt_lang"
    if options.language is not None or column not in there:
        one = language if options.language is None else options.language
        return (one,), one
    found = sorted({value for r in records if isinstance(value := r.values.get(column), str) and value})
    return (tuple(found), None) if found else ((language,), language)


def _list_labels(
    records: Sequence[Record], names: Mapping[str, str], form: RowForm, known: Mapping[str, None]
) -> list[str]:
    """Return the different labels of a file, or the tags of its words, as texts; cells without one are passed over."""
    key: ColumnKey = "tags" if form == "words" else "label"
    column = names.get(key, str(Columns.model_fields[key].default))
    found: dict[str, None] = {}
    for record in records:
        value = add_direction(record.values.get(column), record.values, names)
        if is_missing(value) and not set(list_spellings(value)) & known.keys():
            continue
        for one in _list_tags(value, column, record.flat) if form == "words" else [value]:
            spellings = list_spellings(one)
            meant = [text for text in spellings if text in known] or find_ranges(one, known)
            found[(meant or spellings or (show_cell(one),))[0]] = None
    return list(found)


def _list_tags(value: object, column: str, flat: bool) -> Iterable[object]:
    """Return the tags of a row; none of a bad row, which is reported when it is read."""
    try:
        return cells.parse_list(value, column, flat)
    except cells.BadRowError:
        return ()


def _find_scheme(found: Sequence[str], names: Sequence[str]) -> str:
    """Return the scheme of a file's tags, where it is another one than the model's; else auto."""
    letters = {tag.partition("-")[0] for tag in found if "-" in tag}
    own = parse_scheme(names)
    if letters <= set(own.letters):
        # A file of B and I alone is BIO also for a model of BILOU, which needs more letters of it.
        return "BIO" if own.name in ("BILOU", "BIOES", "BMES", "BMEWO") and letters == {"B", "I"} else "auto"
    schemes: dict[SchemeName, set[str]] = {
        "BIO": {"B", "I"},
        "BILOU": {"B", "I", "L", "U"},
        "BIOES": {"B", "I", "E", "S"},
        "BMES": {"B", "M", "E", "S"},
        "BMEWO": {"B", "M", "E", "W"},
    }
    return next((name for name, parts in schemes.items() if letters <= parts), "auto")


def _note_unread_pair(there: Sequence[str], names: Mapping[str, str], form: RowForm) -> list[str]:
    if form != "text" or "text_pair" in names or "text_pair" not in there:
        return []
    return [
        "the column text_pair is not read; --column text_pair=text_pair gives it to the model as second text"
    ]


def _describe_changes(tally: Tally) -> list[str]:
    """Return a line for each reason why rows were left out or changed."""
    lines = [f"{n:,} bad rows were left out" for n in tally.skipped.values() if n]
    lines += [f"{n:,} rows without a label were left out" for n in tally.without_label.values() if n]
    lines += [
        f"{n:,} rows of label {label} were left out, as the map says" for label, n in tally.left_out.items()
    ]
    lines += [f"{n:,} {what}" for what, n in tally.mended.items() if n]
    return lines
