"""Heads of every student: made, saved, loaded, refused, started from a checkpoint of another task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd import models
from raykd.errors import ModelError
from raykd.models import (
    DecoderStudent,
    EncoderDecoderStudent,
    LinearStudent,
    LSTMStudent,
    PretrainedStudent,
    Student,
    TextModel,
    TransformerStudent,
)

TAGS = ("O", "B-PER", "I-PER")
TEXTS = ["Anna Smith lives in Paris", "安娜住在巴黎，真好", "où habite Anna ?", "hm"]
PAIRS = ["She moved in 2019", "她很喜欢那里", "elle habite à Paris", "no"]
STUDENTS: dict[str, Student] = {
    "bert": TransformerStudent(
        layers=2, hidden=16, heads=2, vocab_size=300, max_positions=64, lowercase=False
    ),
    "distilbert": TransformerStudent(
        architecture="distilbert", layers=2, hidden=16, vocab_size=300, max_positions=64
    ),
    "lstm": LSTMStudent(embedding=12, hidden=8, vocab_size=300),
    "llama": DecoderStudent(layers=2, hidden=16, heads=2, vocab_size=600, max_positions=64),
    "gpt2": DecoderStudent(
        architecture="gpt2", layers=3, hidden=16, heads=2, vocab_size=600, max_positions=64
    ),
    "encoder_decoder": EncoderDecoderStudent(layers=2, hidden=16, heads=2, vocab_size=600, max_positions=64),
}
OF_TEXTS = {"classification": 3, "multi_label": 3, "regression": 1, "embedding": 16}
"""Outputs of heads for whole texts."""
COMBINATIONS = [(name, head) for name, student in STUDENTS.items() for head in sorted(student.tasks)]


def made(name: str, head: str, seed: int = 0) -> TextModel:
    student = STUDENTS[name]
    tokenizer = student.fit_tokenizer(TEXTS + PAIRS)
    labels = TAGS if head in models.LABELLED else ()
    model = student.build(tokenizer, labels, seed, head=head).eval()
    return TextModel(model, tokenizer, labels, kind=student.kind, task=head, max_length=32)


def outputs(text_model: TextModel, extra: int = 0) -> tuple[dict[str, torch.Tensor], Any]:
    """The inputs of all texts, with pairs where they are contexts, and the model's answer."""
    pairs = PAIRS if text_model.task == "question_answering" else None
    encoded = text_model.tokenizer(TEXTS, pairs, truncation=True, max_length=32)
    width = max(len(ids) for ids in encoded["input_ids"]) + extra
    inputs = {
        name: torch.tensor([row + [0] * (width - len(row)) for row in rows]) for name, rows in encoded.items()
    }
    if text_model.task == "seq2seq":
        inputs["decoder_input_ids"] = torch.arange(1, 9).view(4, 2)
    with torch.no_grad():
        return inputs, text_model.model(**inputs)


def answered(text_model: TextModel, extra: int = 0) -> torch.Tensor:
    """``[B, L, C]`` (for classification ``[B, C]``) of real tokens; padding is zero."""
    inputs, out = outputs(text_model, extra)
    if text_model.task == "question_answering":
        logits = torch.stack([out.start_logits, out.end_logits], dim=2)
    else:
        logits = out.logits
    if text_model.task in (*OF_TEXTS, "seq2seq"):
        return logits
    length = inputs["attention_mask"].sum(dim=1).max()
    return (logits * inputs["attention_mask"][:, :, None])[:, :length]


@pytest.mark.parametrize(("name", "head"), COMBINATIONS)
def test_each_head_gives_its_shape_and_padding_changes_nothing(name: str, head: str) -> None:
    text_model = made(name, head)
    logits = answered(text_model)
    if head in OF_TEXTS:
        assert logits.shape == (4, OF_TEXTS[head])
    elif head in models.LANGUAGE:
        assert logits.shape[0] == 4 and logits.shape[2] == len(text_model.tokenizer)
    else:
        assert logits.shape[0] == 4 and logits.shape[2] == (3 if head == "token_classification" else 2)
    assert torch.allclose(logits, answered(text_model, extra=5), atol=1e-5)


