"""Find words as places in a text, and the token of any tokenizer that stands for each word.

Decision record: a word is a pair of character (code point) offsets into the raw text, never an index of one tokenizer,
so models whose tokenizers differ answer for the same words. The first sub-word of a word is the token that holds the
word's first character: one rule for spaced and unspaced scripts, for byte-level tokens that take the blank before a
word with them, and for characters cut into several tokens. A word whose first character no token holds (a soft hyphen,
a mark of direction) is read at the first token inside it. Rows are ragged; all rows are looked up at once.

Words are what BERT's pre-tokenizer calls words, with marks kept where they belong: one character of a script that
sets no blanks (Han, Kana, Thai, Lao, Khmer, Burmese), one run of letters and digits of any other script, one other
sign. Sequences of marks and invisible signs (joiners, soft hyphens) belong to what stands before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import add

import numpy as np
import regex
from numpy.typing import NDArray

from raykd.errors import DataError

_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_BASE = rf"[[{_SCRIPTS}]&&[\p{{L}}\p{{Nl}}\p{{No}}]]"
_TAIL = r"[\p{M}\p{Cf}]"
_RUN = rf"[[\p{{L}}\p{{N}}]--[{_SCRIPTS}]||[[{_SCRIPTS}]&&\p{{Nd}}]]"
_WORD = regex.compile(rf"(?V1){_BASE}{_TAIL}*|{_RUN}(?:{_RUN}|{_TAIL})*|[^\s\p{{Z}}\p{{C}}]{_TAIL}*")
_UNSPACED = regex.compile(rf"(?V1)[[{_SCRIPTS}]--\p{{Nd}}]")
UNSPACED_LANGUAGES = frozenset({"zh", "yue", "ja", "th", "lo", "km", "my"})
"""Languages written without blanks between words."""
_LEXICAL = regex.compile(r"[\p{L}\p{N}]")


def find_word_spans(text: str) -> NDArray[np.int32]:
    """Return ``[W, 2]``: begin and end of each word of a text, in characters, in order, without overlap."""
    spans = [match.span() for match in _WORD.finditer(text)]
    return np.asarray(spans, dtype=np.int32).reshape(-1, 2)


def split_words(text: str, *, signs: bool = True) -> list[str]:
    """Return the words of a text as strings; without ``signs`` only those that hold a letter or a digit."""
    found: list[str] = _WORD.findall(text)
    return found if signs else [word for word in found if is_lexical(word)]


def is_lexical(word: str) -> bool:
    """Return whether a word begins with a letter or a digit, so is no sign."""
    return bool(_LEXICAL.match(word))


@lru_cache(maxsize=4096)
def is_unspaced(character: str) -> bool:
    """Return whether a character is of a script that sets no blanks between words."""
    return bool(_UNSPACED.match(character))


def join_tokens(tokens: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return the text of a row that comes as tokens, and where each token stands in it.

    A blank is set between two tokens unless one of the two characters that meet is of an unspaced script. Blanks
    around a token do not belong to its span.

    Raises:
        DataError: A token is empty or blank.
    """
    words = [token.strip() for token in tokens]
    if not all(words):
        i = words.index("")
        raise DataError(
            f"token {i} of {len(tokens)} is empty", got=repr(tokens[i]), wanted="a token with a sign"
        )
    joined = "".join(words)
    if not joined.isascii() and _UNSPACED.search(joined):
        meeting = pairwise(words)
        blanks = ["", *("" if is_unspaced(a[-1]) or is_unspaced(b[0]) else " " for a, b in meeting)]
    else:
        blanks = ["", *[" "] * (len(words) - 1)]
    spans, at = [], 0
    for word, blank in zip(words, blanks, strict=False):
        begin = at + len(blank)
        at = begin + len(word)
        spans.append((begin, at))
    return "".join(map(add, blanks, words)), tuple(spans)


@dataclass(frozen=True)
class WordTokens:
    """Where each word of all rows stands among its row's tokens. Made by `find_word_tokens`.

    Attributes:
        first_N: The first token that holds a part of the word; -1 where there is none (truncated, or dropped by the
            tokenizer).
        start_N: The token that holds the word's first character, the last of several, as `run_qa.py` finds it. Where
            no token holds that character, the next token inside the word; -1 where first_N is.
        end_N: The token that holds the word's last character, the first of several; likewise.
        starts_N: Whether a token holds the first character itself.
        ends_N: Whether a token holds the last character itself.
    """

    first_N: NDArray[np.int64]
    start_N: NDArray[np.int64]
    end_N: NDArray[np.int64]
    starts_N: NDArray[np.bool_]
    ends_N: NDArray[np.bool_]


def find_first_tokens(
    offsets: Sequence[NDArray[np.integer]],
    ignored: Sequence[NDArray[np.bool_] | NDArray[np.integer]],
    spans: Sequence[NDArray[np.integer]],
) -> NDArray[np.int64]:
    """Return ``[N]``: the first token of each word (`find_word_tokens`)."""
    return find_word_tokens(offsets, ignored, spans).first_N


