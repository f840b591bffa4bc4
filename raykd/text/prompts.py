"""Prompts, sources and targets as token ids: what a language model reads, the same wherever it reads.

Decision record: training, scoring, generation, labelling and prediction call these functions and nothing else, because
a model that is asked with other ids than it was trained on answers wrongly and no loss shows it. What a tokenizer puts
around a text is found by asking it for a text with and without it. A prompt is open: an end that the tokenizer appends
is taken off. A target ends once: a text that already holds the marks (a rendered chat) does not get them twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ConfigError
from raykd.text.alignment import find_start_offsets
from raykd.text.codes import group_rows_by_code, set_languages
from raykd.text.tokens import Tokenizer

_PROBES = ("a", "1", ".", "的", "の", "는", "и", "ا", "ก")
"""Texts of which a tokenizer knows one: some leave out without a word what they do not know."""


@dataclass(frozen=True)
class TextMarks:
    """Ids that a tokenizer puts before and after a text."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Prompts:
    """B prompts or sources. ids: within the limit. long_B: rows that lost tokens to it. held_B: rows whose text already
    held a mark that the tokenizer would have added."""

    ids: list[NDArray[np.int64]]
    long_B: NDArray[np.bool_]
    held_B: NDArray[np.bool_]


@dataclass(frozen=True)
class Targets(Prompts):
    """B targets, their end included.

    Attributes:
        starts: The character at which each token begins (`find_start_offsets`).
        whole_B: Tokens before the limit.
        last_B: The last id before the limit.
    """

    starts: list[NDArray[np.int64]]
    whole_B: NDArray[np.int64]
    last_B: NDArray[np.int64]


def find_end_id(tokenizer: Tokenizer) -> int | None:
    """The token that ends a text: of a tokenizer of BERT's kind the separator; None where there is none."""
    end = getattr(tokenizer, "eos_token_id", None)
    return getattr(tokenizer, "sep_token_id", None) if end is None else end


def find_text_marks(tokenizer: Any, *, as_target: bool = False) -> TextMarks:
    """What the tokenizer's own call puts around a text (as it is set now, for tokenizers that know languages)."""
    name = "text_target" if as_target else "text"
    for probe in _PROBES:
        bare = list(tokenizer(**{name: [probe]}, add_special_tokens=False)["input_ids"][0])
        if bare:
            break
    whole = list(tokenizer(**{name: [probe]})["input_ids"][0])
    for at in range(len(whole) - len(bare) + 1):
        if whole[at : at + len(bare)] == bare:
            return TextMarks(tuple(whole[:at]), tuple(whole[at + len(bare) :]))
    return TextMarks((), ())


def encode_prompts(tokenizer: Tokenizer, texts: Sequence[str], limit: int | None = None) -> Prompts:
    """Ids of prompts that a decoder goes on with; a long one loses its beginning, except the token that begins a text.

    Raises:
        ConfigError: an empty prompt, and the tokenizer has no token to begin with.
    """
    marks, end = find_text_marks(tokenizer), find_end_id(tokenizer)
    begin = getattr(tokenizer, "bos_token_id", None)
    after = tuple(takewhile(lambda i: i != end, marks.after))
    ids, long, held = [], [], []
    for content in _encode_bare(tokenizer, texts):
        added = _drop_marks_before(marks.before, content)
        kept = len(added) + (begin is not None and content[:1] == [begin])
        row = [*added, *content, *after] or [_choose_first_id(begin, end)]
        too_long = limit is not None and len(row) > limit
        if limit is not None and too_long:
            kept = min(kept, limit)
            row = row[:kept] + row[len(row) - (limit - kept) :]
        ids.append(np.asarray(row, dtype=np.int64))
        long.append(too_long)
        held.append(len(added) < len(marks.before))
    return Prompts(ids, np.asarray(long, dtype=bool), np.asarray(held, dtype=bool))


def encode_sources(
    tokenizer: Any, texts: Sequence[str], limit: int | None = None, languages: Sequence[str] = ()
) -> Prompts:
    """Ids of sources that an encoder reads, marks included; a long one loses its end (its beginning, where the
    tokenizer truncates on the left).

    Args:
        languages: of the texts, for tokenizers that mark it; "" is the tokenizer's own.
    Raises:
        ConfigError: a language that the tokenizer has no code for.
    """
    parts = []
    groups = group_rows_by_code(tokenizer, languages, len(texts))
    for code, rows in groups.items():
        with set_languages(tokenizer, source=code):
            parts.append(_encode_source_group(tokenizer, [texts[i] for i in rows], limit))
    ids, long_B, held_B = _restore_order(groups, [(p.ids, p.long_B, p.held_B) for p in parts])
    return Prompts(ids, np.asarray(long_B, dtype=bool), np.asarray(held_B, dtype=bool))


def _encode_source_group(tokenizer: Tokenizer, texts: Sequence[str], limit: int | None) -> Prompts:
    marks = find_text_marks(tokenizer)
    left = getattr(tokenizer, "truncation_side", "right") == "left"
    ids, long, held = [], [], []
    for content in _encode_bare(tokenizer, texts):
        before = _drop_marks_before(marks.before, content)
        after = _drop_marks_after(content, marks.after)
        room = len(content) if limit is None else max(0, limit - len(before) - len(after))
        shown = content[max(0, len(content) - room) :] if left else content[:room]
        ids.append(np.asarray([*before, *shown, *after][:limit], dtype=np.int64))
        long.append(len(content) > room)
        held.append(len(before) + len(after) < len(marks.before) + len(marks.after))
    return Prompts(ids, np.asarray(long, dtype=bool), np.asarray(held, dtype=bool))


