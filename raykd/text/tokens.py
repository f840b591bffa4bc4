"""Turn texts into tokens: what a tokenizer is asked for, and what every task stores of its answer.

Decision record: whether a text was longer than the limit is told by the tokenizer's own encodings where they say so,
else by comparing with the tokens without a limit, of those texts only that could be too long. It is known per row, so
that a run can count long rows, leave them out or stop.

Where a model has an adapter for each language (`raykd.networks.routing`), its tokenizer carries the languages: it goes
with a model from a run's rows to the loop, into the saved folder and to whoever asks it, and it makes the inputs. So no
task and no loop knows of adapters. Their numbers are one more input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ConfigError, DataError
from raykd.text.ragged import Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ADAPTER_IDS = "adapter_ids"
"""The number of a sequence's adapter, at each of its tokens: an input of a model that has several."""
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", ADAPTER_IDS)
"""What a tokenizer makes for a model to read."""
_WANT_BLANKS = frozenset({"GPT2Tokenizer", "RobertaTokenizer", "DebertaTokenizer"})
"""Classes that say of themselves that words given apart need ``add_prefix_space``."""


class Tokenizer(Protocol):
    """What raykd asks of a tokenizer; every fast tokenizer of transformers has it, `models.HashedNgrams` too."""

    @property
    def pad_token_id(self) -> int | None: ...

    def __len__(self) -> int: ...

    def __call__(
        self, text: list[str], text_pair: list[str] | None = None, *, truncation: bool, max_length: int
    ) -> Mapping[str, Sequence[Sequence[int] | NDArray[np.int64]]]:
        """Return token ids (and masks) of each text, not padded."""
        ...

    def save_pretrained(self, save_directory: str) -> object: ...


class Encoded(Protocol):
    """What a tokenizer of transformers returns: by name one list per sequence (of pairs in ``offset_mapping``)."""

    def __getitem__(self, name: str) -> Sequence[Sequence[int]]: ...

    def __contains__(self, name: object) -> bool: ...

    def word_ids(self, batch_index: int) -> list[int | None]:
        """Return the word of each token; None for special tokens."""
        ...

    def sequence_ids(self, batch_index: int) -> list[int | None]:
        """Return the text (0 or 1) of each token; None for special tokens."""
        ...


def call_tokenizer(
    tokenizer: Tokenizer,
    texts: Sequence[object],
    pairs: Sequence[str] | None = None,
    *,
    languages: Sequence[str] = (),
    **options: object,
) -> Encoded:
    """Run a tokenizer with options of transformers.

    Args:
        tokenizer: Any that takes the options.
        texts: B texts, or B lists of words.
        pairs: B second texts.
        languages: Of the texts, "" where unknown; () where no text has one. Only a tokenizer that cuts each text by its
            language's tokenizer (`has_languages`) is given them. Where languages have adapters (`list_adapters`), they
            become `ADAPTER_IDS`.
        options: Keyword arguments of ``PreTrainedTokenizerBase.__call__``.

    Raises:
        DataError: A text's language has no adapter.
    """
    if has_languages(tokenizer):
        options["languages"] = [language or None for language in languages or ("",) * len(texts)]
    call = cast("Callable[..., Encoded]", tokenizer)
    encoded = call(list(texts), None if pairs is None else list(pairs), **options)
    if languages and list_adapters(tokenizer):
        _add_adapter_ids(cast("dict[str, Any]", encoded), tokenizer, languages)
    return encoded


def name_adapters(tokenizer: Tokenizer, languages: Sequence[str]) -> Tokenizer:
    """Let a tokenizer say which adapter reads each text: their languages, in the order of the adapters."""
    cast(Any, tokenizer).adapters = tuple(languages)
    return tokenizer


def list_adapters(tokenizer: Tokenizer | None) -> tuple[str, ...]:
    """Return the languages that have an adapter each; () where the same weights read all texts."""
    return getattr(tokenizer, "adapters", ())


