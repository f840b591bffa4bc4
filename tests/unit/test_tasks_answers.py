"""Extractive answers: places, spans and scores, against numbers worked out by hand and a slow search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.overlap import overlap_sentence
from raykd.distill.signals import MASKED
from raykd.tasks.scores import spans as answers
from raykd.text import words

CONTEXT = "Le Corbusier (1887–1965) was born in La Chaux-de-Fonds. 他生于瑞士，共50万人。"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("born in La", "born in La"),
        ("orn i", "born in"),
        ("887", "1887"),
        ("–", "–"),
        ("生于瑞", "生于瑞"),
        ("50万", "50万"),
        ("0万", "50万"),
    ],
)
def test_answers_become_whole_words_and_text_again(answer: str, expected: str) -> None:
    spans = words.find_word_spans(CONTEXT)
    begin = CONTEXT.index(answer)
    ((first, last),) = answers.find_answer_words(spans, np.asarray([[begin, begin + len(answer)]])).tolist()
    assert answers.read_span_text(CONTEXT, spans, first, last) == expected


def test_an_answer_that_touches_no_word_has_no_place() -> None:
    spans = words.find_word_spans("a  b")
    assert answers.find_answer_words(spans, np.asarray([[1, 3], [0, 4], [3, 4]])).tolist() == [
        [-1, -1],
        [0, 1],
        [1, 1],
    ]
    assert answers.find_answer_words(spans[:0], np.asarray([[0, 1]])).tolist() == [[-1, -1]]
    assert (
        answers.read_span_text("a  b", spans, -1, -1) == ""
        and answers.read_span_text("a  b", spans, 0, 2) == ""
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 10**6))
def test_the_best_span_is_the_best_of_all(wide: int, limit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, wide + 1, size=4)
    logits = rng.normal(size=(8, wide))
    for b, count in enumerate(counts):
        logits[2 * b : 2 * b + 2, count:] = MASKED
    spans, score, _ = answers.find_best_answers(logits, counts, np.full(4, -1), limit)
    logp = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for b, count in enumerate(counts):
        ways = {
            (i, j): logp[2 * b, i] + logp[2 * b + 1, j]
            for i in range(count) for j in range(i, min(count, i + limit))
        }  # fmt: skip
        assert tuple(spans[b]) == max(ways, key=lambda way: ways[way])
        assert score[b] == pytest.approx(max(ways.values()))


def test_impossible_spans_are_refused() -> None:
    for shape, limit in (((3, 4), 2), ((2, 0), 2), ((2, 4), 0)):
        with pytest.raises(ValueError, match="logits"):
            answers.find_best_answers(np.zeros(shape), np.ones(1, int), np.full(1, -1), limit)


@pytest.mark.parametrize(
    ("answer", "language", "tokens"),
    [
        ("The  Cat, an a-b!", "en", ["cat", "ab"]),
        ("1887–1965 “x”", "en", ["1887–1965", "“x”"]),  # SQuAD's script removes ASCII punctuation alone
        ("1887–1965 “x”", "de", ["18871965", "x"]),
        ("Die Stadt der eine Einheit", "de", ["stadt", "einheit"]),
        ("L’État et l'air des Alpes", "fr", ["état", "et", "air", "alpes"]),
        ("La casa de los unos", "es", ["casa", "de"]),
        ("《枫丹白露法令》 GDP增长3.5%", "zh", ["枫", "丹", "白", "露", "法", "令", "gdp", "增", "长", "35"]),
        ("the 中国", "zh-Hans", ["the", "中", "国"]),
        ("Вторая мировая-война", "ru", ["вторая", "мироваявойна"]),
    ],
)
def test_answers_are_normalised_by_their_language(answer: str, language: str, tokens: list[str]) -> None:
    assert answers.normalize_answer(answer, language) == tokens


def test_scores_by_hand() -> None:
    assert answers.compute_exact_match("the Eiffel Tower!", ["tower", "Eiffel tower"], "en") == 1
    assert answers.compute_exact_match("Eiffel", ["Eiffel tower"], "en") == 0
    assert answers.compute_exact_match("50 万", ["50万"], "zh") == 1
    assert answers.compute_f1(
        "in the Eiffel Tower", ["Paris", "Eiffel Tower of Paris"], "en"
    ) == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert answers.compute_f1("约50万人", ["50万"], "zh") == pytest.approx(2 * (2 / 4) * 1 / (2 / 4 + 1))
    assert answers.compute_f1("a a b", ["a b b"], "de") == pytest.approx(2 / 3)
    assert answers.compute_f1("", ["x"], "en") == 0 == answers.compute_f1("the", ["the"], "en")
    assert answers.compute_answer_metrics(
        ["the Tower", "约50万人"], [["tower"], ["50万"]], ["en", "zh"]
    ) == pytest.approx({"exact_match": 0.5, "f1": (1 + 2 / 3) / 2})
    for wrong in (([], [], []), (["a"], [["a"], []], ["en"]), (["a"], [["a"]], [])):
        with pytest.raises(ValueError, match="answers, "):
            answers.compute_answer_metrics(*wrong)


def test_the_floor_is_the_sentence_that_shares_most_words() -> None:
    context = "Tesla was born in 1856. He paid 3.5 million dollars in the U.S. for coal! Who knows? 他死于纽约。他生于瑞士。"
    assert overlap_sentence("How many million dollars did he pay?", context) == (
        "He paid 3.5 million dollars in the U.S."
    )
    assert overlap_sentence("When was Tesla born?", context) == "Tesla was born in 1856."
    assert overlap_sentence("谁生于瑞士？", context) == "他生于瑞士。"
    assert overlap_sentence("x", "no end") == "no end" and overlap_sentence("x", " ") == ""


def official_best(predicted: list[str], scores: list[float], doubts: list[float], has: list[bool]) -> float:
    """`find_best_thresh` of SQuAD v2's evaluation script."""
    current = best = float(sum(not h for h in has))
    for i in sorted(range(len(doubts)), key=lambda i: doubts[i]):
        current += scores[i] if has[i] else -1.0 if predicted[i] else 0.0
        best = max(best, current)
    return best / len(scores)


def test_the_best_threshold_is_that_of_squad_2() -> None:
    rng = np.random.default_rng(0)
    names = ["Ann Lee", "Bo", "Rome", "the old Rome"]
    for _ in range(20):
        predicted = [str(name) for name in rng.choice(names, size=12)]
        accepted = [[str(name)] if rng.random() < 0.6 else [] for name in rng.choice(names, size=12)]
        doubts = rng.normal(size=12)
        found = answers.find_best_thresholds(predicted, doubts, accepted, ["en"] * 12)
        for name, measure in (("exact_match", answers.compute_exact_match), ("f1", answers.compute_f1)):
            scores = [measure(p, a, "en") if a else 0.0 for p, a in zip(predicted, accepted, strict=True)]
            wanted = official_best(predicted, scores, doubts.tolist(), [bool(a) for a in accepted])
            assert found[f"best_{name}"] == pytest.approx(wanted)
    assert answers.compute_answer_metrics(["", "Bo"], [[], []], ["en"] * 2) == {"exact_match": 0.5, "f1": 0.5}
