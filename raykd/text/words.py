"""Words as places in a text, and which token of any tokenizer stands for each of them.

Decision record: a word is a pair of character (code point) offsets into the raw text, never an index of one tokenizer,
so models whose tokenizers differ answer for the same words. The first sub-word of a word is the token that holds the
word's first character: one rule for spaced and unspaced scripts, for byte-level tokens that take the blank before a
word with them, and for characters cut into several tokens. Rows are ragged; all rows are looked up at once by giving
each row its own stretch of the number line.

Words are what BERT's pre-tokenizer calls words, with marks kept where they belong: one character of a script that
sets no blanks (Han, Kana, Thai, Lao, Khmer, Burmese), one run of letters and digits of any other script, one other
sign. Sequences of marks and invisible signs (joiners, soft hyphens) belong to what stands before them.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def word_spans(text: str) -> NDArray[np.int32]:
    """``[W, 2]`` begin and end of each word of a text, in characters, in order, without overlap."""
    spans = [match.span() for match in _WORD.finditer(text)]
    return np.asarray(spans, dtype=np.int32).reshape(-1, 2)


def words(text: str, *, signs: bool = True) -> list[str]:
    """The words of a text as strings; without ``signs`` only those that hold a letter or a digit."""
    found: list[str] = _WORD.findall(text)
    return found if signs else [word for word in found if _LEXICAL.match(word)]


def is_unspaced(character: str) -> bool:
    """Whether a character is of a script that sets no blanks between words."""
    return bool(_UNSPACED.match(character))


def join_tokens(tokens: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of a row that comes as tokens, and where each token stands in it.

    A blank is set between two tokens unless one of the two characters that meet is of an unspaced script. Blanks
    around a token do not belong to its span.

    Raises:
        DataError: a token is empty or blank.
    """
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for i, token in enumerate(tokens):
        bare = token.strip()
        if not bare:
            raise DataError(
                f"token {i} of {len(tokens)} is empty", got=repr(token), wanted="a token with a sign"
            )
        if parts and not (is_unspaced(parts[-1][-1]) or is_unspaced(bare[0])):
            parts.append(" ")
            at += 1
        parts.append(bare)
        spans.append((at, at + len(bare)))
        at += len(bare)
    return "".join(parts), tuple(spans)


def first_tokens(
    offsets: Sequence[NDArray[np.integer]],
    ignored: Sequence[NDArray[np.bool_] | NDArray[np.integer]],
    spans: Sequence[NDArray[np.integer]],
) -> NDArray[np.int64]:
    """For each word of all rows, in order, the index in its row of the token that holds its first character.

    Args:
        offsets: ``[L, 2]`` a row, begin and end of each token in characters of the text that the words are of.
        ignored: ``[L]`` a row, true for tokens that are not of that text: special ones, those of another text, padding.
        spans: ``[W, 2]`` a row.

    Returns:
        ``[N]`` with N all words of all rows; -1 where no token holds the character: truncated, or dropped by the
        tokenizer.

    Raises:
        ValueError: not as many rows of one as of the other.
    """
    if not len(offsets) == len(ignored) == len(spans):
        raise ValueError(f"{len(offsets)} rows of tokens, {len(ignored)} of masks, {len(spans)} of words")
    tokens_T2, tokens_B = _flat(offsets)
    words_N2, words_B = _flat(spans)
    usable_T = (tokens_T2[:, 1] > tokens_T2[:, 0]) & ~_masks(ignored)
    (kept_T,) = np.nonzero(usable_T)
    if len(words_N2) == 0 or len(kept_T) == 0:
        return np.full(len(words_N2), -1, dtype=np.int64)
    stride = int(max(tokens_T2.max(), words_N2.max())) + 2
    row_T = np.repeat(np.arange(len(offsets)), tokens_B)[kept_T]
    row_N = np.repeat(np.arange(len(spans)), words_B)
    # The first token whose end lies behind the character; the running maximum keeps the keys in order even where
    # a normaliser swapped two characters.
    ends_T = np.maximum.accumulate(tokens_T2[kept_T, 1] + row_T * stride)
    found_N = np.searchsorted(ends_T, words_N2[:, 0] + row_N * stride, side="right")
    safe_N = np.minimum(found_N, len(kept_T) - 1)
    holds_N = (found_N < len(kept_T)) & (row_T[safe_N] == row_N)
    holds_N &= tokens_T2[kept_T[safe_N], 0] <= words_N2[:, 0]
    first_T = np.cumsum(tokens_B) - tokens_B
    return np.where(holds_N, kept_T[safe_N] - first_T[row_N], -1)


def _flat(rows: Sequence[NDArray[np.integer]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of all rows, ``[T, 2]``, and how many each row has."""
    counts_B = np.asarray([len(row) for row in rows], dtype=np.int64)
    parts = [np.asarray(row).reshape(-1, 2) for row in rows]
    flat = np.concatenate(parts).astype(np.int64) if parts else np.zeros((0, 2), dtype=np.int64)
    return flat, counts_B


def _masks(ignored: Sequence[NDArray[np.bool_] | NDArray[np.integer]]) -> NDArray[np.bool_]:
    return (
        np.concatenate([np.asarray(row, dtype=bool) for row in ignored])
        if ignored
        else np.zeros(0, dtype=bool)
    )
