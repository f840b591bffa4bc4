"""The embedded corpus: opinions about hotels, food, films, phones, books and courses in zh, en and fr.

Decision record: a default that needs no network has to show what distillation does, so the corpus is built to be
easy for a model that has seen much and hard for one that counts words. Opinion words have a long tail (few labelled
rows leave many unseen, unlabelled text shows them); negations turn them round, some from far away, some only in
appearance; contrast, concession and what other people say put words of the other polarity into the same text;
facts about umbrellas and railway stations are noise of varying length. The label before noise is a function of
the text (see `noiseless_label`), so that accuracy cannot exceed one minus `label_noise`, on any split.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, TypeVar

from tools.embedded_corpora.lexicon import (
    Domain,
    Lexicon,
    Opinion,
    Template,
    load_lexicon,
    pick,
    pick_early,
    pick_opinion,
)
from tools.embedded_corpora.noiseless_label import noiseless_label

T = TypeVar("T")

_FORMS = (("both", 0.83), ("flip", 0.13), ("distant", 0.02), ("double", 0.02))
_PLANS = (("plain", 0.86), ("but", 0.05), ("short", 0.04), ("although", 0.03), ("afterwards", 0.02))
_FACTS = ((0, 0.42), (1, 0.34), (2, 0.16), (3, 0.08))
_REPORTED = 0.06
_OPENER = 0.2


def write_review(language: str, random: Random) -> tuple[str, list[Any]] | None:
    """Draw a review.

    Returns:
        The text, and [text, label]; None where words have run together to something ambiguous.
    """
    text, label = _Writer(load_lexicon(language), random).write()
    try:
        return (text, [text, label]) if noiseless_label(text, language) == label else None
    except ValueError:
        return None


class _Writer:
    """Writes texts of one language from one generator of random numbers."""

    def __init__(self, lexicon: Lexicon, random: Random) -> None:
        self.lexicon, self.random = lexicon, random

    def write(self) -> tuple[str, int]:
        """A text and the label it is meant to have."""
        random = self.random
        domain = pick(random, self.lexicon.domains)
        label = int(random.random() < 0.5)
        sentences = [self._verdict(domain, label)]
        if random.random() < _REPORTED:
            told = self._reported(domain, int(random.random() < 0.5))
            sentences.insert(int(random.random() * 2), told)
        for _ in range(self._weighted(_FACTS)):
            # Half of the facts come from another domain.
            other = domain if random.random() < 0.5 else pick(random, self.lexicon.domains)
            fact = self._filled(pick(random, other.facts))
            sentences.insert(int(random.random() * (len(sentences) + 1)), fact)
        lexicon = self.lexicon
        return lexicon.gap.join(s[0].upper() + s[1:] + lexicon.stop for s in sentences), label

    def _verdict(self, domain: Domain, label: int) -> str:
        """The sentence (or two) that decides."""
        lexicon, random = self.lexicon, self.random
        comma = lexicon.comma + lexicon.gap
        plan = self._weighted(_PLANS)
        aspect = pick(random, domain.aspects)
        verdict = self._clause(domain, label, aspect)
        if plan == "plain":
            if random.random() >= _OPENER:
                return verdict
            number = pick(random, lexicon.words["number"])
            return f"{pick(random, lexicon.words['openers']).replace('{number}', number)}{comma}{verdict}"
        if plan == "short":
            after = self._predicate(domain, label, aspect)
            turn = pick(random, lexicon.but[:2])
            return f"{self._clause(domain, 1 - label, aspect)}{comma}{turn}{lexicon.gap}{after}"
        beside = pick(random, tuple(a for a in domain.aspects if a != aspect))
        other = self._clause(domain, 1 - label, beside)
        if plan == "but":
            stop = lexicon.stop + lexicon.gap if random.random() < 0.3 else comma
            turn = pick(random, lexicon.but)
            turn = turn[0].upper() + turn[1:] if stop[0] == lexicon.stop else turn
            return f"{other}{stop}{turn}{lexicon.gap}{verdict}"
        concession = f"{pick(random, lexicon.although)}{lexicon.gap}{other}"
        return f"{concession}{comma}{verdict}" if plan == "although" else f"{verdict}{comma}{concession}"

    def _clause(self, domain: Domain, label: int, aspect: str, plain: bool = False) -> str:
        """A clause that says ``label`` about the aspect, perhaps by negating the opposite."""
        form = self._weighted(_FORMS)
        if plain:
            form = "plain_flip" if form == "flip" else "plain_both"
        said = 1 - label if form in ("flip", "distant", "plain_flip") else label
        opinion = pick_opinion(self.random, domain, said)
        template = pick_early(self.random, self.lexicon.templates[form])
        while opinion.noun and not template.for_nouns:
            template = pick_early(self.random, self.lexicon.templates[form])
        predicate, intensifier = self._worded(opinion, aspect)
        return self._filled(template, a=aspect, p=predicate, i=intensifier)

    def _worded(self, opinion: Opinion, aspect: str) -> tuple[str, str]:
        """The opinion in the aspect's gender, and an intensifier that goes with it."""
        random, lexicon = self.random, self.lexicon
        intensifier = (
            lexicon.noun_intensifier if opinion.noun else pick(random, lexicon.words["intensifiers"])
        )
        return opinion.forms[aspect.startswith("la ")], intensifier

    def _predicate(self, domain: Domain, label: int, aspect: str) -> str:
        """An opinion without a subject, for "... but wonderful"."""
        predicate, intensifier = self._worded(pick_opinion(self.random, domain, label), aspect)
        return f"{intensifier}{self.lexicon.gap}{predicate}"

    def _reported(self, domain: Domain, label: int) -> str:
        clause = self._clause(domain, label, pick(self.random, domain.aspects), plain=True)
        return self._filled(pick(self.random, self.lexicon.templates["reported"]), c=clause)

    def _filled(self, template: Template, **given: str) -> str:
        """The template with its slots filled, those that are not given from the lists of words."""
        parts = list(template.parts)
        for at in range(1, len(parts), 2):
            name = parts[at]
            parts[at] = given[name] if name in given else pick(self.random, self.lexicon.words[name])
        return "".join(parts)

    def _weighted(self, choices: Sequence[tuple[T, float]]) -> T:
        """A value, as often as its share says; shares sum to one."""
        at = self.random.random()
        for value, share in choices:
            at -= share
            if at < 0.0:
                return value
        return choices[-1][0]
