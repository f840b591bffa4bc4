"""A floor for question answering that needs no training: the sentence that shares most words with the question."""

from __future__ import annotations

import re

from raykd.text.words import split_words

_SENTENCE = re.compile(r"[^.!?。！？\n]*(?:[.!?](?!\s|$)[^.!?。！？\n]*)*[.!?。！？\n]*")


def overlap_sentence(question: str, context: str) -> str:
    """Return the sentence of the context that shares most different words with the question: a floor without training.

    The first of several; words are those of `raykd.text.words`, so it works for Chinese too.
    """
    asked = set(split_words(question.lower(), signs=False))
    sentences = [found.group().strip() for found in _SENTENCE.finditer(context)]
    return max(
        (sentence for sentence in sentences if sentence),
        key=lambda sentence: len(asked & set(split_words(sentence.lower(), signs=False))),
        default="",
    )
