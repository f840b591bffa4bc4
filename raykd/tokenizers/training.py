"""Choose characters and repeat words, so that trainers of the package `tokenizers` learn the same in every process.

Decision record: each worker may learn the tokenizer by itself, and a vocabulary is part of a model's identity. But the
trainers number characters in the order of a randomly seeded hash map and break ties by these numbers. So raykd counts
the words, chooses the characters, and gives them to the trainer in sorted order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

_LONGEST = 1000
"""Most copies of a word in one text for the trainer; a text per copy would be slow."""


def choose_characters(words: Mapping[str, int], cut: Callable[[str], list[str]], room: int) -> list[str]:
    """Choose the most frequent characters.

    Args:
        words: How often each word occurs.
        cut: Cuts a word into the pieces that stand for its characters.
        room: How many to choose.

    Returns:
        Their pieces, sorted.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        counts.update({piece: count * n for piece, n in Counter(cut(word)).items()})
    return sorted(sorted(counts, key=lambda piece: (-counts[piece], piece))[:room])


def repeat_words(
    words: Mapping[str, int], cut: Callable[[str], list[str]], characters: list[str], separator: str
) -> Iterator[str]:
    """Yield texts that hold each word as often as it was counted.

    Args:
        words: How often each word occurs. Words with a character that was not chosen are left out.
        cut: As in `choose_characters`.
        characters: The chosen ones.
        separator: Stands between two words.
    """
    known = set(characters)
    for word in sorted(words):
        if known.issuperset(cut(word)):
            for done in range(0, words[word], _LONGEST):
                yield separator.join([word] * min(words[word] - done, _LONGEST))
