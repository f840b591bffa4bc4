"""Scores of written text against hand-made numbers and the libraries' own scores."""

from __future__ import annotations

import math

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from raykd.tasks.scores import generation
from raykd.tasks.scores.metrics import is_higher_better

EN = ["The cat sat on the mat.", "It's a fine, sunny day today", "Nothing in common"]
EN_GOLD = ["The cat sat on a mat.", "It's a sunny day, today.", "Wholly different words here"]
ZH = ["今天天气很好。", "他去了北京2024"]
ZH_GOLD = ["今天的天气好。", "他昨天去了北京2024"]


def test_corpus_scores_are_sacrebleus() -> None:
    got = generation.compute_generation_metrics(EN, EN_GOLD, "en", ("bleu", "chrf"))
    assert list(got) == ["bleu", "chrf"]
    assert got["bleu"] == sacrebleu.corpus_bleu(EN, [EN_GOLD], tokenize="13a").score
    assert got["chrf"] == sacrebleu.corpus_chrf(EN, [EN_GOLD]).score
    got = generation.compute_generation_metrics(ZH, ZH_GOLD, "zh-Hans", ("bleu",))
    assert got["bleu"] == sacrebleu.corpus_bleu(ZH, [ZH_GOLD], tokenize="zh").score
    assert got["bleu"] > 20 > sacrebleu.corpus_bleu(ZH, [ZH_GOLD], tokenize="13a").score


@pytest.mark.parametrize(
    ("language", "tokenizer"), [("en", "13a"), ("zh", "zh"), ("zh_CN", "zh"), ("ja", "char"), ("th", "char")]
)
def test_bleu_is_tokenized_by_language(language: str, tokenizer: str) -> None:
    assert generation.choose_bleu_tokenizer(language) == tokenizer
    assert generation.compute_generation_metrics(["ab cd ef gh"], ["ab cd ef gh"], language, ("bleu",))[
        "bleu"
    ] == pytest.approx(100)


def test_rouge_by_hand_for_a_script_that_the_library_drops() -> None:
    # 今天天气很好 (6) and 今天的天气好 (6): five characters in common, in order; bigrams 今天 and 天气.
    got = generation.compute_generation_metrics(ZH[:1], ZH_GOLD[:1], "zh", ("rouge1", "rouge2", "rougeL"))
    assert got == pytest.approx({"rouge1": 5 / 6, "rouge2": 2 / 5, "rougeL": 5 / 6})
    dropped = RougeScorer(["rouge1"]).score(ZH_GOLD[0], ZH[0])
    assert dropped["rouge1"].fmeasure == 0
    assert generation.compute_generation_metrics(["Он дома"], ["он не дома!"], "ru", ("rouge1",))[
        "rouge1"
    ] == pytest.approx(0.8)


def test_rouge_of_english_is_the_librarys_own() -> None:
    names = ("rouge1", "rouge2", "rougeL")
    rows = [RougeScorer(list(names)).score(b, a) for a, b in zip(EN, EN_GOLD, strict=True)]
    expected = {name: sum(row[name].fmeasure for row in rows) / len(rows) for name in names}
    assert generation.compute_generation_metrics(EN, EN_GOLD, "en", names) == pytest.approx(expected)


def test_exact_match_and_order_of_names() -> None:
    got = generation.compute_generation_metrics([" a", "b", "c", ""], ["a ", "b", "C", "d"], "en")
    assert tuple(got) == generation.NAMES and got["exact_match"] == 0.5


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices() -> None:
    assert generation.compute_perplexity(7 * math.log(50), 7) == pytest.approx(50)
    assert generation.compute_perplexity(0.0, 3) == 1 and generation.compute_perplexity(1e9, 1) == math.inf
    with pytest.raises(ValueError, match="no tokens"):
        generation.compute_perplexity(0.0, 0)


def test_what_cannot_be_measured_is_refused() -> None:
    for texts, golds in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="references"):
            generation.compute_generation_metrics(texts, golds, "en")
    with pytest.raises(ValueError, match="accuracy"):
        generation.compute_generation_metrics(["a"], ["a"], "en", ("accuracy",))


def test_every_score_has_a_direction() -> None:
    known = {"f1", "precision", "recall", "perplexity", *generation.NAMES}
    assert {name for name in known if is_higher_better(name)} == known - {"perplexity"}


def test_an_end_that_a_reference_spells_out_is_no_part_of_it() -> None:
    references = ["uno</s>", "due<|im_end|>\n", "tre [SEP]", "</s> and more"]
    found = generation.compute_generation_metrics(
        ["uno", "due", "tre", "</s> and more"], references, "it", ["exact_match", "chrf"]
    )
    assert found == {"exact_match": 1.0, "chrf": 100.0}
