"""The embedded corpora of texts to be written: a toy translation, and a dialogue to go on with.

Decision record: the translation is a grammar with one right target a source: genders agree, adjectives change their
place, Chinese puts place before verb and counts with measure words, so that a student has to learn more than a word
list, and a perfect system reaches a chrF of 100 but for noise. A row's language is that of its target: fr and zh are
translated from en, en from fr. The dialogue's prompt tells two facts and asks for one; the reply says it in a full
sentence. Noise makes a share of ``label_noise`` of the targets speak of another thing (another person's value).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from raykd.config import Embedded
from raykd.data.embedded import answers as corpus_answers
from raykd.data.embedded.grammar import clauses, spoken, with_another_object
from raykd.data.embedded.lexicon import pick
from raykd.data.embedded.world import distinct, noise_of
from raykd.data.rows import Rows
from raykd.tasks.forms import RowForm

SOURCE_OF = {"fr": "en", "zh": "en", "en": "fr"}
"""The source language of each target language."""

_Drawn = tuple[str, str, str]
"""Prompt or source, its target, and a wrong target."""


def generate(source: Embedded, languages: Sequence[str], form: RowForm) -> Rows:
    """``rows_per_language`` pairs of each language: translations (source_target) or replies (target)."""
    write, what = (_translated, "translation") if form == "source_target" else (_replied, "dialogue")
    ids: list[str] = []
    pairs: list[tuple[str, str]] = []
    codes: list[str] = []
    for language in languages:
        noise = noise_of(source, language, what)
        for at, (given, target, wrong) in enumerate(
            distinct(source, language, what, _writer(write, language))
        ):
            ids.append(f"{language}-{source.split}-{at}")
            pairs.append((given, wrong if noise.random() < source.label_noise else target))
            codes.append(language)
    return Rows(
        tuple(ids),
        tuple(given for given, _ in pairs),
        tuple(target for _, target in pairs),
        tuple(codes),
        np.zeros(len(ids), dtype=np.int64),
    )


def _writer(
    write: Callable[[str, Random], _Drawn | None], language: str
) -> Callable[[Random], tuple[str, _Drawn] | None]:
    def keyed(random: Random) -> tuple[str, _Drawn] | None:
        drawn = write(language, random)
        return None if drawn is None else (drawn[0], drawn)

    return keyed


def _translated(language: str, random: Random) -> _Drawn:
    said = clauses(random)
    wrong = with_another_object(said, random)
    return spoken(said, SOURCE_OF[language]), spoken(said, language), spoken(wrong, language)


def _replied(language: str, random: Random) -> _Drawn | None:
    drawn = corpus_answers.keyed(language, random, persons=2, more=0)
    if drawn is None:
        return None
    story = drawn[1]
    gap = "" if language == "zh" else " "
    wrong = story.reply.replace(story.values[0], pick(random, story.values[1:]))
    return f"{story.context}{gap}{story.question}", story.reply, wrong
