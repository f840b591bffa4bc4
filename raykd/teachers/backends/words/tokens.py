"""Tokenise templates and words for a language model that is read as a classifier.

Decision record:

- A filled template is tokenised as one string, as a person would give it to the model, and cut afterwards by the places
  of its tokens: tokens of the text are dropped, those of the template never.
- The tokens of a word are those that it has behind the template's own words, the blank before it included. A tokenizer
  that joins the word and its neighbour into one token is refused, because no prompt ends inside a token.
- A causal model gives a word's tokens one after the other behind the prompt. A masked model has as many masks in the
  word's place as the word has tokens; they are filled from left to right, so that here too the probabilities of the
  tokens multiply to that of the word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from raykd.errors import ConfigError
from raykd.text.label_phrases import LABEL, PAIR, TEXT, LabelPhrase
from raykd.text.tokens import Tokenizer, call_tokenizer

_EXAMPLE = "N/A"
"""A text for the template in which words are tokenised."""


@dataclass(frozen=True)
class WordPlan:
    """How the words of one language are read from the outputs of a model. Made by `plan_words`.

    Attributes:
        fillers: Per sequence, the ids that stand in the label's place.
        places_P2: Sequence and place (counted from the label's) of each output that is read.
        tokens_K: Ids whose probability is read.
        reads_R3: Of each factor of a word's probability: its output (of P), its token (of K), its word (of W).
        lengths_W: Tokens of each word.
        words_CW: Per label the numbers of its words, filled with W, which is no word.
    """

    fillers: tuple[tuple[int, ...], ...]
    places_P2: NDArray[np.int64]
    tokens_K: NDArray[np.int64]
    reads_R3: NDArray[np.int64]
    lengths_W: NDArray[np.int64]
    words_CW: NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """A filled template in tokens.

    Attributes:
        before: Ids before the label's place, special tokens included.
        after: Ids behind it; () for a causal model.
        is_long: Whether the text lost tokens to the limit.
    """

    before: list[int]
    after: list[int]
    is_long: bool


def plan_words(tokenizer: Tokenizer, phrase: LabelPhrase, mask: int | None, who: str) -> WordPlan:
    """Plan how a language's words are read.

    Args:
        tokenizer: The model's, a fast one.
        phrase: Template and words.
        mask: Id of the mask of a masked model; None of a causal one.
        who: The teacher's key of its words, for messages.

    Raises:
        ConfigError: A word cannot be told from the others, is unknown, or shares a token with the template.
    """
    ids_W = _tokenize_words(tokenizer, phrase, mask, who)
    fillers = _list_fillers(ids_W, mask)
    outputs: dict[tuple[int, int], int] = {}
    tokens: dict[int, int] = {}
    reads = []
    for word, ids in enumerate(ids_W):
        for i, token in enumerate(ids):
            if mask is None:  # the token before a place predicts it
                sequence = next(s for s, own in enumerate(fillers) if own[: len(ids) - 1] == ids[:-1])
                place = (sequence, i - 1)
                if i == 0:  # the same prompt in every sequence
                    place = (0, -1)
            else:
                place = (fillers.index(ids[:i] + (mask,) * (len(ids) - i)), i)
            output = outputs.setdefault(place, len(outputs))
            reads.append((output, tokens.setdefault(token, len(tokens)), word))
    counts = [len(words) for words in phrase.words.values()]
    words_CW = np.full((len(counts), max(counts)), len(ids_W), dtype=np.int64)
    for label, (begin, count) in enumerate(zip(np.cumsum([0, *counts]), counts, strict=False)):
        words_CW[label, :count] = np.arange(begin, begin + count)
    return WordPlan(
        fillers=tuple(fillers),
        places_P2=np.asarray(list(outputs), dtype=np.int64),
        tokens_K=np.asarray(list(tokens), dtype=np.int64),
        reads_R3=np.asarray(reads, dtype=np.int64),
        lengths_W=np.asarray([len(ids) for ids in ids_W], dtype=np.int64),
        words_CW=words_CW,
    )


def tokenize_template(
    tokenizer: Tokenizer,
    phrase: LabelPhrase,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    masked: bool,
    limit: int,
    room: int | None = None,
) -> list[Pieces]:
    """Fill a template with texts and tokenise it.

    Args:
        tokenizer: The model's, a fast one.
        phrase: The template.
        texts: B texts.
        pairs: B second texts, where the template has a place for them.
        masked: Whether what stands behind the label is read too.
        limit: Tokens that remain of a text, or of both texts together, at most.
        room: Tokens beside the label's place, at most; None where positions do not end.
    """
    # With a word in the label's place: beside a mask some tokenizers write blanks that no sentence has there.
    word = next(iter(phrase.words.values()))[0]
    filled = [
        phrase.fill(text, pair, word) for text, pair in zip(texts, pairs or (None,) * len(texts), strict=True)
    ]
    strings = [each.whole if masked else each.prompt for each in filled]
    found = []
    for each, tokens in zip(filled, _locate_tokens(tokenizer, strings), strict=True):
        begin, end = each.find_span(LABEL)
        first = next((i for i, t in enumerate(tokens) if t.inside), len(tokens))
        before = [i for i, t in enumerate(tokens) if (t.end <= begin if t.inside else i < first)]
        after = [i for i, t in enumerate(tokens) if (t.begin >= end if t.inside else i >= first)]
        used = before + after if masked else before
        spans = [each.find_span(name) for name in (TEXT, PAIR) if name in each.spans]
        own = [[i for i in used if tokens[i].is_in(*span)] for span in spans]
        most = limit if room is None else min(limit, room - len(used) + sum(map(len, own)))
        lost = _list_lost(own, max(0, most))
        found.append(
            Pieces(
                [tokens[i].id for i in before if i not in lost],
                [tokens[i].id for i in used[len(before) :] if i not in lost],
                bool(lost),
            )
        )
    return found


@dataclass(frozen=True)
class _Token:
    """A token and its place in the string; special tokens that the tokenizer adds are not inside."""

    id: int
    begin: int
    end: int
    inside: bool

    def is_in(self, begin: int, end: int) -> bool:
        """Return whether it is a part of these characters."""
        return self.inside and begin <= self.begin < self.end <= end


def _locate_tokens(tokenizer: Tokenizer, strings: Sequence[str]) -> Iterator[list[_Token]]:
    encoded = call_tokenizer(tokenizer, strings, return_offsets_mapping=True, verbose=False)
    places = cast("Sequence[Sequence[tuple[int, int]]]", encoded["offset_mapping"])
    for row, (ids, spans) in enumerate(zip(encoded["input_ids"], places, strict=True)):
        inside = encoded.sequence_ids(row)
        yield [
            _Token(int(i), begin, end, own is not None)
            for i, (begin, end), own in zip(ids, spans, inside, strict=True)
        ]


def _list_lost(own: Sequence[Sequence[int]], most: int) -> set[int]:
    """Return the tokens that are cut: of each text the last ones, of two texts those of the longer one first."""
    kept = [len(part) for part in own]
    while sum(kept) > most:
        longest = kept.index(max(kept))
        # At once down to the other text's length, or to what is left, because a text may be a book.
        other = max((count for i, count in enumerate(kept) if i != longest), default=0)
        kept[longest] -= min(sum(kept) - most, max(1, kept[longest] - other))
    return {i for part, count in zip(own, kept, strict=True) for i in part[count:]}


def _tokenize_words(
    tokenizer: Tokenizer, phrase: LabelPhrase, mask: int | None, who: str
) -> list[tuple[int, ...]]:
    """Return the ids of each word behind the template's own words.

    Raises:
        ConfigError: As `plan_words`.
    """
    words = [(label, word) for label, own in phrase.words.items() for word in own]
    filled = [phrase.fill(_EXAMPLE, _EXAMPLE, word) for _, word in words]
    strings = [each.whole[: each.spans[LABEL][1]] if mask is None else each.whole for each in filled]
    found: list[tuple[int, ...]] = []
    for (label, word), each, tokens in zip(words, filled, _locate_tokens(tokenizer, strings), strict=True):
        begin, end = each.find_span(LABEL)
        inside = [t for t in tokens if t.inside and t.end > begin and t.begin < end]
        joined = [t for t in inside if t.begin < begin or t.end > end]
        said = f"{who}: the word {word!r} of {label}"
        if joined:
            shown = each.whole[joined[0].begin : joined[0].end]
            raise ConfigError(
                f"{said} shares a token with what stands beside it",
                got=f"{shown!r} is one token of {each.whole!r}",
                wanted="a word whose tokens are its own",
                next_step="write a blank or a sign between {label} and its neighbour in the template",
            )
        ids, unknown = tuple(t.id for t in inside), getattr(tokenizer, "unk_token_id", None)
        if not ids or unknown in ids:
            raise ConfigError(
                f"{said} is unknown to the model's tokenizer",
                got=f"tokens {list(ids)}; {unknown} stands for what is unknown",
                wanted="a word of its vocabulary",
                next_step="choose another word",
            )
        for (other_label, other), known in zip(words, found, strict=False):
            short, long = sorted((known, ids), key=len)
            if long == short or (mask is None and long[: len(short)] == short):
                raise ConfigError(
                    f"{said} begins like {other!r} of {other_label}, and one of them ends there"
                    if long != short
                    else f"{said} is the same tokens as {other!r} of {other_label}",
                    got=f"tokens {list(known)} and {list(ids)}",
                    wanted="words of which none is the beginning of another: it would always be the likelier one",
                    next_step='end them alike in words ("not." and "not good."), or choose others',
                )
        found.append(ids)
    return found


def _list_fillers(ids_W: Sequence[tuple[int, ...]], mask: int | None) -> list[tuple[int, ...]]:
    """Return what stands in the label's place, a sequence each, so that each token of each word is read once."""
    if mask is not None:
        return list(
            dict.fromkeys(ids[:i] + (mask,) * (len(ids) - i) for ids in ids_W for i in range(len(ids)))
        )
    read = dict.fromkeys(ids[:-1] for ids in ids_W)
    return [one for one in read if not any(other != one and other[: len(one)] == one for other in read)]
