"""Parse one row by its form: the text, second text, words and gold that its cells make.

Decision record: each form is one function from a record to `RowParts`; what is common to all (id, language, counting
bad rows) stands in `read`. An answer has to stand where its offset says, character for character: an offset that is
off by one trains a wrong boundary and no loss curve shows it, so a wrong offset is reported and never corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from raykd.config import DataConfig
from raykd.data import cells
from raykd.data.cells import BadRowError
from raykd.data.files.candidates import MOST_CANDIDATES
from raykd.data.files.textfiles import Record, shorten_text, show_cell
from raykd.data.labels import (
    NoLabelError,
    add_direction,
    find_label_index,
    is_missing,
    is_null,
    join_names,
    list_spellings,
    parse_label_set,
)
from raykd.data.tags import parse_tags
from raykd.distill.signals import UNLABELLED
from raykd.tasks.forms import RowForm
from raykd.tasks.markers import MARKERS, choose_closest, is_marked, mark_spans
from raykd.text.batch import Mode, Spans
from raykd.text.words import find_word_spans, join_tokens


@dataclass(frozen=True)
class WantedColumns:
    """What to read. Made by `columns`, used here and by `read`.

    Attributes:
        form: What a row consists of.
        names: The column of each key that the source has.
        of_all: The language of all rows, if the source tells one.
        source_language: The language of all sources where no column tells it; "" where it is not known.
        labelled: Whether gold is read.
    """

    form: RowForm
    names: dict[str, str] = field(default_factory=dict)
    of_all: str | None = None
    source_language: str = ""
    labelled: bool = True


@dataclass(frozen=True)
class RowParts:
    """A row without its id and language; fields are as in `TextBatch`. mended: tags or entities that were read
    otherwise than they stand."""

    text: str
    pair: str | None = None
    label: int = UNLABELLED
    words: Spans | None = None
    gold: tuple[int, ...] = ()
    mended: int = 0
    mode: Mode = ""
    source_language: str = ""
    values: tuple[float, ...] = ()
    group: str = ""
    candidates: tuple[str, ...] = ()


def parse_row(record: Record, wanted: WantedColumns, config: DataConfig) -> RowParts:
    """Return what the row holds.

    Raises:
        BadRowError: Something in it is wrong.
        NoLabelError: It has no gold.
        ExcludedLabelError: The label map leaves it out.
    """
    parts = _READ[wanted.form](record, wanted, config)
    if "group" not in wanted.names or record.values.get(wanted.names["group"]) is None:
        return parts
    group = record.values[wanted.names["group"]]
    if not isinstance(group, str | int):
        raise BadRowError(
            f"column {wanted.names['group']!r}: got {show_cell(group)}, wanted a text or a number"
        )
    return replace(parts, group=str(group))


def _parse_text_row(record: Record, wanted: WantedColumns, config: DataConfig) -> RowParts:
    label = UNLABELLED
    if wanted.labelled:
        label = find_label_index(record.values.get(wanted.names["label"]), config)
    return RowParts(*_parse_texts(record, wanted), label)


def _parse_texts(record: Record, wanted: WantedColumns) -> tuple[str, str | None]:
    """Return the text and, where the rows have two, the second one."""
    names, values = wanted.names, record.values
    pair = names.get("text_pair")
    return (
        cells.parse_text(values.get(names["text"]), names["text"]),
        None if pair is None else cells.parse_text(values.get(pair), pair),
    )


def _parse_labels_row(record: Record, wanted: WantedColumns, config: DataConfig) -> RowParts:
    texts = _parse_texts(record, wanted)
    if not wanted.labelled:
        return RowParts(*texts)
    column = wanted.names.get("labels")
    if column is None:
        gold = tuple(_parse_flag(record.values.get(label), label) for label in config.labels)
    else:
        named = parse_label_set(record.values.get(column), config, f"column {column!r}")
        gold = tuple(int(place in named) for place in range(len(config.labels)))
    if all(value == UNLABELLED for value in gold):
        raise NoLabelError(f"columns {join_names(config.labels)}: got no 0 and no 1")
    return RowParts(*texts, label=0, gold=gold)


def _parse_flag(value: object, column: str) -> int:
    """Return 0 or 1 of a label's own column; `UNLABELLED` where nobody has looked (empty, or -1)."""
    if is_missing(value):
        return UNLABELLED
    known = {"0": 0, "1": 1, "false": 0, "true": 1}
    found = next((known[s.casefold()] for s in list_spellings(value) if s.casefold() in known), None)
    if found is None:
        raise BadRowError(f"column {column!r}: got {show_cell(value)}, wanted 0 or 1 (empty: not known)")
    return found