def encode_targets(
    tokenizer: Any, texts: Sequence[str], limit: int, *, as_target: bool, languages: Sequence[str] = ()
) -> Targets:
    """Ids of targets and where each token begins; cut after ``limit`` tokens.

    Args:
        as_target: the tokenizer encodes a target and ends it itself (encoder-decoders); else only the end token is
            added.
        languages: as for `encode_sources`, of the targets.
    Raises:
        ConfigError: a tokenizer that does not tell where its tokens stand, or has no code for a language.
    """
    _check_placed(tokenizer)
    parts = []
    groups = group_rows_by_code(tokenizer, languages if as_target else (), len(texts))
    for code, rows in groups.items():
        with set_languages(tokenizer, target=code):
            parts.append(_encode_target_group(tokenizer, [texts[i] for i in rows], limit, as_target))
    columns = [(p.ids, p.long_B, p.held_B, p.starts, p.whole_B, p.last_B) for p in parts]
    ids, long_B, held_B, starts, whole_B, last_B = _restore_order(groups, columns)
    return Targets(
        ids=ids,
        long_B=np.asarray(long_B, dtype=bool),
        held_B=np.asarray(held_B, dtype=bool),
        starts=starts,
        whole_B=np.asarray(whole_B, dtype=np.int64),
        last_B=np.asarray(last_B, dtype=np.int64),
    )


def _restore_order(
    groups: Mapping[str | None, list[int]], parts: Sequence[tuple[Any, ...]]
) -> list[list[Any]]:
    """The columns of groups of rows, each in the rows' order."""
    order = np.argsort([i for rows in groups.values() for i in rows])
    columns = [[value for part in column for value in part] for column in zip(*parts, strict=True)]
    return [[column[i] for i in order] for column in columns]


def _encode_target_group(tokenizer: Any, texts: Sequence[str], limit: int, as_target: bool) -> Targets:
    end = find_end_id(tokenizer)
    marks = (
        find_text_marks(tokenizer, as_target=True)
        if as_target
        else TextMarks((), () if end is None else (end,))
    )
    name = "text_target" if as_target else "text"
    how: dict[str, Any] = {name: list(texts), "add_special_tokens": False, "return_offsets_mapping": True}
    found = tokenizer(**how, verbose=False) if texts else {}
    ids, starts, held = [], [], []
    for at, text in enumerate(texts):
        content = list(found["input_ids"][at])
        places = [(int(first), int(last)) for first, last in found["offset_mapping"][at]]
        inner, ended = _strip_end_marks(content, places, text, marks.after)
        before = _drop_marks_before(marks.before, inner)
        row = [*before, *inner, *marks.after]
        special = np.ones(len(row), dtype=bool)
        special[len(before) : len(before) + len(inner)] = False
        offsets = [*[(0, 0)] * len(before), *places[: len(inner)], *[(0, 0)] * len(marks.after)]
        ids.append(np.asarray(row, dtype=np.int64))
        starts.append(find_start_offsets(offsets, text[: places[len(inner)][0]] if ended else text, special))
        held.append(ended or len(before) < len(marks.before))
    whole_B = np.asarray([len(row) for row in ids], dtype=np.int64)
    return Targets(
        ids=[row[:limit] for row in ids],
        long_B=whole_B > limit,
        held_B=np.asarray(held, dtype=bool),
        starts=[row[:limit] for row in starts],
        whole_B=whole_B,
        last_B=np.asarray([row[-1] if len(row) else -1 for row in ids], dtype=np.int64),
    )


def _encode_bare(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of the texts alone."""
    if not texts:
        return []
    # They are cut afterwards, so a text that is longer than the model is nothing to warn of.
    encoded: Mapping[str, Any] = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    return [list(row) for row in encoded["input_ids"]]


def _drop_marks_before(before: tuple[int, ...], content: Sequence[int]) -> tuple[int, ...]:
    """What of the marks before a text it does not begin with itself."""
    for count in range(min(len(before), len(content)), 0, -1):
        if tuple(content[:count]) == before[-count:]:
            return before[:-count]
    return before


def _drop_marks_after(content: Sequence[int], after: tuple[int, ...]) -> tuple[int, ...]:
    """What of the marks after a text it does not end with itself."""
    for count in range(min(len(after), len(content)), 0, -1):
        if tuple(content[-count:]) == after[:count]:
            return after[count:]
    return after


def _strip_end_marks(
    content: list[int], places: Sequence[tuple[int, int]], text: str, after: tuple[int, ...]
) -> tuple[list[int], bool]:
    """The target without marks that its text already ends with (blanks may follow them), and whether it held any."""
    size = len(content)
    while size and not text[places[size - 1][0] :].strip():
        size -= 1
    for count in range(min(len(after), size), 0, -1):
        if tuple(content[size - count : size]) == after[:count]:
            return content[: size - count], True
    return content, False


def _choose_first_id(begin: int | None, end: int | None) -> int:
    """What stands where a prompt is empty."""
    first = end if begin is None else begin
    if first is None:
        raise ConfigError(
            "an empty prompt needs a token to begin with, and this tokenizer has none",
            got="a tokenizer without bos_token and eos_token",
            wanted="a token that begins a text",
            next_step="set bos_token in its tokenizer_config.json, or leave rows without a prompt out",
        )
    return first


def _check_placed(tokenizer: Tokenizer) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            "this tokenizer does not say where its tokens stand in the text",
            got=type(tokenizer).__name__,
            wanted="a fast tokenizer (Rust backend): a target's tokens are compared by where they begin",
            next_step="save the model with a tokenizer.json, or let it write targets: raykd label --sequences",
        )
