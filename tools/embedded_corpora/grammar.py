"""The grammar of the toy translation: one meaning, spoken in en, fr and zh.

Decision record: a sentence is a meaning (which words, in which roles) and three functions say it, so a translation is
right by construction and the same meaning serves every direction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from random import Random

from tools.embedded_corpora.lexicon import pick
from tools.embedded_corpora.world import read_yaml

Word = tuple[str, str, str]
"""A phrase in en, fr and zh, with the marks of `worlds/phrases.yaml`."""

_SECOND = 0.35
"""Share of sentences of two clauses."""
_VOWELS = "aeiouéèêâîh"


@dataclass(frozen=True)
class Clause:
    """Somebody did something to some things somewhere. An adjective of None is not said."""

    person: Word
    person_adjective: Word | None
    verb: Word
    count: Word
    thing: Word
    thing_adjective: Word | None
    place: Word | None


@dataclass(frozen=True)
class Said:
    """A sentence: perhaps a time, one clause, perhaps a link and a second clause."""

    time: Word | None
    first: Clause
    link: Word | None = None
    second: Clause | None = None


@cache
def _lists() -> dict[str, tuple[Word, ...]]:
    return {name: tuple(_word(line) for line in lines) for name, lines in read_yaml("phrases").items()}


def _word(line: str) -> Word:
    en, fr, zh = line.split("|")
    return en.rstrip() if en.startswith((",", " ")) else en.strip(), fr.strip(), zh.strip()


def clauses(random: Random) -> Said:
    """A random meaning."""
    lists = _lists()

    def perhaps(name: str, share: float) -> Word | None:
        found: Word | None = pick(random, lists[name]) if random.random() < share else None
        return found

    def clause() -> Clause:
        return Clause(
            pick(random, lists["people"]),
            perhaps("person_adjectives", 0.5),
            pick(random, lists["verbs"]),
            pick(random, lists["counts"]),
            pick(random, lists["objects"]),
            perhaps("object_adjectives", 0.7),
            perhaps("places", 0.6),
        )

    time, first = perhaps("times", 0.5), clause()
    if random.random() >= _SECOND:
        return Said(time, first)
    return Said(time, first, pick(random, lists["links"]), clause())


def with_another_object(said: Said, random: Random) -> Said:
    """The same meaning about another thing."""
    others = tuple(thing for thing in _lists()["objects"] if thing != said.first.thing)
    return replace(said, first=replace(said.first, thing=pick(random, others)))


def spoken(said: Said, language: str) -> str:
    """The sentence in en, fr or zh."""
    at = ("en", "fr", "zh").index(language)
    clause_of = (_en, _fr, _zh)[at]
    text = clause_of(said.first)
    if said.link is not None and said.second is not None:
        text += _linked(said.link[at], clause_of(said.second), language)
    if said.time is not None:
        text = said.time[at] + {"en": ", ", "fr": ", ", "zh": ""}[language] + text
    return text[0].upper() + text[1:] + ("。" if language == "zh" else ".")


def _linked(link: str, clause: str, language: str) -> str:
    if language == "zh":
        return link + clause
    mark = "" if link.startswith(",") else " "
    return f"{mark}{link.strip()} {clause}"


def _en(clause: Clause) -> str:
    one = clause.count[0] == "a"
    things = clause.thing[0] if one else f"{clause.thing[0]}s"
    described = things if clause.thing_adjective is None else f"{clause.thing_adjective[0]} {things}"
    count = "an" if one and described[0] in "aeiou" else clause.count[0]
    who = (
        clause.person[0]
        if clause.person_adjective is None
        else f"{clause.person_adjective[0]} {clause.person[0]}"
    )
    return _spaced("the", who, clause.verb[0], count, described, clause.place and clause.place[0])


def _fr(clause: Clause) -> str:
    person, gender = clause.person[1].split()
    who = _noun_phrase(person, gender, clause.person_adjective, plural=False)
    subject = f"l'{who}" if who[0] in _VOWELS else f"{'le' if gender == 'm' else 'la'} {who}"
    thing, thing_gender, *irregular = clause.thing[1].split()
    plural = clause.count[0] != "a"
    if plural and not thing.endswith(("s", "x")):
        thing += "x" if irregular else "s"
    what = _noun_phrase(thing, thing_gender, clause.thing_adjective, plural=plural)
    return _spaced(
        subject,
        clause.verb[1],
        _gendered(clause.count[1], thing_gender),
        what,
        clause.place and clause.place[1],
    )


def _noun_phrase(noun: str, gender: str, adjective: Word | None, *, plural: bool) -> str:
    """The noun with its adjective before or after it."""
    if adjective is None:
        return noun
    form = _gendered(adjective[1].removeprefix("<"), gender)
    if plural and not form.endswith(("s", "x")):
        form += "s"
    return f"{form} {noun}" if adjective[1].startswith("<") else f"{noun} {form}"


def _gendered(forms: str, gender: str) -> str:
    masculine, feminine = forms.split("/")
    return masculine if gender == "m" else feminine


def _zh(clause: Clause) -> str:
    thing, measure = clause.thing[2].split("/")
    parts = (
        clause.person_adjective and clause.person_adjective[2],
        clause.person[2],
        clause.place and clause.place[2],
        clause.verb[2],
        clause.count[2] + measure,
        clause.thing_adjective and clause.thing_adjective[2],
        thing,
    )
    return "".join(part for part in parts if part)


def _spaced(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)
