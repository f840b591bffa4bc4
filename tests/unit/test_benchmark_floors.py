"""benchmarks.floors on rows whose answers can be told by eye."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.floors import answer_without_model, score_overlap
from raykd.data.rows import Rows

TRAIN = [
    {"src": "a red house", "tgt": "une maison rouge"},
    {"src": "two blue birds", "tgt": "deux oiseaux bleus"},
]


def test_an_answer_is_the_source_or_the_target_of_the_nearest_source() -> None:
    found = answer_without_model(TRAIN, [{"src": "blue birds sing", "tgt": "des oiseaux bleus chantent"}])
    nearest = ["deux oiseaux bleus"]
    assert list(found.values()) == [["blue birds sing"], nearest, nearest]


def test_the_sentence_that_shares_most_words_is_the_floor_of_questions() -> None:
    context = "The sea is wide. A red ship left Bergen in 1840. Ships sink!"
    begin = context.index("1840")
    rows = Rows(
        ("r",), ("When did the red ship leave Bergen?",), ("en",), np.zeros(1, np.int64), (context,),
        golds=((begin, begin + 4),),
    )  # fmt: skip
    # Six words without the article, one of them the answer: 2 * 1 / (6 + 1).
    assert score_overlap(rows) == pytest.approx({"macro": 100 * 2 / 7, "en": 100 * 2 / 7})
