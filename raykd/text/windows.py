"""Find in which windows of a context, and at which tokens, a word is read.

Decision record: a word is read in every window that shows it, because `run_qa.py` takes the best span of any window,
whatever stands around it. Only where no window holds the first (or last) character of a word in a token is it read at
the token next to that, in the window that shows most of the context around it. The other tokens of the context
(inside a word, blanks) are no choices, but a plain recipe takes them for some, so their mass is kept: a student that
never learnt that no answer begins inside a word would score less there than here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd.text.ragged import compute_starts, count_each
from raykd.text.tokens import Tokenizer
from raykd.text.word_tokens import LocatedTokens
from raykd.text.words import find_shared_tokens, find_word_tokens


@dataclass(frozen=True)
class WordReads:
    """Where the words of all rows' contexts are read. Made by `find_word_reads`.

    Attributes:
        reads_R4: Window (of its row), token, side (0 begin, 1 end) and word (of its row), row after row.
        starts_B1: Where each row's reads begin, and where the last row's end.
        rests_R3: Window, token and side of the context's tokens at which no word is read.
        rest_starts_B1: Where each row's rests begin, and where the last row's end.
        seen_W: Whether each word is read anywhere.
        shared_W: Whether it shares a token with the word beside it.
    """

    reads_R4: NDArray[np.int64]
    starts_B1: NDArray[np.int64]
    rests_R3: NDArray[np.int64]
    rest_starts_B1: NDArray[np.int64]
    seen_W: NDArray[np.bool_]
    shared_W: NDArray[np.bool_]


def find_word_reads(
    tokens: LocatedTokens, spans: Sequence[NDArray[np.int32]], sequences_B1: NDArray[np.int64]
) -> WordReads:
    """Return where each word of each context is read.

    Args:
        tokens: Questions and the windows of their contexts.
        spans: ``[W, 2]`` per row, words in characters of the context.
        sequences_B1: Where each row's windows begin.
    """
    row_of, inside_S = tokens.row_of, [part == tokens.second for part in tokens.parts]
    window_spans = [spans[row] for row in row_of.tolist()]
    found = find_word_tokens(tokens.offsets, [~inside for inside in inside_S], window_spans)
    counts_S = count_each(window_spans)
    window_X = np.repeat(np.arange(len(row_of)), counts_S)
    # How far the nearer end of the window's context is from a token.
    first_S = np.asarray([int(np.argmax(inside)) for inside in inside_S], dtype=np.int64)
    last_S = np.asarray(
        [len(inside) - 1 - int(np.argmax(inside[::-1])) for inside in inside_S], dtype=np.int64
    )
    starts_B1 = compute_starts(count_each(spans))
    inside_X = np.arange(len(window_X)) - np.repeat(compute_starts(counts_S)[:-1], counts_S)
    word_X = inside_X + starts_B1[row_of[window_X]]
    seen_W, shared_W = np.zeros(int(starts_B1[-1]), dtype=bool), np.zeros(int(starts_B1[-1]), dtype=bool)
    reads, rests = [], []
    context_T2 = np.asarray([(s, t) for s, inside in enumerate(inside_S) for t in np.flatnonzero(inside)])
    context_T2 = context_T2.reshape(-1, 2).astype(np.int64)
    width = max((len(inside) for inside in inside_S), default=0) + 1
    for side, (token_X, held_X) in enumerate(((found.start_N, found.starts_N), (found.end_N, found.ends_N))):
        around_X = np.minimum(token_X - first_S[window_X], last_S[window_X] - token_X)
        read_X = held_X | _choose_best_windows(word_X, held_X, np.where(token_X < 0, -1, around_X))
        seen_W[word_X[read_X]] = True
        shared_W[word_X[find_shared_tokens(window_X, np.where(read_X, token_X, -1))]] = True
        side_X = np.full_like(token_X, side)
        reads.append(np.stack([window_X, token_X, side_X, inside_X], axis=1)[read_X])
        is_read_T = np.isin(context_T2 @ [width, 1], window_X[read_X] * width + token_X[read_X])
        rest_T2 = context_T2[~is_read_T]
        rests.append(np.concatenate([rest_T2, np.full_like(rest_T2[:, :1], side)], axis=1))
    return WordReads(
        *_sort_by_row(np.concatenate(reads), row_of, sequences_B1),
        *_sort_by_row(np.concatenate(rests), row_of, sequences_B1),
        seen_W,
        shared_W,
    )


def _sort_by_row(
    reads_RK: NDArray[np.int64], row_of: NDArray[np.int64], sequences_B1: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the reads row after row, windows counted from the row's first, and where each row's begin."""
    row_R = row_of[reads_RK[:, 0]]
    order = np.argsort(row_R, kind="stable")
    reads_RK, row_R = reads_RK[order], row_R[order]
    reads_RK[:, 0] -= sequences_B1[row_R]
    return reads_RK, compute_starts(np.bincount(row_R, minlength=len(sequences_B1) - 1))


def _choose_best_windows(
    word_X: NDArray[np.int64], held_X: NDArray[np.bool_], around_X: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return for the words that no window holds exactly which window shows most around them."""
    held_W = np.zeros(int(word_X.max(initial=-1)) + 1, dtype=bool)
    held_W[word_X[held_X]] = True
    order = np.argsort(around_X, kind="stable")
    order = order[(around_X[order] >= 0) & ~held_W[word_X[order]]]
    best_W = np.full(len(held_W), -1, dtype=np.int64)
    best_W[word_X[order]] = order  # the highest comes last and stays
    chosen_X = np.zeros(len(word_X), dtype=bool)
    chosen_X[best_W[best_W >= 0]] = True
    return chosen_X


def find_null_tokens(tokenizer: Tokenizer, tokens: LocatedTokens) -> NDArray[np.int64]:
    """Return ``[S]``: the token of each window where "no answer" is read, as `run_qa.py` chooses it.

    It is the classification token, else the token that begins a text, else the first.
    """
    found = np.zeros(len(tokens.row_of), dtype=np.int64)
    own: object = tokenizer
    for name in ("bos_token_id", "cls_token_id"):  # the latter wins
        wanted = getattr(own, name, None)
        if wanted is not None:
            for i, ids_L in enumerate(tokens.fields["input_ids"]):
                places = np.flatnonzero(ids_L == wanted)
                found[i] = places[0] if len(places) else found[i]
    return found
