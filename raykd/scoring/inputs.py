"""Read the inputs of a prediction (texts, a file of rows, or mappings) before the model's task is known.

Decision record: the keys of rows say whether they hold questions, words or texts; keys that the user names win. The
rows of a file are given back whole with their predictions, those of a Parquet file with the types of its columns. Of
mappings that a program passes the other keys (an id, a date) are given back. Where the prediction has a key of the same
name, the prediction's value stays.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from raykd.data.cells import BadRowError, parse_list, parse_texts
from raykd.data.files.records import PARQUET, read_file_records, read_parquet_table
from raykd.data.files.textfiles import UnreadValue, require_file, shorten_text
from raykd.data.forms import mark_entities
from raykd.errors import DataError
from raykd.parse import refuse_duplicate_keys
from raykd.tasks import TaskBase
from raykd.text.batch import TextBatch

if TYPE_CHECKING:
    import pyarrow as pa

_SURROGATES = re.compile("[\ud800-\udfff]")


def read_inputs(
    texts: Sequence[str] | None,
    file: Path | None,
    column: str | None,
    pair: str | None,
    stdin: TextIO,
    lines_of: Callable[[TextIO], Iterable[str]] = iter,
) -> InputRows:
    """Read texts (with second texts, or as words) from arguments, a file, or the lines of standard input.

    Args:
        texts: Arguments; if there are any, nothing else is read.
        file: JSON lines, CSV, TSV, Parquet or plain text; ``-`` is standard input with JSON lines.
        column: Key of the text; None takes the first of these that the rows have: question and context, tokens,
            text, src, prompt.
        pair: Key of the second text.
        stdin: Standard input.
        lines_of: Decodes the lines of standard input.

    Raises:
        DataError: Nothing to read, or a row without the key; names file and line.
    """
    if texts:
        return InputRows(list(texts))
    if file is None:
        told = not (stdin is sys.stdin and sys.stdin.isatty())
        lines = [line.rstrip("\r\n") for line in lines_of(stdin) if line.strip()] if told else []
        if not lines:
            raise DataError(
                "no text to answer", wanted="texts as arguments, on standard input, or --file FILE"
            )
        return InputRows(lines)
    table = None
    if str(file) == "-":
        rows = _parse_json_lines(lines_of(stdin))
    elif file.suffix.lower() in PARQUET:
        table = read_parquet_table(file)
        rows = [_Row(values, f"{file}: row {at}") for at, values in enumerate(table.to_pylist(), 1)]
    else:
        require_file(file)
        rows = [_Row(dict(record.values), record.place, record.flat) for record in read_file_records(file)]
    if not rows:
        raise DataError(f"{file}: no row to answer", got="no rows", wanted="at least one row")
    for row in rows:
        row.check()
    found = _collect_rows(rows, column, pair)
    return replace(found, originals=[row.values for row in rows], table=table)


def _parse_json_lines(lines: Iterable[str]) -> list[_Row]:
    """Return the rows of standard input; blank lines are skipped."""
    return [
        _json_row(line.lstrip("\ufeff"), f"standard input:{at}")
        for at, line in enumerate(lines, 1)
        if line.strip("\ufeff \r\n")
    ]


def make_input_rows(
    inputs: str | Iterable[str | Mapping[str, object]], pairs: Sequence[str] | None
) -> InputRows:
    """Make rows of the inputs that a program passes.

    Args:
        inputs: One text, or texts, or mappings with the keys of a JSON line.
        pairs: Second texts, or contexts, one for each text; None without any.

    Raises:
        DataError: Texts and mappings are mixed, a mapping lacks a key of the first one, or `pairs` has
            another length.
    """
    items = [inputs] if isinstance(inputs, str) else list(inputs)
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) == len(items):
        texts = _replace_all_surrogates(texts)
        if pairs is not None and len(pairs) != len(texts):
            raise DataError(
                "pairs must have one text for each text",
                got=f"{len(pairs)} pairs of {len(texts)} texts",
                wanted="lists of equal length",
            )
        return InputRows(texts, None if pairs is None else _replace_all_surrogates(pairs))
    rows = [_Row(dict(item), f"input {i}") for i, item in enumerate(items) if isinstance(item, Mapping)]
    if len(rows) < len(items) or pairs is not None:
        raise DataError(
            "these inputs cannot be predicted",
            got="pairs beside mappings"
            if len(rows) == len(items)
            else f"texts and other things: {items[:3]!r:.200}",
            wanted='texts, with or without pairs; or mappings such as {"text": ...} or {"tokens": ["Anna", "left"]}',
        )
    return _collect_rows(rows, None, None)


def _collect_rows(rows: Sequence[_Row], column: str | None, pair: str | None) -> InputRows:
    if column is None and rows:
        if {"query", "candidates"} <= rows[0].values.keys():
            ranked = [row.words("candidates", "texts") for row in rows]
            rest = [row.others("query", "candidates") for row in rows]
            return InputRows([row.text("query") for row in rows], candidates=ranked, others=rest)
        column, pair, tokens = _find_keys(rows[0], pair)
        if tokens:
            words = [row.words(column) for row in rows]
            return InputRows([], tokens=words, others=[row.others(column, None) for row in rows])
    column = column or "text"
    return InputRows(
        [row.text(column) for row in rows],
        [row.text(pair) for row in rows] if pair else None,
        others=[row.others(column, pair) for row in rows],
    )


def _find_keys(first: _Row, pair: str | None) -> tuple[str, str | None, bool]:
    """Return the key of the text, the key of the second text, and whether rows are words, judged by the first row."""
    if "question" in first.values and "context" in first.values:
        return "question", pair or "context", False
    if "tokens" in first.values and "text" not in first.values:
        return "tokens", None, True
    return next((key for key in ("text", "src", "prompt") if key in first.values), "text"), pair, False


@dataclass(frozen=True)
class _Row:
    """A row and its place, for messages; flat where every value is a string, lists too."""

    values: dict[str, object]
    where: str
    flat: bool = False

    def check(self) -> None:
        """Refuse a row with a value that is not known, such as that of a key which stands twice."""
        for key, value in self.values.items():
            if isinstance(value, UnreadValue):
                raise DataError(f"{self.where}: {key!r} cannot be read", got=repr(value), wanted="one value")

    def text(self, key: str) -> str:
        """Return the string under a key."""
        value = self.values.get(key)
        if not isinstance(value, str):
            if key in self.values:
                got = shorten_text(json.dumps(value, default=str))
                raise DataError(f"{self.where}: {key!r} is no text", got=got, wanted="a text")
            raise self._lacks(f"text {key!r}", f"a string under {key!r}")
        return _replace_surrogates(value)

    def words(self, key: str, what: str = "words") -> list[str]:
        """Return the list of words, or of other texts, under a key."""
        value = self.values.get(key)
        if self.flat and isinstance(value, str):
            try:
                value = (parse_list if what == "words" else parse_texts)(value, key, flat=True)
            except BadRowError as error:
                raise DataError(f"{self.where}: {error}") from None
        words: Sequence[str] = value if isinstance(value, list | tuple) else ("",)
        strings = all(issubclass(kind, str) for kind in set(map(type, words)))
        if not strings or not all(map(str.strip, words)):
            raise self._lacks(f"{what} {key!r}", f"a list of {what} under {key!r}, none of them blank")
        return _replace_all_surrogates(words)

    def others(self, *read: str | None) -> dict[str, object]:
        """Return the values under all other keys."""
        return {key: value for key, value in self.values.items() if key not in read}

    def _lacks(self, what: str, wanted: str) -> DataError:
        return DataError(
            f"{self.where} has no {what}",
            got=f"keys {sorted(self.values)}",
            wanted=wanted,
            next_step="name the key with --column or --pair",
        )


def _replace_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs by U+FFFD. JSON can hold them, tokenizers refuse them."""
    return _SURROGATES.sub("\ufffd", text)