def _parse_value_row(record: Record, wanted: WantedColumns, config: DataConfig) -> RowParts:
    texts = _parse_texts(record, wanted)
    if not wanted.labelled:
        return RowParts(*texts)
    column = wanted.names["value"]
    value = record.values.get(column)
    if is_null(value):
        raise NoLabelError(f"column {column!r}: got {value!r}, wanted a number")
    return RowParts(*texts, label=0, values=(cells.parse_number(value, column),))


def _parse_sentences_row(record: Record, wanted: WantedColumns, config: DataConfig) -> RowParts:
    names, values = wanted.names, record.values
    text = cells.parse_text(values.get(names["text"]), names["text"])
    if not wanted.labelled or "text_pair" not in names or is_null(values.get(names["text_pair"])):
        return RowParts(text, "")  # texts need no gold
    pair = cells.parse_text(values[names["text_pair"]], names["text_pair"])
    scored = "value" in names and not is_null(values.get(names["value"]))
    score = (cells.parse_number(values[names["value"]], names["value"]),) if scored else ()
    return RowParts(text, pair, label=0, values=score)


def _parse_words_row(record: Record, wanted: WantedColumns, config: DataConfig) -> RowParts:
    names, values = wanted.names, record.values
    if "tokens" not in names:
        text = cells.parse_text(values.get(names["text"]), names["text"])
        spans = tuple((begin, end) for begin, end in find_word_spans(text).tolist())
        if not spans:
            raise BadRowError(f"column {names['text']!r}: got {shorten_text(text)!r}, which holds no word")
        return RowParts(text, words=spans)
    tokens = cells.parse_tokens(values.get(names["tokens"]), names["tokens"], record.flat)
    text, spans = join_tokens(tokens)
    if not wanted.labelled:
        return RowParts(text, words=spans, mode="split")
    column = names["tags"]
    if is_missing(values.get(column)):
        raise NoLabelError(f"column {column!r}: got {values.get(column)!r}, wanted a list of tags")
    tags = cells.parse_list(values.get(column), column, record.flat)
    gold, mended = parse_tags(tags, len(tokens), config, column)
    return RowParts(text, label=0, words=spans, gold=gold, mended=mended, mode="split")


def _parse_answers_row(record: Record, wanted: WantedColumns, config: DataConfig) -> RowParts:
    names, values = wanted.names, record.values
    question = cells.parse_text(values.get(names["question"]), names["question"])
    context = cells.parse_text(values.get(names["context"]), names["context"])
    if not wanted.labelled:
        return RowParts(question, context)
    column = names["answers"]
    value, impossible = values.get(column), values.get("is_impossible")
    if is_missing(value) and impossible is not True:
        raise NoLabelError(f"column {column!r}: got {value!r}, wanted {{text: [...], answer_start: [...]}}")
    found = [] if is_missing(value) else cells.parse_answers(value, column, record.flat)
    if found and impossible is True:
        raise BadRowError(
            f"column {column!r}: got {len(found)} answers, but column 'is_impossible' says that there is none"
        )
    if not found and config.no_answer == "never":
        raise BadRowError(f"column {column!r}: got no answer, wanted one at least (data.no_answer: never)")
    spans: dict[tuple[int, int], None] = {}
    for answer, start in found:
        _check_answer_offset(answer, start, context, column)
        spans[start, start + len(answer)] = None
    return RowParts(question, context, label=0, gold=tuple(edge for span in spans for edge in span))


def _check_answer_offset(answer: str, start: int, context: str, column: str) -> None:
    if start >= 0 and context.startswith(answer, start):
        return
    what = f"column {column!r}: the answer {shorten_text(answer, 40)!r}"
    found = context.count(answer)
    if not found:
        near = ""
        at = context.casefold().find(answer.casefold())
        if at >= 0:
            near = f" (but {shorten_text(context[at : at + len(answer)], 40)!r} at {at})"
        raise BadRowError(f"{what} is not in its context{near}")
    there = shorten_text(repr(context[max(0, start) : max(0, start) + len(answer)]), 40)
    elsewhere = f"it stands at {context.find(answer)}" if found == 1 else f"it stands at {found} other places"
    raise BadRowError(f"{what} is not at its offset {start}, where {there} is; {elsewhere}")


