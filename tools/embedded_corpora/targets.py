"""The embedded corpora of texts to be written: a toy translation, and a dialogue to go on with.

Decision record: the translation is a grammar with one right target a source: genders agree, adjectives change their
place, Chinese puts place before verb and counts with measure words, so that a student has to learn more than a word
list, and a perfect system reaches a chrF of 100. A row's language is that of its target: fr and zh are
translated from en, en from fr. The dialogue's prompt tells two facts and asks for one; the reply says it in a full
sentence. The wrong target of a row speaks of another
thing (another person's value).
"""

from __future__ import annotations

from random import Random

from tools.embedded_corpora.answers import keyed
from tools.embedded_corpora.grammar import clauses, spoken, with_another_object
from tools.embedded_corpora.lexicon import pick

SOURCE_OF = {"fr": "en", "zh": "en", "en": "fr"}
"""The source language of each target language."""


def write_translation(language: str, random: Random) -> tuple[str, list[str]]:
    """Draw a translation into the language: the source as its key, and [source, target, wrong target]."""
    said = clauses(random)
    wrong = with_another_object(said, random)
    source = spoken(said, SOURCE_OF[language])
    return source, [source, spoken(said, language), spoken(wrong, language)]


def write_reply(language: str, random: Random) -> tuple[str, list[str]] | None:
    """Draw a dialogue: the prompt as its key, and [prompt, reply, wrong reply]; None where names coincide."""
    drawn = keyed(language, random, persons=2, more=0)
    if drawn is None:
        return None
    story = drawn[1]
    prompt = f"{story.context}{'' if language == 'zh' else ' '}{story.question}"
    wrong = story.reply.replace(story.values[0], pick(random, story.values[1:]))
    return prompt, [prompt, story.reply, wrong]
