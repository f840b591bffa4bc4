"""Texts as tokens: what a tokenizer is asked for, and what every task keeps of its answer.

Decision record: whether a text was longer than the limit is told by the tokenizer's own encodings where they say so,
else by comparing with what it gives without a limit, of those texts only that could be too long. It is known a row, so
that a run can count long rows, leave them out or stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ConfigError


class Tokenizer(Protocol):
    """What raykd asks of a tokenizer; every fast tokenizer of transformers has it, `models.HashedNgrams` too."""

    @property
    def pad_token_id(self) -> int | None: ...

    def __call__(
        self, text: list[str], text_pair: list[str] | None = None, *, truncation: bool, max_length: int
    ) -> Mapping[str, Any]:
        """Token ids (and masks) of each text as lists, not padded."""
        ...

    def save_pretrained(self, save_directory: str) -> object: ...


@dataclass(frozen=True)
class Tokens:
    """Sequences of tokens, not padded. Made by `tokenize`.

    fields: for each model input (``input_ids``, ``attention_mask``, ...) one int array a sequence.
    pad_values: what each field is padded with. lengths_B: tokens a sequence.
    long_B: rows that lost tokens to the limit (rows, where a row has several sequences).
    """

    fields: dict[str, list[NDArray[np.int64]]]
    pad_values: dict[str, int]
    lengths_B: NDArray[np.int64]
    long_B: NDArray[np.bool_]


def tokenize(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    languages: Sequence[str] = (),
) -> Tokens:
    """Runs the tokenizer over B texts (or pairs), truncating at ``max_length`` tokens.

    Args:
        languages: of the texts; told to a tokenizer that cuts by language.
    """
    firsts, seconds = list(texts), None if pairs is None else list(pairs)
    call: Any = tokenizer
    told = build_language_arguments(tokenizer, languages or ("",) * len(firsts))
    encoded = call(firsts, seconds, truncation=True, max_length=max_length, **told)
    long_B = _find_truncated(encoded)
    if long_B is None:
        long_B = _find_truncated_by_length(tokenizer, firsts, seconds, max_length, encoded, languages)
    return build_tokens(encoded, tokenizer, long_B)


def build_language_arguments(tokenizer: Tokenizer, languages: Sequence[str]) -> dict[str, Any]:
    """How a tokenizer is told the languages of texts ("" is unknown): not at all, unless it cuts each text by its
    language's tokenizer (`raykd.tokenizers.union`)."""
    if not getattr(tokenizer, "by_language", False):
        return {}
    return {"languages": [language or None for language in languages]}


def _find_truncated(encoded: Mapping[str, object]) -> NDArray[np.bool_] | None:
    """Whether each sequence lost tokens, as a fast tokenizer's encodings tell; None of another tokenizer."""
    encodings = getattr(encoded, "encodings", None)
    if encodings is None:
        return None
    return np.asarray([bool(encoding.overflowing) for encoding in encodings], dtype=bool)