@pytest.mark.parametrize(("name", "head"), COMBINATIONS)
def test_saved_and_loaded_is_the_same_model(name: str, head: str, tmp_path: Path) -> None:
    before = made(name, head)
    path = models.save_model(before, tmp_path / "model")
    after = models.load_model(path)
    assert torch.equal(answered(before), answered(after))
    assert (after.task, after.labels, after.kind) == (head, before.labels, before.kind)
    assert models.fingerprint(before) == models.fingerprint(path) == models.fingerprint(after)
    assert models.fingerprint(made(name, head, seed=1)) != models.fingerprint(before)
    assert models.read_labels(path) == before.labels == models.inspect_directory(path).labels
    (path / "raykd.json").unlink()  # as transformers would have written it
    assert models.inspect_directory(path).task == head
    assert models.load_model(path, head=head).task == models.load_model(path).task == head
    assert models.read_labels(path) == before.labels
    wrong = "question_answering" if head != "question_answering" else "token_classification"
    with pytest.raises(ModelError, match=wrong) as caught:
        models.load_model(path, head=wrong)
    assert head in str(caught.value) and "fine-tuned" in str(caught.value)


@pytest.mark.parametrize(("name", "head"), COMBINATIONS)
def test_a_checkpoint_goes_on_as_it_is(name: str, head: str, tmp_path: Path) -> None:
    before = made(name, head)
    student = PretrainedStudent(path=str(models.save_model(before, tmp_path / "model")))
    model = student.build(student.fit_tokenizer([]), before.labels, 5, head=head).eval()
    again = TextModel(model, student.fit_tokenizer([]), before.labels, task=head)
    assert torch.equal(answered(before), answered(again))


@pytest.mark.parametrize("name", ["bert", "distilbert", "lstm"])
@pytest.mark.parametrize("head", ["token_classification", "question_answering"])
def test_a_checkpoint_of_another_task_gives_its_encoder_and_a_head_drawn_by_seed(
    name: str, head: str, tmp_path: Path
) -> None:
    before = made(name, "classification")
    student = PretrainedStudent(path=str(models.save_model(before, tmp_path / "model")))
    labels = TAGS if head == "token_classification" else ()
    first, same, other = (student.build(None, labels, seed, head=head).state_dict() for seed in (1, 1, 2))
    key = "classifier.weight" if head == "token_classification" else "qa_outputs.weight"
    assert torch.equal(first[key], same[key]) and not torch.equal(first[key], other[key])
    old = before.model.state_dict()
    assert key not in old or not torch.equal(first[key], old[key])
    drawn = ("classifier", "qa_outputs", "alignment", "matching", "summary", "asking")
    kept = [k for k in first if k.split(".")[0] not in drawn]
    assert kept and all(torch.equal(first[k], old[k]) for k in kept)


def test_layers_of_a_decoder_are_kept_and_count_their_places_anew(tmp_path: Path) -> None:
    before = made("gpt2", "causal_lm")
    student = PretrainedStudent(path=str(models.save_model(before, tmp_path / "model")), layers=(0, 2))
    model = student.build(None, (), 0, head="causal_lm").eval()
    assert [block.attn.layer_idx for block in model.transformer.h] == [0, 1]
    old = before.model.transformer.h[2].mlp.c_fc.weight
    assert torch.equal(model.transformer.h[1].mlp.c_fc.weight, old)
    ids = torch.arange(1, 7).view(1, 6)
    whole, halves = model(ids).logits, model(ids[:, :3], use_cache=True)
    rest = model(ids[:, 3:], past_key_values=halves.past_key_values).logits
    assert torch.allclose(whole[:, 3:], rest, atol=1e-5)


