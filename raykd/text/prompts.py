"""Encode prompts, sources and targets for language models, the same wherever they are read.

Decision record: training, scoring, generation, labelling and prediction call these functions and nothing else, because
a model that is asked with other ids than it was trained on answers wrongly and no loss shows it. What a tokenizer puts
around a text is found by asking it for a text with and without it. A prompt is open: an end that the tokenizer appends
is taken off. A target ends once: a text that already holds the marks (a rendered chat) does not get them twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import takewhile
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ConfigError
from raykd.text.alignment import find_start_offsets
from raykd.text.codes import choose_language_code, find_source_marks, group_rows_by_code, set_languages
from raykd.text.tokens import Encoded, Tokenizer, check_fast

_PROBES = ("a", "1", ".", "的", "の", "는", "и", "ا", "ก")
"""Texts of which every tokenizer knows one: some silently leave out what they do not know."""


@dataclass(frozen=True)
class TextMarks:
    """Ids that a tokenizer puts before and after a text."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Prompts:
    """B prompts or sources.

    Attributes:
        ids: Token ids within the limit.
        long_B: Whether a row lost tokens to the limit.
        held_B: Whether a row's text already held a mark that the tokenizer would have added.
    """

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


P = TypeVar("P", bound=Prompts)


def find_end_id(tokenizer: Tokenizer) -> int | None:
    """Return the token that ends a text (for tokenizers of BERT's kind the separator); None where there is none."""
    end = getattr(tokenizer, "eos_token_id", None)
    return getattr(tokenizer, "sep_token_id", None) if end is None else end


def find_text_marks(tokenizer: Tokenizer, *, as_target: bool = False) -> TextMarks:
    """Return what the tokenizer's own call puts around a text, in the languages that it is set to now."""
    for probe in _PROBES:
        bare = list(_encode(tokenizer, [probe], as_target, add_special_tokens=False)["input_ids"][0])
        if bare:
            break
    whole = list(_encode(tokenizer, [probe], as_target)["input_ids"][0])
    for at in range(len(whole) - len(bare) + 1):
        if whole[at : at + len(bare)] == bare:
            return TextMarks(tuple(whole[:at]), tuple(whole[at + len(bare) :]))
    return TextMarks((), ())


def encode_prompts(tokenizer: Tokenizer, texts: Sequence[str], limit: int | None = None) -> Prompts:
    """Return the ids of prompts that a decoder continues.

    A long prompt loses its beginning, except the token that begins a text.

    Raises:
        ConfigError: A prompt is empty, and the tokenizer has no token to begin with.
    """
    marks, end = find_text_marks(tokenizer), find_end_id(tokenizer)
    begin = getattr(tokenizer, "bos_token_id", None)
    after = tuple(takewhile(lambda i: i != end, marks.after))
    ids, long, held = [], [], []
    for content in _encode_bare(tokenizer, texts):
        added = marks.before[: len(marks.before) - _count_overlap(marks.before, content)]
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
    tokenizer: Tokenizer,
    texts: Sequence[str],
    limit: int | None = None,
    languages: Sequence[str] = (),
    target_languages: Sequence[str] = (),
) -> Prompts:
    """Return the ids of sources that an encoder reads, marks included.

    A long source loses its end, or its beginning where the tokenizer truncates on the left.

    Args:
        tokenizer: The model's.
        texts: B sources.
        limit: Tokens per source at most; None is any number.
        languages: Of the texts, for tokenizers that mark it; "" is the tokenizer's own.
        target_languages: To write for each text, for tokenizers whose sources begin with it; "" leaves it out.

    Raises:
        ConfigError: The tokenizer has no code for a language.
    """
    source_marks = find_source_marks(tokenizer) if any(target_languages) else {}
    room = limit if limit is None or not source_marks else max(0, limit - 1)
    parts = []
    groups = group_rows_by_code(tokenizer, languages, len(texts))
    for code, rows in groups.items():
        with set_languages(tokenizer, source=code):
            parts.append(_encode_source_group(tokenizer, [texts[i] for i in rows], room))
    sources = _merge_groups(groups, parts)
    return mark_sources(sources, source_marks, target_languages) if source_marks else sources


def mark_sources(sources: Prompts, marks: Mapping[str, int], languages: Sequence[str]) -> Prompts:
    """Return sources that begin with the language to write.

    A source that begins with a mark keeps its own.

    Args:
        sources: B sources.
        marks: As `find_source_marks` returns them.
        languages: To write for each source; "" leaves it as it is.

    Raises:
        ConfigError: There is no mark of a language.
    """
    known, ids = set(marks.values()), []
    for row, language in zip(sources.ids, languages, strict=True):
        has_mark = len(row) > 0 and int(row[0]) in known
        first = [] if has_mark or not language else [marks[choose_language_code(tuple(marks), language)]]
        ids.append(np.concatenate([np.asarray(first, dtype=np.int64), row]))
    return replace(sources, ids=ids)


def _encode_source_group(tokenizer: Tokenizer, texts: Sequence[str], limit: int | None) -> Prompts:
    marks = find_text_marks(tokenizer)
    left = getattr(tokenizer, "truncation_side", "right") == "left"
    ids, long, held = [], [], []
    for content in _encode_bare(tokenizer, texts):
        before = marks.before[: len(marks.before) - _count_overlap(marks.before, content)]
        after = marks.after[_count_overlap(content, marks.after) :]
        room = len(content) if limit is None else max(0, limit - len(before) - len(after))
        shown = content[max(0, len(content) - room) :] if left else content[:room]
        ids.append(np.asarray([*before, *shown, *after][:limit], dtype=np.int64))
        long.append(len(content) > room)
        held.append(len(before) + len(after) < len(marks.before) + len(marks.after))
    return Prompts(ids, np.asarray(long, dtype=bool), np.asarray(held, dtype=bool))


