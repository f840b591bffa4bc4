"""benchmarks.floors on rows whose answers can be told by eye."""

from __future__ import annotations

from benchmarks.floors import answer_without_model

TRAIN = [
    {"src": "a red house", "tgt": "une maison rouge"},
    {"src": "two blue birds", "tgt": "deux oiseaux bleus"},
]


def test_an_answer_is_the_source_or_the_target_of_the_nearest_source() -> None:
    found = answer_without_model(TRAIN, [{"src": "blue birds sing", "tgt": "des oiseaux bleus chantent"}])
    nearest = ["deux oiseaux bleus"]
    assert list(found.values()) == [["blue birds sing"], nearest, nearest]
