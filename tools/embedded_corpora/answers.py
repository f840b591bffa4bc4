"""The embedded corpus of questions: a few facts about a few people, and a question whose answer stands among them.

Decision record: the asked relation is told of several persons and the asked person has several relations, so neither
the person nor the kind of answer finds the answer alone; statement and question are drawn from several wordings. The
answer stands once in its context. A row holds what is told of the other persons too: a reader that makes a share of the
gold wrong takes one of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from tools.embedded_corpora.lexicon import pick
from tools.embedded_corpora.world import Fact, World, load_world

T = TypeVar("T")

PERSONS = 3
"""Persons of a context; of each the asked relation is told, of the asked one also others."""
_MORE = 2
"""Further relations of the asked person."""


@dataclass(frozen=True)
class Story:
    """A question about a context. values: what the asked relation tells of each person, the asked one's first.

    reply: the answer as a sentence.
    """

    context: str
    question: str
    values: tuple[str, ...]
    reply: str


def write_question(language: str, random: Random) -> tuple[str, list[Any]] | None:
    """Draw a question.

    Returns:
        Its context, by which splits are told apart, and [question, context, values]: what the asked relation tells of
        each person, the right answer first. None where two names or values of the draw coincide.
    """
    drawn = keyed(language, random)
    if drawn is None:
        return None
    context, story = drawn
    return context, [story.question, context, list(story.values)]


def keyed(
    language: str, random: Random, persons: int = PERSONS, more: int = _MORE
) -> tuple[str, Story] | None:
    """A story and its context, by which splits are told apart."""
    story = told(load_world(language), random, persons, more)
    return None if story is None else (story.context, story)


def told(world: World, random: Random, persons: int, more: int) -> Story | None:
    """A story; None where two names or values of the draw coincide."""
    people = [world.phrase("PER", random) for _ in range(persons)]
    asked: Fact = pick(random, world.facts)
    values = tuple(world.phrase(asked.value, random) for _ in people)
    said = [_said(pick(random, asked.say), who, what) for who, what in zip(people, values, strict=True)]
    rest = _shuffled([fact for fact in world.facts if fact is not asked], random)[:more]
    said += [_said(pick(random, fact.say), people[0], world.phrase(fact.value, random)) for fact in rest]
    context = world.gap.join(world.sentence(line) for line in _shuffled(said, random))
    if len(set(people)) < persons or any(context.count(value) != 1 for value in values):
        return None
    question = _said(pick(random, asked.ask), people[0], "")
    return Story(context, question, values, world.sentence(_said(asked.say[0], people[0], values[0])))


def _said(template: str, who: str, what: str) -> str:
    return template.replace("{s}", who).replace("{o}", what)


def _shuffled(lines: Sequence[T], random: Random) -> list[T]:
    """The lines in a random order that is the same in every Python."""
    return [lines[i] for _, i in sorted((random.random(), i) for i in range(len(lines)))]
