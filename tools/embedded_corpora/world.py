"""`World`: names, sentences and facts of one language, and how distinct rows of a split are drawn from a writer.

Decision record: one set of names serves tagging, questions and dialogue, because what makes each of them hard is the
same: a name is put together of parts that also stand in names of other types (Bradford is a family, a town and a
club), so that only the sentence tells. Row i is a function of (language, split, i), and the
checksum of what a row is told from names the split it belongs to.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import yaml

from tools.embedded_corpora.lexicon import pick

SPLITS = ("train", "validation", "test", "unlabeled")
KINDS = ("PER", "LOC", "ORG")
_TRIES = 500
"""Rows that are thrown away one after the other before the language counts as exhausted."""

T = TypeVar("T")


@dataclass(frozen=True)
class Fact:
    """What may be said of a person. value: a kind of name or a list of words. say, ask: sentences with {s} and {o}."""

    value: str
    say: tuple[str, ...]
    ask: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """Written once a language from its YAML. names and tagged: templates as tokens."""

    gap: str
    stop: str
    comma: str
    words: dict[str, tuple[str, ...]]
    names: dict[str, tuple[tuple[str, ...], ...]]
    tagged: tuple[tuple[str, ...], ...]
    facts: tuple[Fact, ...]

    def name(self, kind: str, random: Random, *, whole: bool = False) -> list[str]:
        """Tokens of a name; ``whole`` takes the first pattern, of persons the full name."""
        pattern = self.names[kind][0] if whole else pick(random, self.names[kind])
        return [self._filled(token, random) for token in pattern]

    def word(self, slot: str, random: Random) -> list[str]:
        """Tokens of a word of a list."""
        found: str = pick(random, self.words[slot])
        return found.split()

    def phrase(self, value: str, random: Random) -> str:
        """A name or a word of a list as text."""
        if value not in KINDS:
            found: str = pick(random, self.words[value])
            return found
        return self.gap.join(self.name(value, random, whole=value == "PER")).replace(" - ", "-")

    def sentence(self, text: str) -> str:
        """The text with a capital and a full stop."""
        return text[0].upper() + text[1:] + self.stop

    def _filled(self, token: str, random: Random) -> str:
        for slot in ("first", "last", "base", "trade"):
            if f"{{{slot}}}" in token:
                token = token.replace(f"{{{slot}}}", pick(random, self.words[slot]))
        return token


@cache
def load_world(language: str) -> World:
    """The world of a language that `lexicon.available` lists."""
    tree = read_yaml(language)
    return World(
        gap=tree["gap"],
        stop=tree["stop"],
        comma=tree["comma"],
        words={name: tuple(w.strip() for w in text.split(",")) for name, text in tree["words"].items()},
        names={kind: tuple(tuple(t.split()) for t in tree["names"][kind]) for kind in KINDS},
        tagged=tuple(tuple(template.split()) for template in tree["tagged"]),
        facts=tuple(Fact(f["value"], tuple(f["say"]), tuple(f["ask"])) for f in tree["facts"]),
    )


def read_yaml(name: str) -> dict[str, Any]:
    """A file of the folder `worlds`."""
    file = Path(__file__).parent / "worlds" / f"{name}.yaml"
    tree: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return tree


def distinct(
    language: str, split: str, count: int, what: str, write: Callable[[str, Random], tuple[str, T] | None]
) -> list[T]:
    """Draw rows whose keys differ from each other and from those of every other split.

    Args:
        language: One that `lexicon.available` lists.
        split: One of `SPLITS`.
        count: Number of rows; the first rows do not depend on it.
        what: Names the corpus in the seed.
        write: Draws a row's key (what it is told from) and the row; None where the draw made no good one.

    Raises:
        ValueError: The language has no more of them.
    """
    random = Random(f"0/{language}/{split}/{what}")
    found: dict[str, T] = {}
    tries = 0
    while len(found) < count:
        tries += 1
        if tries > _TRIES:
            raise ValueError(f"{language!r} has no more new rows: got {len(found)}, wanted {count}")
        written = write(language, random)
        if written is None:
            continue
        key = written[0].casefold()
        if key not in found and zlib.crc32(key.encode()) % len(SPLITS) == SPLITS.index(split):
            found[key] = written[1]
            tries = 0
    return list(found.values())
