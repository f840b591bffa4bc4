"""Changed copies of questions, rankings, relations, sentence vectors and tagged words: what must stay does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raykd.config import DataConfig, RunConfig
from raykd.config.augmentation import Fragments, Spelling
from raykd.config.kinds.word_replacement import Lexicon
from raykd.data.load import load_data
from raykd.data.rows import Rows
from raykd.data.selection.copies import find_words_between_markers, make_copies
from raykd.distill.signals import UNLABELLED
from raykd.tasks import QuestionAnswering
from raykd.tasks.markers import MARKERS, is_marked, mark_spans
from raykd.text.words import find_word_spans
from tests.fakes import texts_and_labels

TEXTS = texts_and_labels(60, 9)[0]
MARKED = mark_spans("The old pump feeds the well in summer", (4, 12), (23, 27))


def rows_of(texts: list[str], **columns: Any) -> Rows:
    ids, labels_B = tuple(f"r{i}" for i in range(len(texts))), np.zeros(len(texts), np.int64)
    return Rows(ids, tuple(texts), columns.pop("languages", ("en",) * len(texts)), labels_B, **columns)


def questions() -> tuple[Rows, list[str]]:
    """Questions whose answer is the third and fourth word of the context, and the answers."""
    contexts = [f"{TEXTS[i]}, 12 o'clock; {TEXTS[i + 1]}" for i in range(30)]
    spans = [find_word_spans(context) for context in contexts]
    golds = [(int(words[2, 0]), int(words[3, 1])) for words in spans]
    answers = [context[begin:end] for context, (begin, end) in zip(contexts, golds, strict=True)]
    return rows_of([f"what of {TEXTS[i]}?" for i in range(30)], pairs=contexts, golds=golds), answers


def lexicon(folder: Path, text: str, **keys: Any) -> Lexicon:
    (folder / "words.txt").write_text(text, encoding="utf-8")
    return Lexicon(path=str(folder / "words.txt"), rate=1.0, copies=1, **keys)


def test_the_words_of_a_context_stay_one_for_one_and_spans_point_to_the_answer(tmp_path: Path) -> None:
    rows, answers = questions()
    kept = {word for answer in answers for word in answer.split()}
    words = sorted({word for text in rows.pairs or () for word in text.split() if word.isalpha()} - kept)
    change = lexicon(tmp_path, "".join(f"{word}\tx{word}x\n" for word in words))
    copies = make_copies(rows, [change, Spelling(copies=3, rate=0.3)], form="answers")
    assert len(copies) > 60 and any("lexicon" in name for name in copies.ids)
    gold_B2 = QuestionAnswering().list_unit_labels(rows).reshape(-1, 2)
    for name, context in zip(copies.ids, copies.pairs or (), strict=True):
        parent = list(rows.ids).index(name.split()[0])
        own, theirs = find_word_spans(context), find_word_spans((rows.pairs or ())[parent])
        assert len(own) == len(theirs)
        first, last = gold_B2[parent]
        if "lexicon" in name:
            assert context[own[first, 0] : own[last, 1]] == answers[parent] and "x" in context
    assert set(copies.golds or ()) == {()} and set(copies.labels_B.tolist()) == {UNLABELLED}
    asked = copies.take(range(len(copies))).as_asked()
    assert set(zip(asked.texts, asked.pairs or (), strict=True)) <= set(
        zip(rows.texts, rows.pairs or (), strict=True)
    )


def test_a_copy_whose_context_has_other_words_is_left_out_unless_teachers_read_it(tmp_path: Path) -> None:
    rows = rows_of(["where is it", "who"], pairs=["it is in the box", "we are"], golds=[(6, 16), (0, 2)])
    left_out: dict[str, int] = {}
    change = lexicon(tmp_path, "in\tà côté de\nwe\tnous\nwho\tqui\n")
    copies = make_copies(rows, [change], left_out, "answers")
    assert list(zip(copies.texts, copies.pairs or (), strict=True)) == [("qui", "nous are")]
    assert left_out["train: copies by lexicon whose context has other words than its text"] == 1
    of_copy = make_copies(rows, [change.model_copy(update={"targets": "of_the_copy"})], form="answers")
    assert list(of_copy.pairs or ()) == ["it is à côté de the box", "nous are"] and set(
        of_copy.asked or ()
    ) == {""}
    first = make_copies(rows, [change.model_copy(update={"parts": "first"})], form="answers")
    assert list(zip(first.texts, first.pairs or (), strict=True)) == [("qui", "we are")]


def test_a_chinese_context_keeps_its_characters_and_the_question_changes() -> None:
    rows = rows_of(
        ["what is in 上海 today?"], pairs=["上海很大，有 many houses"], golds=[(0, 2)], languages=("zh",)
    )
    left_out: dict[str, int] = {}
    copies = make_copies(rows, [Spelling(copies=20, rate=0.5)], left_out, "answers")
    assert len(copies) > 15 and not any("other words" in reason for reason in left_out)
    assert all(context.startswith("上海很大，有 ") for context in copies.pairs or ())
    assert len(set(copies.texts)) > 15 and len(set(copies.pairs or ())) > 15


def test_markers_stay_and_only_words_change(tmp_path: Path) -> None:
    assert [MARKED[begin:end] for begin, end in find_words_between_markers(MARKED)] == [
        "The", "old", "pump", "feeds", "the", "well", "in", "summer"
    ]  # fmt: skip
    rows = rows_of([MARKED] * 3)
    copies = make_copies(rows, [Spelling(copies=20, rate=0.5)], form="marked")
    assert len(copies) > 50 and all(is_marked(text) for text in copies.texts)
    change = lexicon(tmp_path, "e1\tWRONG\npump\tpompe à eau\nwell\tpuits\nin\ten\n")
    (copy,) = make_copies(rows.select(np.asarray([0])), [change], form="marked").texts
    assert copy == mark_spans("The old pompe à eau feeds the puits en summer", (4, 19), (30, 35))
    assert all(copy.count(marker) == 1 for marker in MARKERS)


def test_candidates_change_and_teachers_are_asked_about_the_query_and_its_own(tmp_path: Path) -> None:
    rows = rows_of(
        ["a cat", "a dog"], candidates=[("cat one", "two"), ("x", "cat", "z")], values=[(1.0, 0.0), ()]
    )
    change = lexicon(tmp_path, "cat\tchat noir\n")
    copies = make_copies(rows, [change], form="candidates")
    assert list(copies.texts) == ["a chat noir", "a dog"]
    assert list(copies.candidates or ()) == [("chat noir one", "two"), ("x", "chat noir", "z")]
    assert list(copies.values or ()) == [(), ()]
    joined = Rows.concat([rows, copies])
    asked = joined.take(range(4)).as_asked()
    assert asked.candidates == tuple(rows.candidates or ()) * 2 and asked.texts == tuple(rows.texts) * 2
    assert asked.asked_candidates is None and list(joined.select_asked().ids) == ["r0", "r1"]
    first = make_copies(rows, [change.model_copy(update={"parts": "first"})], form="candidates")
    assert list(first.texts) == ["a chat noir"] and list(first.candidates or ()) == [("cat one", "two")]
    assert replace(joined, asked_candidates=None).fingerprint() != joined.fingerprint()


def test_a_text_without_a_pair_has_copies_without_one(tmp_path: Path) -> None:
    rows = rows_of(["a cat", "my cat"], pairs=["cat food", ""])
    copies = make_copies(rows, [lexicon(tmp_path, "cat\tchat\n")], form="sentences")
    assert list(zip(copies.texts, copies.pairs or (), strict=True)) == [
        ("a chat", "chat food"),
        ("my chat", ""),
    ]
    alone = make_copies(rows, [Fragments(parts="first", max_characters=4, copies=9)], form="sentences")
    assert set(alone.pairs or ()) == {"cat food", ""} and all(len(text) <= 4 for text in alone.texts)


def test_typing_errors_of_tagged_words_keep_every_word() -> None:
    words = tuple((int(b), int(e)) for b, e in find_word_spans(TEXTS[0]))
    rows = rows_of([TEXTS[0]], words=[words], golds=[(0,) * len(words)])
    copies = make_copies(rows, [Spelling(copies=40, rate=0.4)], form="words")
    assert len(copies) > 30
    for text, own in zip(copies.texts, copies.words or (), strict=True):
        assert len(own) == len(words) and all(text[begin:end].strip() for begin, end in own)
        assert [*text[: own[0][0]], *text[own[-1][1] :]] == []


ROWS: dict[str, dict[str, Any]] = {
    "answers": {"question": "where is the cat", "context": "the cat is here", "answers": {"text": ["here"], "answer_start": [11]}},
    "candidates": {"query": "where is the cat", "candidates": ["the cat", "a dog"], "relevances": [1, 0]},
    "marked": {"text": "the cat eats a bird", "head": "cat", "tail": "bird", "label": "a"},
    "sentences": {"text": "the cat is here", "text_pair": "here is the cat"},
}  # fmt: skip


@pytest.mark.parametrize("form", list(ROWS))
def test_files_of_each_form_get_copies(form: Any, tmp_path: Path) -> None:
    first = "question" if form == "answers" else "query" if form == "candidates" else "text"
    for name in ("train", "validation"):
        row = {**ROWS[form], first: f"{ROWS[form][first]} {name}", "lang": "en"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    source = {name: {"kind": "files", "paths": [f"{name}.jsonl"]} for name in ("train", "validation")}
    tree = {
        **source, "languages": ["en"], "labels": ["a", "b"] if form == "marked" else [],
        "augment": [{"kind": "spelling", "copies": 20, "rate": 0.2}],
    }  # fmt: skip
    config = DataConfig.model_validate(tree)
    config.check(form)
    data = load_data(config, tmp_path, form)
    made = data.left_out["train: copies that data.augment made, which teachers alone teach"]
    assert made > 5 and len(data.train) == 1 + made and len(data.asked) == 1
    assert all(is_marked(text) for text in data.train.texts) or form != "marked"


@pytest.mark.parametrize(
    ("form", "change", "said"),
    [
        ("words", {"kind": "fragments"}, "does not keep tagged words in their places"),
        ("marked", {"kind": "fragments"}, "does not keep the markers"),
        ("marked", {"kind": "masked_lm", "path": "m"}, "reads them as text"),
        ("answers", {"kind": "fragments"}, "set parts: first"),
        ("candidates", {"kind": "fragments"}, "set parts: first"),
        (
            "answers",
            {"kind": "back_translation", "path": "m", "pivot": "fr", "targets": "of_the_text"},
            "set targets: of_the_copy, or parts: first",
        ),
        ("answers", {"kind": "back_translation", "path": "m", "pivot": "fr"}, None),
        ("answers", {"kind": "fragments", "parts": "first"}, None),
        ("candidates", {"kind": "back_translation", "path": "m", "pivot": "fr"}, None),
        ("plain", {"kind": "spelling", "parts": "first"}, "leave it out of a language model's run"),
    ],
)
def test_what_cannot_stay_right_is_refused_by_name(
    form: Any, change: dict[str, Any], said: str | None
) -> None:
    source = {"kind": "files", "paths": ["a.jsonl"]}
    labels = {"words": ["O", "B-PER", "I-PER"], "marked": ["a", "b"]}.get(form, [])
    tree = {"train": source, "validation": source, "languages": ["en"], "labels": labels, "augment": [change]}
    config = DataConfig.model_validate(tree)
    if said is None:
        config.check(form)
    else:
        with pytest.raises(ValueError, match=said):
            config.check(form)


def test_the_new_key_leaves_fingerprints_as_they_were() -> None:
    source = {"kind": "embedded"}
    tree = {
        "task": {"kind": "classification"}, "student": {"kind": "linear"},
        "teachers": [{"name": "one", "languages": "all", "path": "m"}],
    }  # fmt: skip

    def fingerprint(**keys: Any) -> str:
        data = {
            "train": source, "validation": source, "languages": ["en"], "labels": ["negative", "positive"],
            "augment": [{"kind": "spelling", **keys}],
        }  # fmt: skip
        return RunConfig.model_validate({**tree, "data": data}).fingerprint()

    assert fingerprint() == fingerprint(parts="all") != fingerprint(parts="first")
