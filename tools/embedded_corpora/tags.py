"""The embedded corpus of names: sentences with persons, places and organisations in zh, en and fr.

Decision record: most words of names occur in names of several types, so a list of words does not tell them apart and
the sentence does: no two templates agree but for the types of their names. The tags are therefore a function of
the sentence.
"""

from __future__ import annotations

from random import Random
from typing import Any

from tools.embedded_corpora.lexicon import pick
from tools.embedded_corpora.world import KINDS, load_world


def write_names(language: str, random: Random) -> tuple[str, list[Any]]:
    """Draw a sentence with names.

    Returns:
        Its text, and [tokens, [[begin, end, type] of each name, in tokens]].
    """
    world = load_world(language)
    tokens: list[str] = []
    names: list[list[Any]] = []
    for part in pick(random, world.tagged):
        slot = part[1:-1] if part.startswith("{") else None
        if slot in KINDS:
            name = world.name(slot, random)
            names.append([len(tokens), len(tokens) + len(name), slot])
            tokens += name
        else:
            tokens += [part] if slot is None else world.word(slot, random)
    tokens[0] = tokens[0][0].upper() + tokens[0][1:]
    return " ".join(tokens), [tokens, names]