def encode_targets(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    limit: int,
    *,
    as_target: bool,
    languages: Sequence[str] = (),
) -> Targets:
    """Return the ids of targets and where each token begins; cut after ``limit`` tokens.

    Args:
        tokenizer: The model's.
        texts: B targets.
        limit: Tokens per target at most, the end included.
        as_target: Whether the tokenizer encodes a target and ends it itself (encoder-decoders); else only the end
            token is added.
        languages: Of the targets, as for `encode_sources`.

    Raises:
        ConfigError: The tokenizer does not say where its tokens stand, or has no code for a language.
    """
    check_fast(
        tokenizer,
        "targets, whose tokens are compared by where they begin",
        "save the model with a tokenizer.json, or let it write targets: raykd label --sequences",
    )
    parts = []
    groups = group_rows_by_code(tokenizer, languages if as_target else (), len(texts))
    for code, rows in groups.items():
        with set_languages(tokenizer, target=code):
            parts.append(_encode_target_group(tokenizer, [texts[i] for i in rows], limit, as_target))
    return _merge_groups(groups, parts)


def _encode_target_group(tokenizer: Tokenizer, texts: Sequence[str], limit: int, as_target: bool) -> Targets:
    if as_target:
        marks = find_text_marks(tokenizer, as_target=True)
    else:
        end = find_end_id(tokenizer)
        marks = TextMarks((), () if end is None else (end,))
    ids, starts, held = [], [], []
    for text, content, places in zip(texts, *_encode_located(tokenizer, texts, as_target), strict=True):
        inner, ended = _strip_end_marks(content, places, text, marks.after)
        before = marks.before[: len(marks.before) - _count_overlap(marks.before, inner)]
        row = [*before, *inner, *marks.after]
        special = np.ones(len(row), dtype=bool)
        special[len(before) : len(before) + len(inner)] = False
        offsets_L2 = np.zeros((len(row), 2), dtype=np.int64)
        offsets_L2[~special] = places[: len(inner)]
        ids.append(np.asarray(row, dtype=np.int64))
        shown = text[: int(places[len(inner), 0])] if ended else text
        starts.append(find_start_offsets(offsets_L2, shown, special))
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


def _merge_groups(groups: Mapping[str | None, list[int]], parts: Sequence[P]) -> P:
    """Return the groups' rows in the order of all rows.

    Args:
        groups: The rows of each group.
        parts: What each group became.
    """
    order = np.argsort([i for rows in groups.values() for i in rows]).astype(np.int64)
    columns: dict[str, Any] = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            columns[field.name] = np.concatenate(values)[order]
        else:
            rows = [row for value in values for row in value]
            columns[field.name] = [rows[i] for i in order]
    return replace(parts[0], **columns)


def _encode(tokenizer: Tokenizer, texts: Sequence[str], as_target: bool, **options: object) -> Encoded:
    """Run a tokenizer over sources or targets, which multilingual tokenizers mark differently."""
    call = cast("Callable[..., Encoded]", tokenizer)
    return call(**{"text_target" if as_target else "text": list(texts)}, **options)


def _encode_bare(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of the texts without marks."""
    if not texts:
        return []
    # They are cut afterwards, so a text that is longer than the model is nothing to warn of.
    encoded = _encode(tokenizer, texts, as_target=False, add_special_tokens=False, verbose=False)
    return [list(row) for row in encoded["input_ids"]]


def _encode_located(
    tokenizer: Tokenizer, texts: Sequence[str], as_target: bool
) -> tuple[list[list[int]], list[NDArray[np.int64]]]:
    """Return the ids of the texts without marks, and ``[L, 2]``: begin and end of each token in characters."""
    if not texts:
        return [], []
    encoded = _encode(
        tokenizer, texts, as_target, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    places = [np.asarray(row, dtype=np.int64).reshape(-1, 2) for row in encoded["offset_mapping"]]
    return [list(row) for row in encoded["input_ids"]], places


def _count_overlap(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many ids at the end of ``left`` are the same as at the beginning of ``right``, at most."""
    for count in range(min(len(left), len(right)), 0, -1):
        if tuple(left[-count:]) == tuple(right[:count]):
            return count
    return 0


def _strip_end_marks(
    content: list[int], places: NDArray[np.int64], text: str, after: tuple[int, ...]
) -> tuple[list[int], bool]:
    """Return the target without end marks that its text already holds, and whether it held any."""
    size = len(content)
    while size and not text[int(places[size - 1, 0]) :].strip():  # blanks may follow the marks
        size -= 1
    count = _count_overlap(content[:size], after)
    return (content[: size - count], True) if count else (content, False)


def _choose_first_id(begin: int | None, end: int | None) -> int:
    """Return the id that stands where a prompt is empty."""
    first = end if begin is None else begin
    if first is None:
        raise ConfigError(
            "an empty prompt needs a token to begin with, and this tokenizer has none",
            got="a tokenizer without bos_token and eos_token",
            wanted="a token that begins a text",
            next_step="set bos_token in its tokenizer_config.json, or leave rows without a prompt out",
        )
    return first