def _add_adapter_ids(encoded: dict[str, Any], tokenizer: Tokenizer, languages: Sequence[str]) -> None:
    """Add `ADAPTER_IDS` to what a tokenizer returned.

    Args:
        encoded: Ids of each sequence, changed in place; several windows may be of one text.
        tokenizer: It.
        languages: Of the texts.

    Raises:
        DataError: A text's language has no adapter.
    """
    numbers = {language: at for at, language in enumerate(list_adapters(tokenizer))}
    lost = next((language for language in languages if language not in numbers), None)
    if lost is not None:
        raise DataError(
            "this model has an adapter for each of its languages, and none for a text's",
            got=f"language {lost}" if lost else "a text without a language",
            wanted=f"one of {', '.join(numbers)}",
            next_step='name it: a key "lang" of each row, or --language (in Python language=) for all of them',
        )
    windows = "overflow_to_sample_mapping"
    owners = encoded[windows] if windows in encoded else range(len(languages))
    encoded[ADAPTER_IDS] = [
        [numbers[languages[at]]] * len(ids) for at, ids in zip(owners, encoded["input_ids"], strict=True)
    ]


def has_languages(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer cuts each text by its language's tokenizer (`raykd.tokenizers.union`)."""
    return bool(getattr(tokenizer, "by_language", False))


def has_offsets(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer says where its tokens stand in a text: those of the Rust backend do."""
    return bool(getattr(tokenizer, "is_fast", False))


@dataclass(frozen=True)
class Tokens:
    """Sequences of tokens, not padded. Made by `tokenize`.

    Attributes:
        fields: For each model input (``input_ids``, ``attention_mask``, ...) one int array per sequence.
        pad_values: The id that pads each field.
        lengths_B: Tokens per sequence.
        long_B: Whether a row lost tokens to the limit (per row, where a row has several sequences).
    """

    fields: Mapping[str, Sequence[NDArray[np.int64]]]
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
    """Tokenise B texts (or pairs), truncating at ``max_length`` tokens.

    Args:
        tokenizer: Any tokenizer.
        texts: First texts.
        pairs: Second texts, or None.
        max_length: Tokens per sequence at most, special tokens included.
        languages: See `call_tokenizer`.
    """
    encoded = call_tokenizer(
        tokenizer, texts, pairs, languages=languages, truncation=True, max_length=max_length
    )
    long_B = find_truncated(encoded)
    if long_B is None:
        long_B = _find_truncated_by_length(tokenizer, texts, pairs, max_length, encoded, languages)
    return build_tokens(encoded, tokenizer, long_B)


def find_truncated(encoded: Encoded) -> NDArray[np.bool_] | None:
    """Return whether each sequence lost tokens, as fast tokenizers and n-grams tell; None of another tokenizer."""
    long_B: NDArray[np.bool_] | None = getattr(encoded, "long_B", None)
    if long_B is not None:
        return long_B
    encodings = getattr(encoded, "encodings", None)
    if encodings is None:
        return None
    return np.asarray([bool(encoding.overflowing) for encoding in encodings], dtype=bool)


def _find_truncated_by_length(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    encoded: Encoded,
    languages: Sequence[str],
) -> NDArray[np.bool_]:
    """Return whether each sequence lost tokens, as more tokens without a limit tell; works for any tokenizer."""
    long_B = np.zeros(len(texts), dtype=bool)
    characters = [len(t) + (0 if pairs is None else len(pairs[i])) for i, t in enumerate(texts)]
    # A token is a character at least; half of the limit leaves room for special tokens.
    doubtful = [i for i, count in enumerate(characters) if count > max_length // 2]
    if doubtful:
        whole = call_tokenizer(
            tokenizer,
            [texts[i] for i in doubtful],
            None if pairs is None else [pairs[i] for i in doubtful],
            languages=[languages[i] for i in doubtful] if languages else (),
            truncation=False,
            max_length=max_length,
        )["input_ids"]
        long_B[doubtful] = [
            len(ids) > len(encoded["input_ids"][i]) for i, ids in zip(doubtful, whole, strict=True)
        ]
    return long_B


def build_tokens(encoded: Encoded, tokenizer: Tokenizer, long_B: NDArray[np.bool_] | None = None) -> Tokens:
    """Return the model's inputs among what a tokenizer returned.

    Args:
        encoded: The tokenizer's output.
        tokenizer: The tokenizer, for its padding.
        long_B: Which rows lost tokens; None says that no row did.
    """
    fields = {name: Ragged.of(encoded[name]) for name in MODEL_INPUTS if name in encoded}
    pad_id = tokenizer.pad_token_id or 0
    return Tokens(
        fields,
        {name: pad_id if name == "input_ids" else 0 for name in fields},
        fields["input_ids"].counts_S,
        np.zeros(len(fields["input_ids"]), dtype=bool) if long_B is None else long_B,
    )


def merge_tokens(parts: Sequence[tuple[Sequence[int], Tokens]], count: int) -> Tokens:
    """Return the sequences of several calls as those of one call.

    Args:
        parts: Per call the rows of its sequences, and its tokens.
        count: Rows of all calls together.
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
    """Make a byte-level tokenizer set a blank before a text, and so before every word that is given to it by itself.

    Only those of GPT-2, RoBERTa and DeBERTa need it (``add_prefix_space``, as `run_ner.py` loads them); any other
    tokenizer is returned as it is.
    """
    fast = cast("PreTrainedTokenizerFast", tokenizer)
    if type(fast).__name__.removesuffix("Fast") not in _WANT_BLANKS or getattr(
        fast, "add_prefix_space", True
    ):
        return tokenizer
    fast.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    fast.add_prefix_space = fast.init_kwargs["add_prefix_space"] = True
    return tokenizer


def check_fast(
    tokenizer: Tokenizer,
    why: str = "a task whose unit is a word",
    next_step: str = "choose a student or teacher of another kind (lstm, transformer, pretrained)",
) -> PreTrainedTokenizerFast:
    """Return a tokenizer that says where its tokens stand.

    Args:
        tokenizer: Any tokenizer.
        why: What needs the places, for the message.
        next_step: What to do without such a tokenizer, for the message.

    Raises:
        ConfigError: The tokenizer does not say where its tokens stand.
    """
    if not has_offsets(tokenizer):
        raise ConfigError(
            "this tokenizer does not say where its tokens stand in the text",
            got=type(tokenizer).__name__,
            wanted=f"a fast tokenizer (Rust backend) for {why}",
            next_step=next_step,
        )
    return cast("PreTrainedTokenizerFast", tokenizer)


def add_markers(tokenizer: Tokenizer, markers: Sequence[str]) -> Tokenizer:
    """Make a tokenizer keep each marker as one token; markers that it has are left as they are.

    Raises:
        ConfigError: The tokenizer has no vocabulary (hashed n-grams), so it cannot keep a sign whole.
    """
    from tokenizers import AddedToken

    if markers:
        # Not normalized: a marker is found before its text is put into lower case.
        added = [AddedToken(marker, special=True, normalized=False) for marker in markers]
        check_fast(tokenizer).add_tokens(added, special_tokens=True)
    return tokenizer


def find_marker_ids(tokenizer: Tokenizer, markers: Sequence[str]) -> NDArray[np.int64]:
    """Return the token of each marker.

    Raises:
        ConfigError: The tokenizer cuts a marker to pieces.
    """
    check_fast(tokenizer)
    pieces = call_tokenizer(tokenizer, markers, add_special_tokens=False)["input_ids"]
    broken = [marker for marker, ids in zip(markers, pieces, strict=True) if len(ids) != 1]
    if broken:
        raise ConfigError(
            "a tokenizer cuts markers to pieces",
            got=f"{broken}",
            wanted="one token each",
            next_step="train the model with these markers (a run with this task), or choose a task without them",
        )
    return np.asarray([ids[0] for ids in pieces], dtype=np.int64)
