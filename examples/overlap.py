"""How much two texts share, as teachers of pairs and of ranking: no model, a rule in a few lines each."""

from __future__ import annotations

import re
from collections.abc import Sequence


def share_letters(texts: Sequence[str], pairs: Sequence[str]) -> list[float]:
    """Return for each pair the share of neighbouring characters that both sentences have (Dice), from 0 to 1."""
    return [compute_dice(split_letters(a), split_letters(b)) for a, b in zip(texts, pairs, strict=True)]


def share_words(texts: Sequence[str], pairs: Sequence[str]) -> list[float]:
    """Return for each pair the share of words that both sentences have (Dice); a Chinese character is a word."""
    return [compute_dice(split_words(a), split_words(b)) for a, b in zip(texts, pairs, strict=True)]


def rank_by_words(queries: Sequence[str], candidates: Sequence[str]) -> list[float]:
    """Return for each pair the share of the query's long words that the candidate has, times 10: scores are logits."""
    asked = [{word for word in split_words(query) if len(word) > 3} for query in queries]
    held = map(split_words, candidates)
    return [10.0 * len(q & c) / max(1, len(q)) for q, c in zip(asked, held, strict=True)]


def rank_by_letters(queries: Sequence[str], candidates: Sequence[str]) -> list[float]:
    """Return 10 times what `share_letters` gives for each pair."""
    return [10.0 * share for share in share_letters(queries, candidates)]


def split_letters(text: str) -> set[str]:
    """Return the pairs of neighbouring characters; of a single character the character."""
    text = text.casefold()
    return {text[i : i + 2] for i in range(max(1, len(text) - 1))}


def split_words(text: str) -> set[str]:
    """Return the words of a text."""
    return set(re.findall(r"[\u4e00-\u9fff]|\w+", text.casefold()))


def compute_dice(one: set[str], other: set[str]) -> float:
    """Return Dice's coefficient of two sets."""
    return 2.0 * len(one & other) / max(1, len(one) + len(other))
