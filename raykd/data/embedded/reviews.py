"""The embedded corpus: opinions about hotels, food, films, phones, books and courses in zh, en and fr.

Decision record: a default that needs no network has to show what distillation does, so the corpus is built to be
easy for a model that has seen much and hard for one that counts words. Opinion words have a long tail (few labelled
rows leave many unseen, unlabelled text shows them); negations turn them round, some from far away, some only in
appearance; contrast, concession and what other people say put words of the other polarity into the same text;
facts about umbrellas and railway stations are noise of varying length. The label before noise is a function of
the text (see `verdict`), so accuracy cannot exceed one minus `label_noise`, on any split.

Row i of a split is a function of (seed, language, split, i), whatever the number of rows. A text belongs to the
split its checksum names, whatever the seed: two splits never share a text, and no split holds one twice.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from random import Random
from typing import TypeVar

import numpy as np

from raykd.config import Embedded
from raykd.data.embedded.lexicon import (
    Domain,
    Lexicon,
    Opinion,
    Template,
    available,
    load_lexicon,
    pick,
    pick_early,
    pick_opinion,
)
from raykd.data.embedded.noiseless_label import noiseless_label
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.errors import DataError

T = TypeVar("T")

LABELS = ("negative", "positive")
"""Label 0 and label 1 of `generate`."""
SPLITS = ("train", "validation", "test", "unlabeled")
_TRIES = 200
"""Texts that are thrown away in a row before the language counts as exhausted."""

_FORMS = (("both", 0.83), ("flip", 0.13), ("distant", 0.02), ("double", 0.02))
_PLANS = (("plain", 0.86), ("but", 0.05), ("short", 0.04), ("although", 0.03), ("afterwards", 0.02))
_FACTS = ((0, 0.42), (1, 0.34), (2, 0.16), (3, 0.08))
_REPORTED = 0.06
_OPENER = 0.2


def generate(source: Embedded, languages: Sequence[str]) -> Rows:
    """``rows_per_language`` rows of each language, one language after the other; labels index `LABELS`.

    The split "unlabeled" has no labels; the others have those of `verdict.noiseless_label`, flipped in a share of
    ``label_noise``. Noise has a generator of its own: the texts do not depend on it.

    Raises:
        DataError: a language that the corpus is not written in.
    """
    unknown = sorted(set(languages) - set(available()))
    if unknown:
        raise DataError(
            "the embedded corpus is not written in every language of data.languages",
            got=f"{unknown}",
            wanted=f"some of {list(available())}",
            next_step="give data.languages only these, or read files",
        )
    ids: list[str] = []
    texts: list[str] = []
    codes: list[str] = []
    labels: list[int] = []
    for language in languages:
        new_texts, new_labels = _language_rows(source, language)
        ids += [f"{language}-{source.split}-{at}" for at in range(len(new_texts))]
        texts += new_texts
        codes += [language] * len(new_texts)
        labels += new_labels
    labels_B = np.asarray(labels, dtype=np.int64)
    if source.split == "unlabeled":
        labels_B = np.full_like(labels_B, UNLABELLED)
    return Rows(tuple(ids), tuple(texts), None, tuple(codes), labels_B)


def _language_rows(source: Embedded, language: str) -> tuple[list[str], list[int]]:
    key = f"{source.seed}/{language}/{source.split}"
    writer = _Writer(load_lexicon(language), Random(f"{key}/text"))
    noise = Random(f"{key}/noise")
    split = SPLITS.index(source.split)
    seen: dict[str, int] = {}
    tries = 0
    while len(seen) < source.rows_per_language:
        text, label = writer.write()
        mine = zlib.crc32(text.casefold().encode()) % len(SPLITS) == split
        tries += 1
        if mine and text not in seen and _says(text, language) == label:
            tries = 0
            seen[text] = label ^ (noise.random() < source.label_noise)
        if tries > _TRIES:
            raise DataError(
                f"the embedded corpus has no more new texts in {language!r}",
                got=f"rows_per_language {source.rows_per_language}",
                wanted=f"at most {len(seen)}",
            )
    return list(seen), list(seen.values())


def _says(text: str, language: str) -> int | None:
    """The label that a reader finds; None where words have run together to something ambiguous."""
    try:
        return noiseless_label(text, language)
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
