"""Windows of a context: in which of them, and at which token, a word is read.

Decision record: a word is read where most of the context stands around it, and in one window for its begin and its end
where a window shows both. Only a word that is longer than the overlap of two windows is read in two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.tasks.base import starts_of
from raykd.text.tokens import Tokenizer, WordTokens
from raykd.text.words import shared, word_tokens


def places_of(
    tokens: WordTokens, spans: Sequence[NDArray[np.int32]], sequences_B1: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Where each word of each context is read.

    Args:
        spans: ``[W, 2]`` a row, words in characters of the context.
        sequences_B1: where each row's windows begin.

    Returns:
        Window (of its row) and token of each word's begin, ``[W, 2]``, and of its end; (-1, -1) where no window shows
        the word. And which words share one of the two tokens with another word, ``[W]``.
    """
    row_of, parts = tokens.row_of, tokens.parts
    window_spans = [spans[row] for row in row_of.tolist()]
    found = word_tokens(tokens.offsets, [part != tokens.second for part in parts], window_spans)
    counts_S = np.asarray([len(s) for s in window_spans], dtype=np.int64)
    window_X = np.repeat(np.arange(len(row_of)), counts_S)
    # How far the nearer end of the window's context is from a token.
    first_S = np.asarray([int(np.argmax(part == tokens.second)) for part in parts], dtype=np.int64)
    last_S = np.asarray(
        [len(part) - 1 - int(np.argmax(part[::-1] == tokens.second)) for part in parts], dtype=np.int64
    )

    def around(token_X: NDArray[np.int64]) -> NDArray[np.int64]:
        result: NDArray[np.int64] = np.minimum(token_X - first_S[window_X], last_S[window_X] - token_X)
        return result

    starts_B1 = starts_of(np.asarray([len(s) for s in spans], dtype=np.int64))
    word_X = np.arange(len(window_X)) - np.repeat(starts_of(counts_S)[:-1], counts_S)
    word_X += np.repeat(starts_B1[row_of], counts_S)
    own_X = window_X - np.repeat(sequences_B1[row_of], counts_S)
    most = max((len(part) for part in parts), default=0) + 1
    nearer_X = np.minimum(around(found.start_N), around(found.end_N))
    places = []
    for token_X, held_X in ((found.start_N, found.starts_N), (found.end_N, found.ends_N)):
        # Best a window that shows begin and end, then one that shows this side, then any that shows some of the word.
        rank_X = np.where(held_X, most, 0) + around(token_X)
        rank_X = np.where(found.starts_N & found.ends_N, 2 * most + nearer_X, rank_X)
        rank_X = np.where(token_X < 0, -1, rank_X)
        places.append(_best(rank_X, word_X, own_X, token_X, int(starts_B1[-1])))
    row_W = np.repeat(np.arange(len(spans)), np.diff(starts_B1))
    shared_W = np.zeros(len(row_W), dtype=bool)
    for places_W2 in places:
        shared_W |= shared(row_W, np.where(places_W2[:, 0] < 0, -1, places_W2[:, 0] * most + places_W2[:, 1]))
    return places[0], places[1], shared_W


def _best(
    rank_X: NDArray[np.int64],
    word_X: NDArray[np.int64],
    window_X: NDArray[np.int64],
    token_X: NDArray[np.int64],
    words: int,
) -> NDArray[np.int64]:
    """``[W, 2]``: window and token of the highest rank of each word."""
    places_W2 = np.full((words, 2), -1, dtype=np.int64)
    order = np.argsort(rank_X, kind="stable")
    order = order[rank_X[order] >= 0]  # the highest comes last and stays
    places_W2[word_X[order], 0] = window_X[order]
    places_W2[word_X[order], 1] = token_X[order]
    return places_W2


def null_tokens(tokenizer: Tokenizer, tokens: WordTokens) -> NDArray[np.int64]:
    """``[S]``: the token of each window where "no answer" is read: the classification token, or the one that begins a
    text, or the first, as `run_qa.py` chooses it."""
    found = np.zeros(len(tokens.row_of), dtype=np.int64)
    own: Any = tokenizer
    for name in ("bos_token_id", "cls_token_id"):  # the latter wins
        wanted = getattr(own, name, None)
        if wanted is not None:
            for i, ids_L in enumerate(tokens.fields["input_ids"]):
                places = np.flatnonzero(ids_L == wanted)
                found[i] = places[0] if len(places) else found[i]
    return found
