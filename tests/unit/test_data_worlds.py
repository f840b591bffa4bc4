"""The embedded corpora of names, questions, translations and dialogue: right by their own rules, disjoint, pinned."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raykd.config import DataConfig, Embedded
from raykd.data.embedded.rows import NAME_TAGS, read_corpus
from raykd.data.load import load_data
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED
from raykd.errors import DataError
from tools.embedded_corpora.__main__ import CORPORA, SIZES, TARGET, draw_lines
from tools.embedded_corpora.grammar import Clause, Said, spoken
from tools.embedded_corpora.world import KINDS, SPLITS, distinct, load_world, read_yaml

LANGUAGES = ("en", "fr", "zh")
FORMS = ("words", "answers", "target", "source_target")
NAMED = {"summaries": "source_target"}
"""Corpora that a source names, with the form of their rows."""
EVERY = (*FORMS, *NAMED)


@cache
def rows_of(form: Any, split: str = "train", count: int = 160, noise: float = 0.0, seed: int = 0) -> Rows:
    named = {"corpus": form} if form in NAMED else {}
    source = Embedded(split=split, rows_per_language=count, label_noise=noise, seed=seed, **named)  # type: ignore[arg-type]
    return read_corpus(source, LANGUAGES, NAMED.get(form, form))


def told(rows: Rows, form: str) -> list[str]:
    """What a row is told from: of questions the context, otherwise the text."""
    return list(rows.pairs or ()) if form == "answers" else list(rows.texts)


@pytest.mark.parametrize("form", EVERY)
def test_splits_share_no_text_and_rows_do_not_depend_on_their_number(form: str) -> None:
    texts = [
        t.casefold() for split in ("train", "validation", "test") for t in told(rows_of(form, split), form)
    ]
    assert len(set(texts)) == len(texts) == 3 * 3 * 160
    other = told(rows_of(form, "test", seed=1), form)
    assert not set(told(rows_of(form), form)) & set(other) and other != told(rows_of(form, "test"), form)
    short = rows_of(form, count=20)
    assert short.texts[:20] == rows_of(form).texts[:20] and short.texts[20:40] == rows_of(form).texts[160:180]


@pytest.mark.parametrize("form", EVERY)
def test_noise_makes_its_share_of_gold_wrong_and_changes_no_text(form: str) -> None:
    clean, noisy = rows_of(form), rows_of(form, noise=0.2)
    assert clean.texts == noisy.texts
    if form == "words":
        begins = [
            (a, b)
            for x, y in zip(clean.golds or (), noisy.golds or (), strict=True)
            for a, b in zip(x, y, strict=True)
            if NAME_TAGS[a].startswith("B-")
        ]
        wrong = np.mean([a != b for a, b in begins])
    elif form == "answers":
        wrong = np.mean([a != b for a, b in zip(clean.golds or (), noisy.golds or (), strict=True)])
    else:
        wrong = np.mean([a != b for a, b in zip(clean.pairs or (), noisy.pairs or (), strict=True)])
    # 480 coins of 0.2: one standard deviation is 0.018.
    assert wrong == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_sentence_tells_the_types_of_its_names(language: str) -> None:
    """The ceiling before noise is 1: templates that differ in nothing but the types of their names would break it."""
    bare = [
        tuple("@" if part[1:-1] in KINDS else part for part in template)
        for template in load_world(language).tagged
    ]
    assert len(set(bare)) == len(bare)


def test_names_are_ambiguous_without_their_sentence() -> None:
    rows = rows_of("words")
    kinds: dict[str, set[str]] = {}
    for text, spans, gold in zip(rows.texts, rows.words or (), rows.golds or (), strict=True):
        for (begin, end), tag in zip(spans, gold, strict=True):
            if tag:
                kinds.setdefault(text[begin:end], set()).add(NAME_TAGS[tag][2:])
    assert sum(len(found) > 1 for found in kinds.values()) >= 30


def test_answers_stand_once_in_their_context_among_others_of_their_kind() -> None:
    rows = rows_of("answers")
    for question, context, (begin, end) in zip(rows.texts, rows.pairs or (), rows.golds or (), strict=True):
        assert context.count(context[begin:end]) == 1 and context[begin:end] not in question


@pytest.mark.parametrize(
    ("count", "en", "fr", "zh"),
    [
        (
            "a",
            "The tired nurse saw an old hat",
            "L'infirmière fatiguée a vu un vieux chapeau",
            "疲惫的护士看见了一顶旧帽子",
        ),
        (
            "two",
            "The tired nurse saw two old hats",
            "L'infirmière fatiguée a vu deux vieux chapeaux",
            "疲惫的护士看见了两顶旧帽子",
        ),
    ],
)
def test_the_grammar_agrees(count: str, en: str, fr: str, zh: str) -> None:
    counts = {"a": ("a", "un/une", "一"), "two": ("two", "deux/deux", "两")}
    clause = Clause(
        ("nurse", "infirmière f", "护士"),
        ("tired", "fatigué/fatiguée", "疲惫的"),
        ("saw", "a vu", "看见了"),
        counts[count],
        ("hat", "chapeau m x", "帽子/顶"),
        ("old", "<vieux/vieille", "旧"),
        None,
    )
    said = Said(None, clause)
    assert [spoken(said, code) for code in LANGUAGES] == [f"{en}.", f"{fr}.", f"{zh}。"]


@pytest.mark.parametrize("at", [0, 1])
def test_no_two_words_of_a_list_are_the_same_in_a_source_language(at: int) -> None:
    """Otherwise one source would have two targets, and no system could know which."""
    for name, lines in read_yaml("phrases").items():
        column = [line.split("|")[at].strip() for line in lines]
        assert len(set(column)) == len(column), name


PINNED = {
    "words": "b0550c0f753a452b",
    "answers": "c21cae7c7d515148",
    "target": "7254e3c41f0920a5",
    "source_target": "804f40568a4f9470",
    "summaries": "4a5d933e47b23e0e",
}


@pytest.mark.parametrize("form", EVERY)
def test_pinned(form: str) -> None:
    assert rows_of(form, count=20).fingerprint()[:16] == PINNED[form], "edited words: results change, say so"


@pytest.mark.parametrize("form", EVERY)
def test_every_form_loads_without_any_file(form: Any) -> None:
    turned = list(reversed(NAME_TAGS))
    source = {"kind": "embedded", **({"corpus": form} if form in NAMED else {})}
    form = NAMED.get(form, form)
    tree = {
        "train": {**source, "rows_per_language": 30},
        "validation": {**source, "split": "validation", "rows_per_language": 10},
        "unlabeled": {**source, "split": "unlabeled", "rows_per_language": 15},
        "languages": list(LANGUAGES),
        "labelled_per_language": 20,
        **({"labels": turned} if form == "words" else {}),
    }
    config = DataConfig.model_validate(tree)
    config.check(form)
    data = load_data(config, Path("/nowhere"), form, targets_needed=False)
    assert data.train.labels_B.tolist() == [0] * 60 + [UNLABELLED] * 45
    assert data.summary(turned)["train"]["labelled"] == 60
    if form == "words":
        plain = rows_of("words", "validation", count=10, noise=0.05)
        names = [NAME_TAGS[i] for gold in plain.golds or () for i in gold]
        assert [turned[i] for gold in data.validation.golds or () for i in gold] == names
        assert data.train.golds is not None and data.train.golds[60:] == ((),) * 45
    if "target" in form:
        assert data.train.pairs is not None and data.train.pairs[60:] == ("",) * 45


def count_equal(a: str, b: str) -> int:
    """How many signs two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_a_summary_tells_what_its_document_tells_of_one_person_and_nothing_else() -> None:
    """The person of three facts is named first, three facts follow; a wrong one is told of another person."""
    rows, wrong = rows_of("summaries"), rows_of("summaries", noise=0.49)
    for document, summary, language in zip(rows.texts, rows.pairs or (), rows.languages, strict=True):
        told = [summary[:n] for n in range(2, len(summary)) if document.count(summary[:n]) == 3]
        assert told, "the name stands three times in the document and begins the summary"
        parts = [fact.say[0].removeprefix("{s}").split("{o}")[0] for fact in load_world(language).facts]
        assert language == "zh" or sum(part in summary for part in parts) == 3
    changed = [(a, b) for a, b in zip(rows.pairs or (), wrong.pairs or (), strict=True) if a != b]
    texts = dict(zip(wrong.pairs or (), wrong.texts, strict=True))
    for right, other in changed:
        same, tail = count_equal(right, other), count_equal(right[::-1], other[::-1])
        strange = other[same : len(other) - tail]
        assert strange and strange in texts[other], "what is wrong is told of another person"


