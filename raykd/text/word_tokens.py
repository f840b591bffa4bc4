"""Tokenise texts for tasks whose unit is a word: tokens with their places, words by themselves, windows of contexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ConfigError
from raykd.text.tokens import Tokenizer, Tokens, build_tokens, call_tokenizer, check_fast, find_truncated

ADVANCE = 8
"""Tokens by which windows of a context advance at least where a long question leaves them little room (an eighth of
what they could, where that is less)."""


@dataclass(frozen=True)
class LocatedTokens(Tokens):
    """Sequences with the place of each token. Made by `tokenize_words`, read by tasks whose unit is a word.

    Attributes:
        offsets: ``[L, 2]`` per sequence, begin and end of each token in the characters of its text.
        special: ``[L]`` per sequence, true for tokens that stand for no character.
        parts: ``[L]`` per sequence, 0 for tokens of the first text, 1 of the second, -1 for special tokens.
        row_of: The row of each sequence; a long row that was cut to windows has several sequences.
        second: The number by which `parts` calls the second text: 0 where the tokenizer is given it first.
    """

    offsets: list[NDArray[np.int64]]
    special: list[NDArray[np.bool_]]
    parts: list[NDArray[np.int64]]
    row_of: NDArray[np.int64]
    second: int = 1


def tokenize_words(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    stride: int | None = None,
    *,
    languages: Sequence[str] = (),
) -> LocatedTokens:
    """Tokenise B texts (or pairs) and say where the tokens stand.

    Args:
        tokenizer: A fast tokenizer.
        texts: First texts.
        pairs: Second texts, or None.
        max_length: Tokens per sequence at most, special tokens included.
        stride: Cut the second text to windows that overlap by so many tokens; None truncates. A tokenizer that pads on
            the left is then given the second text first, as `run_qa.py` gives it.
        languages: See `call_tokenizer`.

    Raises:
        ConfigError: The tokenizer does not say where its tokens stand.
    """
    check_fast(tokenizer)
    windows: dict[str, Any] = {} if stride is None else {"stride": stride, "return_overflowing_tokens": True}
    turned = stride is not None and getattr(tokenizer, "padding_side", "right") == "left"
    firsts, seconds = texts, pairs
    if turned:
        assert seconds is not None
        firsts, seconds = seconds, firsts
    encoded = call_tokenizer(
        tokenizer, firsts, seconds, languages=languages, max_length=max_length,
        truncation=True if stride is None else "only_first" if turned else "only_second",
        return_offsets_mapping=True, return_special_tokens_mask=True, **windows,
    )  # fmt: skip
    # Windows show all of a text, so a row of windows lost nothing.
    long_B = find_truncated(encoded) if stride is None else np.zeros(len(texts), dtype=bool)
    tokens = build_tokens(encoded, tokenizer, long_B)
    count = len(tokens.lengths_B)
    return LocatedTokens(
        tokens.fields,
        tokens.pad_values,
        tokens.lengths_B,
        tokens.long_B,
        offsets=[np.asarray(row, dtype=np.int64).reshape(-1, 2) for row in encoded["offset_mapping"]],
        special=[np.asarray(row, dtype=bool) for row in encoded["special_tokens_mask"]],
        parts=[_fill_special(encoded.sequence_ids(i)) for i in range(count)],
        row_of=np.arange(count) if stride is None else np.asarray(encoded["overflow_to_sample_mapping"]),
        second=0 if turned else 1,
    )


def _fill_special(numbers: Sequence[int | None]) -> NDArray[np.int64]:
    """Return numbers of texts or words with -1 for special tokens, which have none."""
    return np.asarray([-1 if number is None else number for number in numbers], dtype=np.int64)


def reads_words_alone(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer gives n-grams of each word by itself, and no places in a text."""
    return hasattr(tokenizer, "encode_words")


def tokenize_split_words(
    tokenizer: Tokenizer, rows: Sequence[Sequence[str]], max_length: int, languages: Sequence[str] = ()
) -> tuple[Tokens, NDArray[np.int64]]:
    """Tokenise B rows of words, each word by itself (``is_split_into_words``, as `run_ner.py` does).

    A tokenizer of n-grams (`reads_words_alone`) has a way of its own.

    Returns:
        The tokens, and for all words of all rows, in order, the index in its row of the word's first token, which may
        be a lone blank ("▁" before a Chinese character); -1 where it has none (truncated, or of invisible signs).

    Raises:
        ConfigError: The tokenizer does not say where its tokens stand.
    """
    if reads_words_alone(tokenizer):
        fields, first_N, long_B = cast(Any, tokenizer).encode_words(rows, max_length)
        return build_tokens(fields, tokenizer, long_B), first_N
    check_fast(tokenizer)
    encoded = call_tokenizer(
        tokenizer,
        [list(row) for row in rows],
        languages=languages,
        is_split_into_words=True,
        truncation=True,
        max_length=max_length,
    )
    first_N = np.full(sum(map(len, rows)), -1, dtype=np.int64)
    begin = 0
    for i, row in enumerate(rows):
        owners, places = np.unique(_fill_special(encoded.word_ids(i)), return_index=True)
        first_N[begin + owners[owners >= 0]] = places[owners >= 0]
        begin += len(row)
    return build_tokens(encoded, tokenizer, find_truncated(encoded)), first_N


def shorten_questions(
    tokenizer: Tokenizer, questions: Sequence[str], max_length: int, stride: int
) -> tuple[list[str], NDArray[np.bool_]]:
    """Return questions that leave windows of a context room, and which of them lost their end for that.

    Raises:
        ConfigError: Windows of this length have no room for any question.
    """
    fast = check_fast(tokenizer)
    advance = min(ADVANCE, max(1, (max_length - stride) // 8))
    room = max_length - fast.num_special_tokens_to_add(pair=True) - stride - advance
    if room < 1:
        raise ConfigError(
            "windows of a context have no room for a question",
            got=f"task.max_length {max_length}, task.stride {stride}",
            wanted=f"max_length at least stride + {advance} and what a question needs",
            next_step="raise task.max_length (of a teacher: teachers.NAME.max_length), or lower task.stride",
        )
    encoded = call_tokenizer(tokenizer, questions, add_special_tokens=False, return_offsets_mapping=True)
    shortened, long_B = list(questions), np.zeros(len(questions), dtype=bool)
    for i, offsets in enumerate(encoded["offset_mapping"]):
        if len(offsets) > room:
            end = int(np.asarray(offsets[room - 1])[1])
            shortened[i], long_B[i] = questions[i][:end], True
    return shortened, long_B