def _replace_all_surrogates(texts: Sequence[str]) -> list[str]:
    """Do the same in texts, most of which hold none."""
    return list(map(_replace_surrogates, texts)) if _SURROGATES.search("".join(texts)) else list(texts)


def _json_row(line: str, where: str) -> _Row:
    try:
        row = json.loads(line, object_pairs_hook=refuse_duplicate_keys)
    except ValueError as error:
        raise DataError(f"{where} is not JSON", got=str(error), wanted="one JSON object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{where} is no JSON object", got=type(row).__name__, wanted="one JSON object a line")
    return _Row(row, where)


@dataclass(frozen=True)
class InputRows:
    """Rows to predict, before the model's task is known.

    Attributes:
        texts: Texts or questions.
        pairs: Second texts or contexts.
        tokens: The words of each row, instead of texts.
        candidates: The texts that are ranked for each text, which is a query.
        others: The values under other keys of each row, which are given back.
        originals: All values of each row of a file.
        table: A Parquet file's table.
    """

    texts: list[str]
    pairs: list[str] | None = None
    tokens: list[list[str]] | None = None
    candidates: list[list[str]] | None = None
    others: list[dict[str, object]] | None = None
    originals: list[dict[str, object]] | None = None
    table: pa.Table | None = None

    def batch(self, task: TaskBase, *, no_answer: bool = False) -> TextBatch:
        """Return the rows in the form that the task reads.

        Args:
            task: The model's task.
            no_answer: Whether "no answer" is a choice for questions.

        Raises:
            DataError: Questions without contexts, or words for a task that reads texts.
        """
        from raykd.prediction.predictor import build_unlabelled_rows  # imports torch; reading inputs does not

        form = task.form
        if self.tokens is not None and form != "words":
            raise DataError(
                "this model reads texts, not words",
                got="rows with tokens",
                wanted='JSON lines {"text": ...}',
                next_step="name the key of the text with --column",
            )
        if form == "answers" and self.pairs is None:
            raise DataError(
                "this model answers questions about a context",
                got="texts alone",
                wanted='JSON lines {"question": ..., "context": ...}',
                next_step="raykd predict MODEL_DIR --file FILE (--column and --pair name other keys)",
            )
        texts = self._mark_entities() if form == "marked" and self.others else self.texts
        no_answer = no_answer or any(_lacks_answers(row) for row in self.others or ())
        return build_unlabelled_rows(
            form, texts, self.pairs, self.tokens, no_answer=no_answer, candidates=self.candidates
        )

    def _mark_entities(self) -> list[str]:
        """Return the texts with markers around the entities that rows name under ``head`` and ``tail``.

        Raises:
            DataError: A row names an entity that is not in its text.
        """
        names = {key: key for key in ("text", "head", "tail")}
        texts = []
        for at, (text, row) in enumerate(zip(self.texts, self.others or (), strict=True), 1):
            given = [row[key] for key in ("head", "tail") if key in row]
            try:
                texts.append(mark_entities(text, given, names, flat=True)[0] if len(given) == 2 else text)
            except BadRowError as error:
                raise DataError(f"row {at}: {error}") from None
        return texts

    def in_languages(self, batch: TextBatch, source: str | None, target: str | None) -> TextBatch:
        """Return the rows with their languages.

        Args:
            batch: The rows.
            source: Language of all sources; None takes each row's ``src_lang``, or leaves it unknown.
            target: Language to write; None takes each row's ``tgt_lang`` or ``lang``, or leaves it unknown.
        """

        def read(row: dict[str, object], *keys: str) -> str:
            return next((value for key in keys if isinstance(value := row.get(key), str)), "")

        others: list[dict[str, object]] = self.others or [{}] * len(batch)
        return replace(
            batch,
            languages=tuple(target or read(row, "tgt_lang", "lang") for row in others),
            source_languages=tuple(source or read(row, "src_lang") for row in others),
        )


def _lacks_answers(row: dict[str, object]) -> bool:
    """Return whether a row says, in one of SQuAD's ways, that its question has no answer."""
    answers = row.get("answers")
    texts = answers.get("text") if isinstance(answers, dict) else answers
    return row.get("is_impossible") is True or texts == []
