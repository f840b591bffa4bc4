"""Choose the columns of a source that are read, once for all its rows.

Decision record: a column is missing for the whole file or not at all, so columns are checked before any row, and the
message lists those of the file. Where a default name is missing the next usual name is taken (`prompt`, `tgt_lang`); a
name that the user wrote is never replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from raykd.config import Columns, DataConfig, Files, Hub
from raykd.data.files.textfiles import Record
from raykd.data.forms import WantedColumns
from raykd.errors import DataError
from raykd.tasks.forms import RowForm

_NEXT = {"source": "prompt", "language": "tgt_lang"}
"""The name that is read instead of a missing default, for forms with a target."""
_GOLD = {
    "text": "label",
    "words": "tags",
    "answers": "answers",
    "value": "value",
    "marked": "label",
    "labels": "labels",
    "sentences": "text_pair",
    "candidates": "relevances",
}
"""The column that unlabelled rows do without, by form."""


def choose_columns(
    found: list[Record], name: str, source: Files | Hub, config: DataConfig, form: RowForm, labelled: bool
) -> WantedColumns:
    """Return the columns to read; all of them exist.

    Args:
        found: The records of the source.
        name: The source, for messages.
        source: What the configuration says of it.
        config: The run's data.
        form: What a row consists of.
        labelled: Whether gold is read.

    Raises:
        DataError: A column is missing, or the source's language is not the run's; says what the source has.
    """
    there: dict[str, None] = {}
    for record in found:
        there.update(dict.fromkeys(record.values))
    names = _select_names(there, source, config, form, labelled)
    of_all = source.language
    if of_all is None and len(config.languages) == 1:
        of_all = config.languages[0]
    if of_all is not None and of_all not in config.languages:
        raise DataError(
            f"{name}: the source's language is not in data.languages",
            got=of_all,
            wanted=f"one of {list(config.languages)}",
        )
    if of_all is not None and names.get("language") not in there:
        names.pop("language", None)
    missing = {key: column for key, column in names.items() if column not in there}
    if "language" not in names and of_all is None:
        missing["language"] = "(none is named)"
    named = {column for column in names.values() if _is_chat(found[0].values.get(column))}
    if missing or named:
        _refuse_chats(found[0].values, names, name, named)
        raise DataError(
            f"{name}: no column "
            + ", ".join(f"{column!r} (data.columns.{key})" for key, column in missing.items()),
            got=f"columns {', '.join(map(_display_name, there))}",
            wanted=", ".join(names.values()),
            next_step=_advise_on_nesting(missing, found)
            or _advise_on_names(missing, form, there, found[0].flat),
        )
    return WantedColumns(form, names, of_all, source.source_language or "", labelled=labelled)


def lacks_gold_column(found: list[Record], source: Files | Hub, config: DataConfig, form: RowForm) -> bool:
    """Return whether no record has the column of labels. A name that the user wrote is looked for, not done without;
    null is no name."""
    key = _GOLD.get(form)
    if key is None:
        return False
    column: str = Columns.model_fields[key].default
    written = [name for k, name in source.columns.items() if k == key] or [getattr(config.columns, key)]
    if written != [column]:
        return written == [None]
    sought = {column, *config.labels} if form == "labels" else {column}
    if form == "candidates":
        sought.add(source.columns.get("label", config.columns.label) or column)
    return not any(sought & record.values.keys() for record in found)


def list_column_names(source: Files | Hub, config: DataConfig, form: RowForm) -> set[str]:
    """Return the names of columns on which it depends what is read."""
    keys = Columns.keys_of(form)
    given = config.columns.model_dump() | dict(source.columns)
    defaults = (Columns.model_fields[key].default for key in keys)
    found = {*(given[key] for key in keys), *defaults, *_NEXT.values()}
    return {name for name in found if name is not None}


def _select_names(
    there: dict[str, None], source: Files | Hub, config: DataConfig, form: RowForm, labelled: bool
) -> dict[str, str]:
    """Return the column of each key that rows of this form have in this source."""
    given = config.columns.model_dump() | dict(source.columns)
    keys = Columns.keys_of(form)
    names: dict[str, str] = {key: given[key] for key in keys if given[key] is not None}
    default: dict[str, str] = {key: Columns.model_fields[key].default for key in keys}
    if not labelled:
        names.pop(_GOLD.get(form, ""), None)
        names = {key: column for key, column in names.items() if key != "group" or column in there}
    _find_pairs(names, there, form, labelled)
    _find_plain_text(names, there, form)
    if form == "words":
        # Tokens where there are any; raw text where not, which has no tags.
        raw = not labelled and (names["tokens"] not in there or "text" in source.columns)
        names.pop("tokens" if raw else "text")
    if form == "marked":
        if not labelled:
            names.pop("direction", None)
        spans = {key: names[key] for key in ("head", "tail")}
        if spans == {key: default[key] for key in spans} and not any(
            name in there for name in spans.values()
        ):
            names = {key: name for key, name in names.items() if key not in spans}
    own = form == "labels" and set(config.labels) <= there.keys()
    if own and names.get("labels") == default["labels"] and default["labels"] not in there:
        names.pop("labels")  # each label has a column of its own
    if form in ("target", "source_target"):
        for key, other in _NEXT.items():
            if names.get(key) == default[key] and default[key] not in there and other in there:
                names[key] = other
        spoken = names.get("source_language")
        if spoken == default.get("source_language") and spoken not in there:
            names.pop("source_language", None)
        if form == "target" and names.get("source") == default["source"] and default["source"] not in there:
            names.pop("source")
        if not labelled and "source" in names and names["target"] not in there:
            names.pop("target")  # sources alone: their targets are still to be written
    return names


def _find_plain_text(names: dict[str, str], there: dict[str, None], form: RowForm) -> None:
    """Keep the column of whole texts; where it has its usual name and is not there, what rows of other tasks hold."""
    usual = Columns.model_fields["text"].default
    if form != "plain":
        return
    own = {key: names.pop(key) for key in ("tokens", "context")}
    if names["text"] != usual or usual in there:
        return
    if own["tokens"] in there:
        names["tokens"] = own["tokens"]
        del names["text"]
    elif own["context"] in there:
        names["text"] = own["context"]


def _find_pairs(names: dict[str, str], there: dict[str, None], form: RowForm, labelled: bool) -> None:
    """Find the columns of a pair and its score, under their usual names where they have no other; a text needs none.

    Of a query those of its candidates and their gold: rows are one per query here (`raykd.data.files.candidates`).
    """
    if form == "candidates":
        usual = Columns.model_fields["relevances"].default
        has_place = names.get("relevances") == usual not in there and names.get("label") in there
        gold = [] if not labelled else ["label"] if has_place else ["relevances"]
        for key in names.keys() - {"query", "candidates", *gold, "language", "group", "id"}:
            del names[key]
    if form != "sentences":
        return
    if labelled:
        names.setdefault("text_pair", "text_pair")
    for key, usual in (("text_pair", "text_pair"), ("value", Columns.model_fields["value"].default)):
        if names.get(key) == usual and usual not in there:
            names.pop(key)


def _display_name(column: str) -> str:
    """Return a column's name for a message, escaped where it holds unseen signs or begins or ends with a blank."""
    return column if column.isprintable() and column == column.strip() else ascii(column)


