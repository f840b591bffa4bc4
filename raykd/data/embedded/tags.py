"""The embedded corpus of names: sentences with persons, places and organisations in zh, en and fr.

Decision record: most words of names occur in names of several types, so a list of words does not tell them apart and
the sentence does: no two templates agree but for the types of their names. Before noise the tags are therefore a
function of the sentence; noise gives a share of ``label_noise`` of the names another type, so that no system has an
entity F1 above one minus it on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

import numpy as np

from raykd.config import Embedded
from raykd.data.embedded.lexicon import pick
from raykd.data.embedded.world import KINDS, World, distinct, load_world, noise_of
from raykd.data.rows import Rows
from raykd.text.words import join_tokens

LABELS = ("O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BI"))
"""The tags of `generate`, in IOB2."""

_Sentence = tuple[list[str], list[tuple[int, int, str]]]
"""Tokens, and (begin, end, type) of each name in tokens."""


def generate(source: Embedded, languages: Sequence[str], labels: Sequence[str] = LABELS) -> Rows:
    """``rows_per_language`` sentences of each language, one language after the other; golds index ``labels``."""
    ids: list[str] = []
    texts: list[str] = []
    words: list[tuple[tuple[int, int], ...]] = []
    golds: list[tuple[int, ...]] = []
    codes: list[str] = []
    for language in languages:
        world = load_world(language)
        noise = noise_of(source, language, "tags")
        sentences = distinct(source, language, "tags", partial(_written, world))
        for at, (tokens, names) in enumerate(sentences):
            text, spans = join_tokens(tokens)
            ids.append(f"{language}-{source.split}-{at}")
            texts.append(text)
            words.append(spans)
            golds.append(_tags(len(tokens), names, labels, noise, source.label_noise))
        codes += [language] * len(sentences)
    zeros_B = np.zeros(len(ids), dtype=np.int64)
    rows = Rows(tuple(ids), tuple(texts), None, tuple(codes), zeros_B, tuple(words), tuple(golds))
    return rows.in_mode("split")


def _written(world: World, random: Random) -> tuple[str, _Sentence]:
    """A sentence, keyed by its text."""
    tokens: list[str] = []
    names: list[tuple[int, int, str]] = []
    for part in pick(random, world.tagged):
        slot = part[1:-1] if part.startswith("{") else None
        if slot in KINDS:
            name = world.name(slot, random)
            names.append((len(tokens), len(tokens) + len(name), slot))
            tokens += name
        else:
            tokens += [part] if slot is None else world.word(slot, random)
    tokens[0] = tokens[0][0].upper() + tokens[0][1:]
    return " ".join(tokens), (tokens, names)


def _tags(
    count: int, names: list[tuple[int, int, str]], labels: Sequence[str], noise: Random, share: float
) -> tuple[int, ...]:
    tags = ["O"] * count
    for begin, end, right in names:
        kind = right
        if noise.random() < share:
            kind = pick(noise, tuple(other for other in KINDS if other != right))
        tags[begin:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - begin - 1)
    return tuple(labels.index(tag) for tag in tags)
