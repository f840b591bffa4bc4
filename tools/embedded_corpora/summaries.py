"""The embedded corpus of documents with their summaries: what is told of the person that most of it is about.

Decision record: a document tells several facts about one person, and of two others one fact each that is also told of
the first; facts stand in any order and wording. The summary is one sentence with the facts of the first person alone,
in a fixed order and the first wording, so it is shorter than the document, has one right form, and a perfect system
reaches a ROUGE of 100. A system has to find whom the document is about, leave the others out and say facts again.
"""

from __future__ import annotations

from random import Random

from tools.embedded_corpora.lexicon import pick
from tools.embedded_corpora.world import World, load_world

FACTS = 3
"""Facts about the person of the summary."""
OTHERS = 2
"""Other persons, of each one fact."""
_AND = {"en": " and ", "fr": " et ", "zh": "，"}


def write_summary(language: str, random: Random) -> tuple[str, list[str]] | None:
    """Draw a document: its text as the key, and [document, summary, summary with a fact of another person].

    Returns:
        None where two names or values of the draw coincide.
    """
    world = load_world(language)
    people = [world.phrase("PER", random) for _ in range(1 + OTHERS)]
    chosen = sorted(sorted(range(len(world.facts)), key=lambda _: random.random())[:FACTS])
    values = {at: world.phrase(world.facts[at].value, random) for at in chosen}
    told = [(people[0], at, values[at]) for at in chosen]
    for person in people[1:]:
        at = pick(random, chosen)
        told.append((person, at, world.phrase(world.facts[at].value, random)))
    said = [
        pick(random, world.facts[at].say).replace("{s}", who).replace("{o}", what) for who, at, what in told
    ]
    document = world.gap.join(world.sentence(line) for line in sorted(said, key=lambda _: random.random()))
    if len(set(people)) < len(people) or any(document.count(what) != 1 for _, _, what in told):
        return None
    _, other, wrong = told[-1]
    summary = _summarize(world, language, people[0], values)
    return document, [document, summary, _summarize(world, language, people[0], {**values, other: wrong})]


def _summarize(world: World, language: str, who: str, values: dict[int, str]) -> str:
    """Return one sentence about a person: the facts in their order, each in its first wording."""
    parts = [
        world.facts[at].say[0].removeprefix("{s}").strip().replace("{o}", what) for at, what in values.items()
    ]
    listed = f"{world.comma}{world.gap}".join(parts[:-1]) + _AND[language] + parts[-1]
    return world.sentence(f"{who}{world.gap}{listed}")