def _is_chat(value: object) -> bool:
    """Return whether a value is a list of messages, as chats are written."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(part, dict) and {"role", "from"} & set(part) for part in value)
    )


def _refuse_chats(first: Mapping[str, object], names: dict[str, str], name: str, named: set[str]) -> None:
    """Raise where chats (lists of messages) stand instead of texts, and say how to render them.

    Args:
        first: The values of the first row.
        names: The columns to read, by key.
        name: The source, for messages.
        named: The columns to read that hold chats.
    """
    there = dict.fromkeys(first)
    usual = [c for c in ("messages", "conversations", "conversation") if c in there]
    chats = [
        *sorted(named),
        *(c for c in usual if _is_chat(first[c]) or str(first[c]).lstrip().startswith("[")),
    ]
    if not chats:
        return
    kept = {key: column for key, column in names.items() if column not in named}
    if "target" not in names:
        text = kept.get("text", "text")
        raise DataError(
            f"{name}: {chats[0]!r} holds chats, which have to be rendered to texts first",
            got=f"columns {', '.join(map(_display_name, there))}",
            wanted=", ".join(names.values()),
            next_step=f"write each chat as one text: {text} = apply_chat_template(messages, tokenize=False) of the "
            "teacher's tokenizer, or the message that counts",
        )
    source, target = kept.get("source", "src"), kept.get("target", kept.get("text", "tgt"))
    raise DataError(
        f"{name}: {chats[0]!r} holds chats, which have to be rendered to texts first",
        got=f"columns {', '.join(map(_display_name, there))}",
        wanted=f"texts: {', '.join(dict.fromkeys((source, target)))}",
        next_step=f"write each row with the template of the teacher's tokenizer: {source} = apply_chat_template("
        f"messages[:-1], tokenize=False, add_generation_prompt=True), {target} = messages[-1]['content']; the rendered "
        "text holds its special tokens, the bos among them, and no second one is put before it; the eos belongs to "
        f"neither, it is learnt after {target}",
    )


def _normalize_name(name: str) -> str:
    """Return a column's name without case, blanks and signs that cannot be seen."""
    return "".join(sign for sign in name if sign.isprintable() and not sign.isspace()).casefold()


def _advise_on_nesting(missing: dict[str, str], found: list[Record]) -> str:
    """Return what to do where the rows, or the missing columns, stand inside a value; "" where they do not."""
    for column, value in found[0].values.items():
        if len(found) == 1 and isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            return (
                f"the rows seem to stand inside {json.dumps(column)}: write each of them as a line of its own"
            )
        written = [json.dumps(missing[key]) for key in ("source", "target") if key in missing]
        if column == "translation" and isinstance(value, dict) and written:
            keys = " and ".join(written)
            return f'the texts stand inside "translation" by language: write them as {keys} of the row itself'
        inside = [name for name in missing.values() if isinstance(value, dict) and name in value]
        if inside:
            return f"{inside[0]!r} stands inside {json.dumps(column)}: write it as a key of the row itself"
    return ""


def _advise_on_names(missing: dict[str, str], form: RowForm, there: dict[str, None], flat: bool) -> str:
    if flat and next(iter(there), "").lstrip().startswith("{"):
        return "the lines are JSON: give the file the ending .jsonl"
    for key, column in missing.items():
        same = [name for name in there if _normalize_name(name) == _normalize_name(column)]
        if same:
            return f"name it as it is written: columns: {{{key}: {json.dumps(same[0])}}} on the source"
    advice = f"name it: data.columns.{next(iter(missing))}, or columns of the source"
    if "candidates" in missing:
        advice += "; or rows of query, candidate and relevance, or of query, positive and negative"
    if "language" in missing:
        advice += "; a source of one language can say so with `language`"
    if flat:
        advice += "; the first line of the file is read as its header"
    if _GOLD.get(form) in missing:
        advice += (
            "; texts without labels belong in data.unlabeled, or, where no row has one, are read with "
            "data.empty_label: unlabeled"
        )
    return advice
