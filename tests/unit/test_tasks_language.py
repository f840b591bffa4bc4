"""Language models: units, bodies and matches, with one tokenizer and with two."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raykd.answers.codec import decode_answers
from raykd.answers.layout import StudentUnits, lay_out_answers
from raykd.answers.source import AnswerSlots
from raykd.answers.vocabularies import VocabularyMatch
from raykd.models import DecoderStudent, EncoderDecoderStudent
from raykd.models.lm import Headless
from raykd.tasks import CausalLM, Seq2Seq
from raykd.tasks.answer_forms import HiddenAnswers, SampledAnswers, TopKAnswers
from raykd.text.batch import TextBatch
from tests.kept_answers import answer_rows

TEXTS = ("Good morning, how are you?", "where is the station", "你好吗")
TARGETS = ("I am fine.", "It is near the river.", "我很好，谢谢。")


def batch(texts: tuple[str, ...] = TEXTS) -> TextBatch:
    return TextBatch(("a", "b", "c"), texts, ("en", "en", "zh"), np.zeros(3, np.int64), TARGETS)


OTHERS = ("fine rivers, fine stations", "I am near the sea. It is the end.", "谢谢你，我很好")


def made(kind: str, texts: tuple[str, ...] = (*TEXTS, *TARGETS)) -> tuple[Any, Any, Any]:
    student = DecoderStudent if kind == "causal_lm" else EncoderDecoderStudent
    spec = student(layers=1, hidden=16, heads=2, vocab_size=600, dropout=0.0)
    tokenizer = spec.fit_tokenizer(texts * 2)
    task = CausalLM() if kind == "causal_lm" else Seq2Seq()
    return task, tokenizer, spec.build(tokenizer, (), 0, kind).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["causal_lm", "seq2seq"])
def test_units_are_the_targets_tokens_and_the_prompt_is_not_trained(kind: str) -> None:
    task, tokenizer, model = made(kind)
    rows = task.encode(tokenizer, batch())
    units = [rows.labels_N[rows.find_units([i])] for i in range(3)]
    assert [tokenizer.decode(u, skip_special_tokens=True) for u in units] == list(TARGETS)
    assert all(u[-1] == tokenizer.eos_token_id for u in units)
    offsets = [rows.extra["offsets_N"][rows.find_units([i])] for i in range(3)]
    assert [int(o[-1]) for o in offsets] == [len(t) for t in TARGETS] and all(o[0] == 0 for o in offsets)
    # The loss of the places that are read is the loss that transformers computes from the labels itself.
    encoded = task.collate(rows, [0, 1, 2])
    said = task.evaluate_batch(Headless(model), encoded)
    inputs = dict(encoded.inputs)
    if kind == "causal_lm":
        labels = torch.full_like(inputs["input_ids"], -100)
        assert encoded.places_N2 is not None
        labels[encoded.places_N2[:, 0], encoded.places_N2[:, 1] + 1] = encoded.labels_N
        inputs["labels"] = labels
    with torch.no_grad():
        loss = model(**inputs).loss
    assert said.nll_B is not None and said.nll_B.sum() / len(encoded.labels_N) == pytest.approx(
        float(loss), rel=1e-5
    )
    assert said.tokens_B is not None and said.tokens_B.tolist() == encoded.counts_B.tolist()


def test_a_long_prompt_loses_its_beginning_and_a_long_target_its_end() -> None:
    task, tokenizer, _ = made("causal_lm")
    short = CausalLM(max_length=9, max_target_length=4)
    rows = short.encode(tokenizer, batch())
    assert rows.counts_B.max() == 4 and rows.lengths_B.max() <= 9
    kept = rows.fields["input_ids"][0][:-4]
    assert kept[0] == tokenizer.bos_token_id and len(kept) == 5  # the token that begins a text stays
    assert TEXTS[0].endswith(tokenizer.decode(kept[1:]).strip())
    assert rows.long_B is not None and rows.long_B.all() and rows.coverage is not None and rows.coverage < 1.0
    assert task.encode(tokenizer, batch(("", "", ""))).lengths_B.min() > 1


@pytest.mark.parametrize("form", [TopKAnswers(k=5), SampledAnswers(draws=20), HiddenAnswers()])
def test_a_body_says_the_same_alone_and_in_a_batch(form: Any) -> None:
    task, tokenizer, model = made("seq2seq")
    task = task.model_copy(update={"answers": form})
    rows, teacher = task.encode(tokenizer, batch()), Headless(model)
    with torch.no_grad():
        together = answer_rows(task, teacher, task.collate(rows, [0, 1, 2]), ())
        alone = [
            answer_rows(task, teacher, task.collate(task.encode(tokenizer, batch().take([i])), [0]), ())[0]
            for i in range(3)
        ]
    for one, other in zip(together, alone, strict=True):
        a, b = decode_answers([one])[0], decode_answers([other])[0]
        assert a is not None and b is not None and a.constants() == b.constants()
        for name, column in a.columns().items():
            np.testing.assert_allclose(column, b.columns()[name], atol=2e-3, err_msg=name)
    assert decode_answers(together)[1].tolist() == rows.counts_B.tolist()


def laid(
    kind: str,
    texts: tuple[str, ...],
    match: VocabularyMatch,
    mine: tuple[str, ...] = (*TEXTS, *TARGETS),
    k: int = 64,
) -> tuple[Any, Any, Any]:
    task, own, _ = made(kind, mine)
    task = task.model_copy(update={"answers": TopKAnswers(k=k)})
    _, other, model = made(kind, texts)
    rows, theirs = task.encode(own, batch()), task.encode(other, batch())
    with torch.no_grad():
        bodies = answer_rows(task, Headless(model), task.collate(theirs, [0, 1, 2]), ())
    encoded = task.collate(rows, [2, 0])
    picked = AnswerSlots("t", [bodies[2], bodies[0]])
    offsets = rows.extra["offsets_N"][rows.find_units([2, 0])]
    targets = [TARGETS[2], TARGETS[0]]
    units = StudentUnits(encoded.labels_N, encoded.counts_B, ("zh", "en"), offsets_N=offsets, targets=targets)
    return lay_out_answers([picked], [None], units, [match]), rows, theirs


def test_the_same_tokenizer_covers_every_unit() -> None:
    signals, rows, _ = laid("causal_lm", (*TEXTS, *TARGETS), VocabularyMatch("same"))
    assert signals.covered_MN.all() and signals.languages[0] == "zh" and signals.languages[-1] == "en"
    assert len(signals.labels_N) == int(rows.counts_B[[2, 0]].sum())


def test_another_tokenizer_covers_the_units_that_begin_where_its_own_do() -> None:
    signals, rows, theirs = laid("causal_lm", (*TEXTS, *TARGETS), VocabularyMatch("overlap"), OTHERS)

    def starts(encoded: Any, i: int) -> list[int]:
        return [at for at in encoded.extra["offsets_N"][encoded.find_units([i])].tolist() if at >= 0]

    expected = [at in starts(theirs, i) for i in (2, 0) for at in starts(rows, i)]
    found = signals.covered_MN[0][torch.from_numpy(rows.extra["offsets_N"][rows.find_units([2, 0])] >= 0)]
    assert found.tolist() == expected and 0 < sum(expected) < len(expected)


def test_units_whose_beginning_means_something_else_are_not_covered() -> None:
    asked: list[str] = []

    def find_comparable(text: str, offsets_N: Any) -> Any:
        asked.append(text)
        return offsets_N != 0

    plain, rows, _ = laid("causal_lm", OTHERS, VocabularyMatch("overlap"))
    found, _, _ = laid("causal_lm", OTHERS, VocabularyMatch("overlap", find_comparable=find_comparable))
    begins = torch.from_numpy(rows.extra["offsets_N"][rows.find_units([2, 0])] == 0)
    assert asked == [TARGETS[2], TARGETS[0]] and plain.covered_MN[0][begins].any()
    assert torch.equal(found.covered_MN[0], plain.covered_MN[0] & ~begins)


def test_a_teacher_that_was_asked_for_nothing_covers_nothing() -> None:
    task, tokenizer, _ = made("causal_lm")
    rows = task.encode(tokenizer, batch())
    encoded = task.collate(rows, [0])
    silent = AnswerSlots.empty("t", 1)
    offsets = rows.extra["offsets_N"][rows.find_units([0])]
    units = StudentUnits(encoded.labels_N, encoded.counts_B, ("en",), offsets_N=offsets)
    signals = lay_out_answers([silent], [None], units, [VocabularyMatch("same")])
    assert not signals.covered_MN.any()
    from raykd.distill.objective import Objective

    objective = Objective.model_validate({"alpha": 0.5, "temperature": 1.0})
    logits = torch.zeros(len(units.labels_N), len(tokenizer), requires_grad=True)
    counts = objective.counts(units.labels_N, signals)
    result = objective.evaluate(logits, units.labels_N, signals, 0.0, counts)
    assert counts.uncovered == len(units.labels_N) and float(result.loss) == pytest.approx(
        np.log(len(tokenizer)), rel=1e-5
    )
    assert SimpleNamespace(**result.sums).hard > 0
