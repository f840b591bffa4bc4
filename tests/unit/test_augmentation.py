"""Changed copies of training texts: what they are, what teachers are asked about them, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from raykd.config import DataConfig, RunConfig
from raykd.config.augmentation import Fragments, Spelling
from raykd.data.columns import lacks_gold_column
from raykd.data.load import Dataset, load_data
from raykd.data.rows import Rows
from raykd.data.selection.copies import make_copies
from raykd.distill.signals import UNLABELLED
from raykd.driver.loop import make_task_model
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import prepare_rows
from tests.fakes import FixedSource, text_batch

TEXT = "the quick brown fox jumps over the lazy dog near the old stone bridge"
LONG = "\u6e05\u6668\u7684\u9633\u5149\u7167\u5728\u6cb3\u9762\u4e0a\u6570\u4e0d\u6e05"


def rows_of(*texts: str) -> Rows:
    batch = text_batch(list(texts), labels=[0] * len(texts))
    return Rows(**{**vars(batch), "ids": tuple(f"r{i}" for i in range(len(texts)))})


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"kind": "files", "paths": [name]}


def load(folder: Path, augment: list[dict[str, Any]], **more: Any) -> Dataset:
    tree = {
        "train": write(
            folder, "train.jsonl", [{"text": TEXT, "label": "a"}, {"text": TEXT[::-1], "label": "b"}]
        ),
        "validation": write(folder, "validation.jsonl", [{"text": "a cat sat", "label": "a"}]),
        "test": write(folder, "test.jsonl", [{"text": "lazy dog", "label": "a"}]),
        "labels": ["a", "b"],
        "languages": ["en"],
        "augment": augment,
        **more,
    }
    config = DataConfig.model_validate(tree)
    config.check("text")
    return load_data(config, folder)


def test_fragments_are_whole_words_in_a_row_that_fit_or_a_part_of_a_longer_one() -> None:
    fragments = Fragments(max_characters=12)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    runs = [" ".join(words[i:j]) for i in range(10) for j in range(i + 1, 11)]
    longest = {max((r for r in runs if r.split()[0] == w and len(r) <= 12), key=len) for w in words}
    assert {fragments.make_copy(" ".join(words), number) for number in range(300)} == longest
    assert "three four" in longest and "eight nine" in longest
    parts = {fragments.make_copy(LONG, number) for number in range(200)}
    assert {len(part) for part in parts} == set(range(6, 13)) and all(part in LONG for part in parts)


def test_as_many_letters_are_wrong_as_the_rate_says() -> None:
    letters = ("a", "b", "c", "d") * 5000
    changed = Spelling(rate=0.2).change(" ".join(letters), Random(1)).split(" ")
    found = Counter((len(now), now[:1] == was) for was, now in zip(letters, changed, strict=True))
    # Each of four errors has a share of 0.05; to swap there is no neighbour here, and a letter may replace itself.
    shares = {(0, False): 0.05, (2, True): 0.05, (1, False): 0.05 * 0.75}
    for kind, share in shares.items():
        assert abs(found[kind] - 20000 * share) < 4 * (20000 * share) ** 0.5
    assert set(Spelling(rate=1.0).make_copy("ab", n) for n in range(60)) >= {"ba", "aabb", "b", "bb"}
    assert Spelling(rate=1.0).change("12 34, 56", Random(0)) == "12 34, 56"


def test_a_copy_is_a_function_of_text_number_and_seed() -> None:
    kinds = [Fragments(copies=3), Spelling(copies=2, rate=0.3)]
    alone = make_copies(rows_of(TEXT), kinds)
    beside = make_copies(rows_of("something else entirely here", TEXT), kinds)
    assert set(alone.texts) == {t for t, a in zip(beside.texts, beside.asked or (), strict=True) if a == TEXT}
    assert set(alone.texts) != set(make_copies(rows_of(TEXT), [Fragments(copies=3, seed=1)]).texts)
    assert len(set(alone.texts)) == len(alone) and TEXT not in alone.texts
    assert alone.ids[0] == "r0 fragments 0" and set(alone.labels_B.tolist()) == {UNLABELLED}


@pytest.mark.parametrize("targets", ["of_the_text", "of_the_copy"])
def test_teachers_are_asked_about_the_text_or_the_copy_and_the_student_reads_the_copy(
    tmp_path: Path, targets: str
) -> None:
    data = load(tmp_path, [{"kind": "fragments", "copies": 3, "max_characters": 10, "targets": targets}])
    config = RunConfig.model_validate({
        "name": "copies", "task": {"kind": "classification", "max_length": 32},
        "data": {"train": {"kind": "embedded"}, "validation": {"kind": "embedded"}, "languages": ["en"],
                 "labels": ["a", "b"]},
        "student": {"kind": "linear", "buckets": 64}, "objective": {"alpha": 0.0},
        "teachers": [{"name": "one", "languages": "all", "path": "m"}], "train": {"steps": 1, "batch_size": len(data.train)},
    })  # fmt: skip
    tokenizer, source = config.student.fit_tokenizer(()), FixedSource(["one"], [None])
    prepared = prepare_rows(config, data.train, data.validation, tokenizer)
    loop = TrainingLoop(config, prepared, make_task_model(config, tokenizer), source)
    pending = loop.trainer.ask(0, 0, 1)
    loop.engine.close()
    (rows,), (heard,) = pending.rows, source.submitted
    read = data.train.take(rows.tolist())
    assert set(read.texts) > {TEXT, TEXT[::-1]} and len(read) > 4
    if targets == "of_the_text":
        parents = [next(t for t in (TEXT, TEXT[::-1]) if text in t) for text in read.texts]
        assert list(heard.texts) == parents and tuple(data.asked.texts) == (TEXT, TEXT[::-1])
    else:
        assert heard.texts == read.texts and len(data.asked) == len(data.train)


def test_a_copy_that_is_a_held_out_text_is_left_out_and_all_are_counted(tmp_path: Path) -> None:
    augment = [{"kind": "fragments", "copies": 60, "max_characters": 8}]
    with_test = load(tmp_path, augment)
    without = load(tmp_path, augment, test=None)
    assert set(without.train.texts) - set(with_test.train.texts) == {"lazy dog"}
    made = len(with_test.train) - 2  # of 120, of which one kind is the test text
    assert with_test.left_out == {
        "unlabeled: also in validation or test": 1,
        "train: copies by fragments that are empty, or equal their text or another copy": 119 - made,
        "train: copies that data.augment made, which teachers alone teach": made,
    }
    assert load(tmp_path, augment).fingerprint() == with_test.fingerprint() != without.fingerprint()


@pytest.mark.parametrize("form", ["target", "source_target", "plain"])
def test_texts_to_be_written_have_no_copies(form: Any) -> None:
    source = {"kind": "files", "paths": ["a.jsonl"]}
    tree = {"train": source, "validation": source, "languages": ["en"], "augment": [{"kind": "spelling"}]}
    with pytest.raises(
        ValueError, match=r"data\.augment: spelling .* leave it out of a language model's run"
    ):
        DataConfig.model_validate(tree).check(form)


def test_labels_of_a_file_are_not_read_where_their_column_is_null(tmp_path: Path) -> None:
    data = load(tmp_path, [], columns={"label": None}, empty_label="unlabeled")
    assert not data.train.labelled.any() and data.judged == ("validation", "test")
    with pytest.raises(ValueError, match=r"set data\.empty_label: unlabeled with it"):
        load(tmp_path, [], columns={"label": None})
    source = {"kind": "files", "paths": ["a.jsonl"]}
    tags = {"train": source, "validation": source, "languages": ["en"], "labels": ["O", "B-PER", "I-PER"]}
    words = DataConfig.model_validate({**tags, "columns": {"tags": None}})
    with pytest.raises(ValueError, match=r"columns\.tags null reads no tag; set data\.empty_label"):
        words.check("words")
    assert lacks_gold_column([], words.train, words, "words")


def test_states_are_compared_of_one_text_only() -> None:
    source = {"kind": "embedded"}
    tree = {
        "name": "states",
        "task": {"kind": "classification"},
        "data": {
            "train": source,
            "validation": source,
            "languages": ["en"],
            "labels": ["negative", "positive"],
        },
        "student": {"kind": "transformer"},
        "teachers": [{"name": "one", "languages": "all", "path": "model"}],
        "objective": {"features": [{"kind": "hidden_mse"}]},
    }
    for targets, wanted in (("of_the_text", "asks about another"), ("of_the_copy", "")):
        tree["data"] = {**tree["data"], "augment": [{"kind": "fragments", "targets": targets}]}  # type: ignore[dict-item]
        if wanted:
            with pytest.raises(ValueError, match=wanted):
                RunConfig.model_validate(tree)
        else:
            RunConfig.model_validate(tree)