def _parse_target_row(record: Record, wanted: WantedColumns, config: DataConfig) -> RowParts:
    names, values = wanted.names, record.values
    source = ""
    if "source" in names:
        column = names["source"]
        value: object = values.get(column)
        needs_source = wanted.form == "source_target" or "target" not in names
        source = (cells.parse_text if needs_source else cells.parse_any_text)(
            "" if value is None else value, column
        )
    spoken = wanted.source_language
    if "source_language" in names:
        spoken = cells.parse_text(values.get(names["source_language"]), names["source_language"])
    if "target" not in names:
        return RowParts(source, pair="", source_language=spoken)
    target = cells.parse_text(values.get(names["target"]), names["target"])
    return RowParts(
        source if source.strip() else "",
        target,
        label=0 if wanted.labelled else UNLABELLED,
        source_language=spoken,
    )


def _parse_marked_row(record: Record, wanted: WantedColumns, config: DataConfig) -> RowParts:
    names, values = wanted.names, record.values
    text = cells.parse_text(values.get(names["text"]), names["text"])
    given = [values.get(names[key]) for key in ("head", "tail") if key in names]
    text, ambiguous = mark_entities(text, given, names, flat=record.flat)
    label = UNLABELLED
    if wanted.labelled:
        label = find_label_index(add_direction(values.get(names["label"]), values, names), config)
    return RowParts(text, label=label, mended=int(ambiguous))


def mark_entities(
    text: str, given: Sequence[object], names: Mapping[str, str], *, flat: bool = False
) -> tuple[str, bool]:
    """Return the text with its markers, and whether an entity stands several times in it.

    Args:
        text: The raw text; it holds the markers where no entities are given.
        given: Head and tail as `cells.parse_spans` reads them, or nothing.
        names: The columns, for messages.
        flat: Whether the source has strings only.

    Raises:
        BadRowError: Markers or entities are missing, or both are there.
    """
    if not given:
        if not is_marked(text):
            raise BadRowError(
                f"column {names['text']!r}: got {shorten_text(text)!r}, wanted each of {' '.join(MARKERS)} once, or "
                "the columns head and tail"
            )
        return text, False
    if held := [marker for marker in MARKERS if marker in text]:
        raise BadRowError(f"column {names['text']!r}: holds {held[0]} beside the columns of the entities")
    heads, tails = (
        cells.parse_spans(value, names[key], text, flat)
        for key, value in zip(("head", "tail"), given, strict=True)
    )
    return mark_spans(text, *choose_closest(heads, tails)), len(heads) * len(tails) > 1


def _parse_candidates_row(record: Record, wanted: WantedColumns, config: DataConfig) -> RowParts:
    names, values = wanted.names, record.values
    query = cells.parse_text(values.get(names["query"]), names["query"])
    found = cells.parse_texts(values.get(names["candidates"]), names["candidates"], record.flat)
    if not 2 <= len(found) <= MOST_CANDIDATES:
        raise BadRowError(
            f"column {names['candidates']!r}: got {len(found)} of {shorten_text(query, 40)!r}, wanted 2 to "
            f"{MOST_CANDIDATES:,} different texts"
        )
    if not wanted.labelled:
        return RowParts(query, candidates=found)
    column = names.get("relevances") or names["label"]
    value = values.get(column)
    if is_null(value):
        raise NoLabelError(f"column {column!r}: got {value!r}, wanted how relevant each candidate is")
    if "relevances" in names:
        gains = cells.parse_relevances(value, column, len(found), record.flat)
    else:
        place = cells.parse_place(value, column, len(found))
        gains = tuple(float(at == place) for at in range(len(found)))
    return RowParts(query, label=0, values=gains, candidates=found, mended=int(not any(gains)))


def _parse_plain_row(record: Record, wanted: WantedColumns, config: DataConfig) -> RowParts:
    column = wanted.names.get("text")
    if column is not None:
        return RowParts(cells.parse_text(record.values.get(column), column), label=0)
    column = wanted.names["tokens"]
    return RowParts(
        join_tokens(cells.parse_tokens(record.values.get(column), column, record.flat))[0], label=0
    )


_READ: dict[RowForm, Callable[[Record, WantedColumns, DataConfig], RowParts]] = {
    "text": _parse_text_row,
    "words": _parse_words_row,
    "answers": _parse_answers_row,
    "target": _parse_target_row,
    "source_target": _parse_target_row,
    "plain": _parse_plain_row,
    "value": _parse_value_row,
    "marked": _parse_marked_row,
    "labels": _parse_labels_row,
    "sentences": _parse_sentences_row,
    "candidates": _parse_candidates_row,
}