def find_word_tokens(
    offsets: Sequence[NDArray[np.integer]],
    ignored: Sequence[NDArray[np.bool_] | NDArray[np.integer]],
    spans: Sequence[NDArray[np.integer]],
) -> WordTokens:
    """Return for each word of all rows, in order, where in its row its tokens are.

    Args:
        offsets: ``[L, 2]`` per row, begin and end of each token in characters of the words' text.
        ignored: ``[L]`` per row, true for tokens that are not of that text: special tokens, another text's, padding.
        spans: ``[W, 2]`` per row, begin and end of each word.

    Raises:
        ValueError: The arguments differ in their numbers of rows.
    """
    if not len(offsets) == len(ignored) == len(spans):
        raise ValueError(f"{len(offsets)} rows of tokens, {len(ignored)} of masks, {len(spans)} of words")
    tokens_T2, tokens_B = _flatten_pairs(offsets)
    words_N2, words_B = _flatten_pairs(spans)
    usable_T = (tokens_T2[:, 1] > tokens_T2[:, 0]) & ~_concat_masks(ignored)
    (kept_T,) = np.nonzero(usable_T)
    if len(words_N2) == 0 or len(kept_T) == 0:
        none_N, never_N = np.full(len(words_N2), -1, dtype=np.int64), np.zeros(len(words_N2), dtype=bool)
        return WordTokens(none_N, none_N, none_N, never_N, never_N)
    # Each row has its own stretch of the number line, so that all rows are searched at once.
    stride = int(max(tokens_T2.max(), words_N2.max())) + 2
    row_T = np.repeat(np.arange(len(offsets)), tokens_B)[kept_T]
    row_N = np.repeat(np.arange(len(spans)), words_B)
    # The running maximum keeps the keys in order even where a normaliser swapped two characters.
    begins_T = np.maximum.accumulate(tokens_T2[kept_T, 0] + row_T * stride)
    ends_T = np.maximum.accumulate(tokens_T2[kept_T, 1] + row_T * stride)
    begin_N, end_N = words_N2[:, 0] + row_N * stride, words_N2[:, 1] + row_N * stride
    most = len(kept_T) - 1
    first_N = np.searchsorted(ends_T, begin_N, side="right")  # the first that ends behind the first character
    seen_N = (first_N <= most) & (row_T[np.minimum(first_N, most)] == row_N)
    seen_N &= begins_T[np.minimum(first_N, most)] < end_N
    start_N = np.searchsorted(begins_T, begin_N, side="right") - 1  # the last that begins before or with it
    starts_N = seen_N & (start_N >= first_N)
    last_N = np.searchsorted(
        ends_T, end_N, side="left"
    )  # the first that ends with or behind the last character
    ends_N = seen_N & (last_N <= most) & (begins_T[np.minimum(last_N, most)] < end_N)
    ends_N &= row_T[np.minimum(last_N, most)] == row_N
    inside_N = np.searchsorted(begins_T, end_N, side="left") - 1  # the last that begins inside the word
    first_T = np.cumsum(tokens_B) - tokens_B

    def places(found_N: NDArray[np.integer]) -> NDArray[np.int64]:
        inside = kept_T[np.clip(found_N, 0, most)] - first_T[row_N]
        result: NDArray[np.int64] = np.where(seen_N, inside, -1).astype(np.int64)
        return result

    return WordTokens(
        places(first_N),
        places(np.where(starts_N, start_N, first_N)),
        places(np.where(ends_N, last_N, inside_N)),
        starts_N,
        ends_N,
    )


def find_shared_tokens(row_N: NDArray[np.integer], token_N: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return ``[N]``: whether a word is read at the same token as the word before or behind it.

    Args:
        row_N: The row of each word.
        token_N: Where in the row it is read; -1 for nowhere.
    """
    same_N = (row_N[1:] == row_N[:-1]) & (token_N[1:] == token_N[:-1]) & (token_N[1:] >= 0)
    found_N = np.zeros(len(row_N), dtype=bool)
    found_N[1:] |= same_N
    found_N[:-1] |= same_N
    return found_N


def _flatten_pairs(rows: Sequence[NDArray[np.integer]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs of all rows, ``[T, 2]``, and how many each row has."""
    counts_B = np.asarray([len(row) for row in rows], dtype=np.int64)
    parts = [np.asarray(row, dtype=np.int64).reshape(-1, 2) for row in rows]
    return np.concatenate([np.zeros((0, 2), dtype=np.int64), *parts]), counts_B


def _concat_masks(ignored: Sequence[NDArray[np.bool_] | NDArray[np.integer]]) -> NDArray[np.bool_]:
    return np.concatenate([np.zeros(0, dtype=bool), *(np.asarray(row, dtype=bool) for row in ignored)])
