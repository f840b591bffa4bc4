"""The fragments that no choice has seen share nothing with the earlier ones, and scores are scikit-learn's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks.langid import COPIES, count_answers, cut_unseen, make_unseen, score_counts
from raykd.config.augmentation import Fragments


def test_a_fragment_is_of_what_the_earlier_one_leaves() -> None:
    sentence = "one two three four five six seven eight nine ten eleven twelve"
    found = {cut_unseen(sentence, "four five six", str(name)) for name in range(200)}
    assert found >= {"two three", "seven eight nine ten", "twelve"}
    assert not any(set(one.split()) & {"four", "five", "six"} for one in found)
    assert all(one in sentence and len(one) <= 20 for one in found)
    assert cut_unseen("one two", "one two", "a") == ""
    assert cut_unseen(sentence, "four five six", "7") == cut_unseen(sentence, "four five six", "7")


def test_what_was_learnt_from_or_tested_with_is_left_out(tmp_path: Path) -> None:
    files = {
        "train": [{"text": "alpha beta gamma", "label": "a", "id": "1-a"}],
        "test": [
            {"text": "alpha beta gamma", "label": "a", "id": "2-a"},
            {"text": "a quite other sentence of words", "label": "b", "id": "2-b"},
        ],
        "test_short": [{"text": "gamma", "label": "a", "id": "2-a"}],
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    learnt = {Fragments(copies=COPIES).make_copy("alpha beta gamma", n) for n in range(COPIES)}
    assert {"alpha beta gamma", "beta gamma"} <= learnt
    found = make_unseen(tmp_path)
    assert not {row["text"] for row in found} & (learnt | {"gamma"})
    assert [row["id"] for row in found][-1] == "2-b" and found[-1]["text"] in files["test"][1]["text"]


def test_the_score_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    gold, found = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    gold[:4] = range(4)
    rows = [{"text": "", "label": "abcd"[label], "id": f"{at // 7}-x"} for at, label in enumerate(gold)]
    counts = count_answers(rows, ["abcd"[label] for label in found])
    assert counts.sum() == 300 and len(counts) == 43
    assert score_counts(counts.sum(axis=0)) == pytest.approx(100 * f1_score(gold, found, average="macro"))