def test_what_the_corpora_are_not() -> None:
    source = {"kind": "embedded"}
    tree = {"train": source, "validation": source, "languages": ["de"]}
    with pytest.raises(DataError, match=r"got: +\['de'\][\s\S]*\['en', 'fr', 'zh'\]"):
        load_data(DataConfig.model_validate(tree), Path(), "answers")
    tree = {**tree, "languages": ["en"], "labels": ["O", "B-X"]}
    with pytest.raises(DataError, match=r"not those of the embedded corpus[\s\S]*wanted: \['O', 'B-PER'"):
        load_data(DataConfig.model_validate(tree), Path(), "words")
    tree = {**tree, "train": {"kind": "embedded", "rows_per_language": 2001}}
    with pytest.raises(
        DataError, match=r"no more texts in 'en'[\s\S]*2001[\s\S]*at most 2000 of the split train"
    ):
        load_data(DataConfig.model_validate(tree), Path(), "answers")


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_shipped_rows_are_those_that_the_generator_draws(corpus: str) -> None:
    for language, split in ((language, split) for language in LANGUAGES for split in SPLITS):
        with lzma.open(TARGET / corpus / f"{language}-{split}.jsonl.xz", "rt", encoding="utf-8") as file:
            lines = list(file)
        assert lines[:30] == draw_lines(corpus, language, split, 30)
        assert len(lines) == SIZES[corpus][SPLITS.index(split)]


@pytest.mark.parametrize("corpus", CORPORA)
def test_no_row_ships_twice(corpus: str) -> None:
    at = 1 if corpus == "answers" else 0
    for language in LANGUAGES:
        keys = []
        for split in SPLITS:
            with lzma.open(TARGET / corpus / f"{language}-{split}.jsonl.xz", "rt", encoding="utf-8") as file:
                keys += [json.dumps(json.loads(line)[at]).casefold() for line in file]
        assert len(set(keys)) == len(keys)


def test_a_named_corpus_is_of_its_form_alone() -> None:
    source = Embedded(corpus="summaries", rows_per_language=5)
    with pytest.raises(
        DataError, match=r"no embedded corpus[\s\S]*corpus summaries for rows of the form target"
    ):
        read_corpus(source, LANGUAGES, "target")


def test_a_generator_that_runs_dry_says_so() -> None:
    with pytest.raises(ValueError, match=r"'en' has no more new rows: got \d, wanted 9"):
        distinct("en", "train", 9, "what", lambda _, random: (f"{int(4 * random.random())}", 0))
