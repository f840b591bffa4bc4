"""How much two sentences share, as a teacher of pairs: no model, a rule in a few lines."""

from __future__ import annotations

from collections.abc import Sequence


def predict(texts: Sequence[str], pairs: Sequence[str]) -> list[float]:
    """Return for each pair the share of character pairs that both sentences have (Dice), from 0 to 1."""
    return [
        compute_overlap(first.casefold(), second.casefold())
        for first, second in zip(texts, pairs, strict=True)
    ]


def compute_overlap(first: str, second: str) -> float:
    """Return Dice's coefficient of the sets of neighbouring characters; of single characters where there are none."""
    one, other = ({text[i : i + 2] for i in range(max(1, len(text) - 1))} for text in (first, second))
    return 2.0 * len(one & other) / (len(one) + len(other))