def test_a_language_models_head_is_never_made_up(tmp_path: Path) -> None:
    path = models.save_model(made("bert", "classification"), tmp_path / "model")
    with pytest.raises(ModelError, match="causal_lm"):
        PretrainedStudent(path=str(path)).build(None, (), 0, head="causal_lm")


@pytest.mark.parametrize(
    ("student", "head"),
    [
        (LinearStudent(buckets=16), "question_answering"),
        (STUDENTS["bert"], "causal_lm"),
        (STUDENTS["lstm"], "seq2seq"),
        (STUDENTS["llama"], "classification"),
        (STUDENTS["encoder_decoder"], "causal_lm"),
    ],
)
def test_a_kind_refuses_what_it_cannot_learn(student: Student, head: str) -> None:
    assert head not in student.tasks
    with pytest.raises(ModelError, match=student.kind) as caught:
        student.build(student.fit_tokenizer(TEXTS), ("a", "b"), 0, head=head)
    assert head in str(caught.value) and sorted(student.tasks)[0] in str(caught.value)


def test_heads_without_labels_refuse_labels(tmp_path: Path) -> None:
    for name, head in (("llama", "causal_lm"), ("lstm", "question_answering")):
        with pytest.raises(ModelError, match="no labels"):
            STUDENTS[name].build(STUDENTS[name].fit_tokenizer(TEXTS), TAGS, 0, head=head)
    spans = made("lstm", "question_answering")
    named = TextModel(spans.model, spans.tokenizer, models.SPAN, kind="lstm", task="question_answering")
    assert models.load_model(models.save_model(named, tmp_path / "model")).labels == ()
    with pytest.raises(ModelError, match="labels"):
        models.save_model(
            TextModel(spans.model, spans.tokenizer, TAGS, task="question_answering"), tmp_path / "no"
        )


def test_lstm_losses_are_those_of_transformers() -> None:
    for name in ("lstm", "bert"):
        tagger, reader = made(name, "token_classification"), made(name, "question_answering")
        inputs, out = outputs(tagger)
        labels = torch.where(inputs["attention_mask"] == 1, inputs["input_ids"] % 3, -100)
        loss = tagger.model(**inputs, labels=labels).loss
        wanted = torch.nn.functional.cross_entropy(out.logits[labels >= 0], labels[labels >= 0])
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
        inputs, out = outputs(reader)
        starts, ends = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 2, 0])
        loss = reader.model(**inputs, start_positions=starts, end_positions=ends).loss
        both = [
            torch.nn.functional.cross_entropy(*x)
            for x in ((out.start_logits, starts), (out.end_logits, ends))
        ]
        assert loss.item() == pytest.approx(sum(both).item() / 2, rel=1e-5)


def test_what_a_head_is_is_read_from_json_alone(tmp_path: Path) -> None:
    known = {
        "GPT2LMHeadModel": "causal_lm",
        "Qwen2ForCausalLM": "causal_lm",
        "BertForTokenClassification": "token_classification",
        "XLNetForQuestionAnsweringSimple": "question_answering",
        "LlavaForConditionalGeneration": None,
        "BertModel": None,
    }
    for architecture, head in known.items():
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
        assert models.inspect_directory(tmp_path).task == head
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["MarianMTModel"], "is_encoder_decoder": True})
    )
    info = models.inspect_directory(tmp_path)
    assert (info.task, info.labels) == ("seq2seq", ())


def test_the_model_card_names_the_hubs_pipeline(tmp_path: Path) -> None:
    for name, head, tag in (
        ("lstm", "token_classification", "token-classification"),
        ("lstm", "question_answering", "question-answering"),
        ("llama", "causal_lm", "text-generation"),
    ):
        path = models.save_model(made(name, head), tmp_path / head)
        assert f"pipeline_tag: {tag}\n" in (path / "README.md").read_text()