def _find_truncated_by_length(
    tokenizer: Tokenizer,
    texts: list[str],
    pairs: list[str] | None,
    max_length: int,
    encoded: Mapping[str, Any],
    languages: Sequence[str],
) -> NDArray[np.bool_]:
    """The same of any tokenizer: whether it gives more without a limit. A token is a character at least."""
    long_B = np.zeros(len(texts), dtype=bool)
    characters = [len(t) + (0 if pairs is None else len(pairs[i])) for i, t in enumerate(texts)]
    doubtful = [i for i, count in enumerate(characters) if count > max_length // 2]
    if doubtful:
        call: Any = tokenizer
        spoken = languages or ("",) * len(texts)
        whole = call(
            [texts[i] for i in doubtful],
            None if pairs is None else [pairs[i] for i in doubtful],
            truncation=False,
            max_length=max_length,
            **build_language_arguments(tokenizer, [spoken[i] for i in doubtful]),
        )["input_ids"]
        long_B[doubtful] = [
            len(ids) > len(encoded["input_ids"][i]) for i, ids in zip(doubtful, whole, strict=True)
        ]
    return long_B


def build_tokens(
    encoded: Mapping[str, Any], tokenizer: Tokenizer, long_B: NDArray[np.bool_] | None = None
) -> Tokens:
    """The model's inputs out of what a tokenizer gave."""
    fields = {
        name: [np.asarray(row, dtype=np.int64) for row in rows]
        for name, rows in encoded.items()
        if name in ("input_ids", "attention_mask", "token_type_ids")
    }
    pad_id = tokenizer.pad_token_id or 0
    return Tokens(
        fields,
        {name: pad_id if name == "input_ids" else 0 for name in fields},
        np.asarray([len(row) for row in fields["input_ids"]], dtype=np.int64),
        np.zeros(len(fields["input_ids"]), dtype=bool) if long_B is None else long_B,
    )


@dataclass(frozen=True)
class LocatedTokens(Tokens):
    """Sequences with the place of each token. Written by `tokenize_words`, read by tasks whose unit is a word.

    offsets: ``[L, 2]`` a sequence, begin and end of each token in the characters of its text.
    special: ``[L]`` a sequence, true for tokens that stand for no character.
    parts: ``[L]`` a sequence, 0 for tokens of the first text, 1 of the second, -1 for special ones.
    row_of: the row that each sequence is of (several, where long rows were cut to windows).
    second: the number by which `parts` calls the second text: 0 where the tokenizer is given it first.
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
) -> LocatedTokens:
    """Tokens of B texts (or pairs) and where they stand.

    Args:
        stride: cut the second text to windows that overlap by so many tokens; None truncates. A tokenizer that pads on
            the left is then given the second text first, as `run_qa.py` gives it.
    Raises:
        ConfigError: a tokenizer that does not tell where its tokens stand.
    """
    check_fast(tokenizer)
    call: Any = tokenizer
    windows: dict[str, Any] = {} if stride is None else {"stride": stride, "return_overflowing_tokens": True}
    turned = stride is not None and getattr(tokenizer, "padding_side", "right") == "left"
    firsts, seconds = list(texts), None if pairs is None else list(pairs)
    if turned:
        assert seconds is not None
        firsts, seconds = seconds, firsts
    encoded = call(
        firsts, seconds, max_length=max_length,
        truncation=True if stride is None else "only_first" if turned else "only_second",
        return_offsets_mapping=True, return_special_tokens_mask=True, **windows,
    )  # fmt: skip
    count = len(encoded["input_ids"])
    parts = [
        np.asarray([-1 if part is None else part for part in encoded.sequence_ids(i)], dtype=np.int64)
        for i in range(count)
    ]
    # Windows show all of a text, so a row of windows lost nothing.
    long_B = _find_truncated(encoded) if stride is None else np.zeros(len(texts), dtype=bool)
    tokens = build_tokens(encoded, tokenizer, long_B)
    return LocatedTokens(
        tokens.fields,
        tokens.pad_values,
        tokens.lengths_B,
        tokens.long_B,
        offsets=[np.asarray(row, dtype=np.int64).reshape(-1, 2) for row in encoded["offset_mapping"]],
        special=[np.asarray(row, dtype=bool) for row in encoded["special_tokens_mask"]],
        parts=parts,
        row_of=np.asarray(encoded.get("overflow_to_sample_mapping", range(count)), dtype=np.int64),
        second=0 if turned else 1,
    )


def tokenize_split_words(
    tokenizer: Tokenizer, rows: Sequence[Sequence[str]], max_length: int
) -> tuple[Tokens, NDArray[np.int64]]:
    """Tokens of B rows of words, each word cut to tokens for itself (``is_split_into_words``, as `run_ner.py` does).

    Returns:
        The tokens, and for all words of all rows, in order, the index in its row of the word's first token, which may
        be a lone blank ("▁" before a Chinese character); -1 where it has none (truncated, or of invisible signs).
    Raises:
        ConfigError: a tokenizer that does not tell where its tokens stand.
    """
    check_fast(tokenizer)
    call: Any = tokenizer
    encoded = call(
        [list(row) for row in rows], is_split_into_words=True, truncation=True, max_length=max_length
    )
    first_N = np.full(sum(map(len, rows)), -1, dtype=np.int64)
    begin = 0
    for i, row in enumerate(rows):
        owners_L = np.asarray([-1 if word is None else word for word in encoded.word_ids(i)], dtype=np.int64)
        owners, places = np.unique(owners_L, return_index=True)
        first_N[begin + owners[owners >= 0]] = places[owners >= 0]
        begin += len(row)
    return build_tokens(encoded, tokenizer, _find_truncated(encoded)), first_N


def merge_tokens(parts: Sequence[tuple[Sequence[int], Tokens]], count: int) -> Tokens:
    """The sequences of several calls as those of one of ``count`` rows.

    Args:
        parts: of each call the rows that its sequences are of.
    """
    if len(parts) == 1 and list(parts[0][0]) == list(range(count)):
        return parts[0][1]
    fields: dict[str, list[NDArray[np.int64]]] = {
        name: [np.zeros(0, dtype=np.int64)] * count for name in parts[0][1].fields
    }
    lengths_B, long_B = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
    for rows, tokens in parts:
        for name, values in tokens.fields.items():
            for row, value in zip(rows, values, strict=True):
                fields[name][row] = value
        lengths_B[list(rows)], long_B[list(rows)] = tokens.lengths_B, tokens.long_B
    return Tokens(fields, parts[0][1].pad_values, lengths_B, long_B)


def add_prefix_blank(tokenizer: Tokenizer) -> Tokenizer:
    """A byte-level tokenizer of GPT-2, RoBERTa or DeBERTa that sets a blank before a text, and so before every word
    that is given to it apart (``add_prefix_space``, as `run_ner.py` loads them); any other tokenizer as it is."""
    own: Any = tokenizer
    if type(own).__name__.removesuffix("Fast") not in _WANT_BLANKS or getattr(own, "add_prefix_space", True):
        return tokenizer
    splitter = own.backend_tokenizer.pre_tokenizer
    splitter.add_prefix_space = True
    own.backend_tokenizer.pre_tokenizer = splitter
    own.add_prefix_space = own.init_kwargs["add_prefix_space"] = True
    return tokenizer


_WANT_BLANKS = frozenset({"GPT2Tokenizer", "RobertaTokenizer", "DebertaTokenizer"})
"""Classes that say of themselves that words given apart need ``add_prefix_space``."""


def check_fast(tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer that does not tell where its tokens stand.

    Raises:
        ConfigError: with what to choose instead.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            "this tokenizer does not say where its tokens stand in the text",
            got=type(tokenizer).__name__,
            wanted="a fast tokenizer (Rust backend) for a task whose unit is a word",
            next_step="choose a student or teacher of another kind (lstm, transformer, pretrained)",
        )


ADVANCE = 8
"""Tokens by which windows of a context advance at least where a long question leaves them little room (an eighth of
what they could, where that is less)."""


def shorten_questions(
    tokenizer: Tokenizer, questions: Sequence[str], max_length: int, stride: int
) -> tuple[list[str], NDArray[np.bool_]]:
    """Questions that leave windows of a context room, and which of them lost their end for that.

    Raises:
        ConfigError: windows of this length have no room for any question.
    """
    check_fast(tokenizer)
    call: Any = tokenizer
    advance = min(ADVANCE, max(1, (max_length - stride) // 8))
    room = max_length - call.num_special_tokens_to_add(pair=True) - stride - advance
    if room < 1:
        raise ConfigError(
            "windows of a context have no room for a question",
            got=f"task.max_length {max_length}, task.stride {stride}",
            wanted=f"max_length at least stride + {advance} and what a question needs",
            next_step="raise task.max_length (of a teacher: teachers.NAME.max_length), or lower task.stride",
        )
    encoded = call(list(questions), add_special_tokens=False, return_offsets_mapping=True)
    kept, long_B = list(questions), np.zeros(len(questions), dtype=bool)
    for i, offsets in enumerate(encoded["offset_mapping"]):
        if len(offsets) > room:
            kept[i], long_B[i] = questions[i][: offsets[room - 1][1]], True
    return kept, long_B


def add_markers(tokenizer: Tokenizer, markers: Sequence[str]) -> Tokenizer:
    """The tokenizer, which from now on keeps each marker as one token; markers that it has are left as they are.

    Raises:
        ConfigError: a tokenizer without a vocabulary (hashed n-grams), which cannot keep a sign whole.
    """
    if markers:
        check_fast(tokenizer)
        call: Any = tokenizer
        call.add_tokens([_build_added_token(marker) for marker in markers], special_tokens=True)
    return tokenizer


def _build_added_token(marker: str) -> Any:
    """A token that is found before a text is put into lower case."""
    from tokenizers import AddedToken

    return AddedToken(marker, special=True, normalized=False)


def find_marker_ids(tokenizer: Tokenizer, markers: Sequence[str]) -> NDArray[np.int64]:
    """The token of each marker.

    Raises:
        ConfigError: the tokenizer cuts a marker to pieces.
    """
    check_fast(tokenizer)
    call: Any = tokenizer
    pieces = [call(marker, add_special_tokens=False)["input_ids"] for marker in markers]
    broken = [marker for marker, ids in zip(markers, pieces, strict=True) if len(ids) != 1]
    if broken:
        raise ConfigError(
            "a tokenizer cuts markers to pieces",
            got=f"{broken}",
            wanted="one token each",
            next_step="train the model with task.markers, or leave them out where it does not know them",
        )
    return np.asarray([ids[0] for ids in pieces], dtype=np.int64)
