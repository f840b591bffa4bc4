"""Every kind of student: made, saved, loaded, padded, seeded, learning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from transformers import AutoConfig, AutoModelForSequenceClassification

from raykd import models
from raykd.errors import ModelError
from raykd.models import LinearStudent, LSTMStudent, PretrainedStudent, Student, TextModel, TransformerStudent
from raykd.text.padding import pad_sequences
from raykd.text.tokens import tokenize

LABELS = ("sad", "glad", "neither")
TEXTS = [
    "a good film, really",
    "the worst meal of my life!",
    "很好的电影，我喜欢",
    "un très mauvais repas, hélas",
    "good",
    "I learned a lot in three weeks and the teacher was a delight to listen to",
]
STUDENTS = {
    "bert": TransformerStudent(layers=3, hidden=16, heads=2, vocab_size=300, max_positions=64),
    "distilbert": TransformerStudent(
        architecture="distilbert", layers=2, hidden=16, vocab_size=300, max_positions=64
    ),
    "lstm": LSTMStudent(embedding=12, hidden=8, vocab_size=300),
    "lstm_mean": LSTMStudent(embedding=12, hidden=8, layers=2, pooling="mean", vocab_size=300),
    "lstm_last": LSTMStudent(embedding=12, hidden=8, layers=2, pooling="last", vocab_size=300),
    "lstm_one_way": LSTMStudent(embedding=12, hidden=8, bidirectional=False, pooling="last", vocab_size=300),
    "linear": LinearStudent(buckets=2**12),
}


def made(student: Student, labels: tuple[str, ...] = LABELS, seed: int = 0) -> TextModel:
    """A model in evaluation mode whose weights are not zero."""
    tokenizer = student.fit_tokenizer(TEXTS)
    model = student.build(tokenizer, labels, seed).eval()
    if isinstance(student, LinearStudent):
        with torch.no_grad():
            model.weights.weight.normal_(generator=torch.Generator().manual_seed(1))
            model.bias.normal_(generator=torch.Generator().manual_seed(2))
    return TextModel(model, tokenizer, labels, kind=student.kind, max_length=32, languages=("en", "zh"))


def logits(
    text_model: TextModel, texts: list[str], pairs: list[str] | None = None, extra: int = 0
) -> torch.Tensor:
    """``[B, C]`` of one batch, padded ``extra`` further than needed."""
    rows = tokenize(text_model.tokenizer, texts, pairs, 32)
    inputs = pad_sequences(rows, range(len(texts)))
    inputs = {
        name: torch.nn.functional.pad(value, (0, extra), value=rows.pad_values[name])
        for name, value in inputs.items()
    }
    with torch.no_grad():
        return text_model.model(**inputs).logits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that a student of kind pretrained can start from."""
    return models.save_model(made(STUDENTS["bert"]), tmp_path_factory.mktemp("models") / "checkpoint")


@pytest.mark.parametrize("name", STUDENTS)
def test_saved_and_loaded_answers_exactly_the_same(name: str, tmp_path: Path) -> None:
    before = made(STUDENTS[name])
    after = models.load_model(models.save_model(before, tmp_path / "model"))
    assert torch.equal(logits(before, TEXTS), logits(after, TEXTS))
    assert torch.equal(logits(before, TEXTS, TEXTS[::-1]), logits(after, TEXTS, TEXTS[::-1]))
    assert (after.labels, after.kind, after.max_length, after.languages) == (
        LABELS,
        STUDENTS[name].kind,
        32,
        ("en", "zh"),
    )
    assert not after.model.training


def test_pretrained_continues_where_its_checkpoint_ended(checkpoint: Path, tmp_path: Path) -> None:
    student = PretrainedStudent(path=str(checkpoint))
    tokenizer = student.fit_tokenizer([])
    model = student.build(tokenizer, LABELS, 5).eval()
    mine = TextModel(model, tokenizer, LABELS, kind="pretrained")
    assert torch.equal(logits(mine, TEXTS), logits(models.load_model(checkpoint), TEXTS))
    again = models.load_model(models.save_model(mine, tmp_path / "again"))
    assert torch.equal(logits(mine, TEXTS), logits(again, TEXTS))


@pytest.mark.parametrize("labels", [("bad", "good"), ("x", "y", "z"), ("a", "b", "c", "d")])
def test_pretrained_with_other_labels_keeps_the_encoder_and_draws_a_head_by_seed(
    checkpoint: Path, labels: tuple[str, ...]
) -> None:
    student = PretrainedStudent(path=str(checkpoint))
    first, same, other = (student.build(student.fit_tokenizer([]), labels, seed) for seed in (1, 1, 2))
    old = models.load_model(checkpoint).model
    assert first.config.id2label == dict(enumerate(labels))
    assert torch.equal(first.classifier.weight, same.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert first.classifier.weight.shape[0] == len(labels)
    for name, weight in old.bert.state_dict().items():
        assert torch.equal(weight, first.bert.state_dict()[name]), name


def test_kept_layers_are_those_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    student = PretrainedStudent(path=str(checkpoint), layers=(0, 2))
    model = student.build(student.fit_tokenizer([]), LABELS, 0).eval()
    old = models.load_model(checkpoint).model
    assert model.config.num_hidden_layers == len(model.bert.encoder.layer) == 2
    for kept, taken in zip(model.bert.encoder.layer, (0, 2), strict=True):
        for name, weight in old.bert.encoder.layer[taken].state_dict().items():
            assert torch.equal(weight, kept.state_dict()[name])
    thin = TextModel(model, student.fit_tokenizer([]), LABELS)
    assert torch.equal(
        logits(thin, TEXTS), logits(models.load_model(models.save_model(thin, tmp_path / "thin")), TEXTS)
    )
    with pytest.raises(ModelError, match="3 layers"):
        PretrainedStudent(path=str(checkpoint), layers=(0, 3)).build(student.fit_tokenizer([]), LABELS, 0)


def test_layers_of_distilbert_can_be_taken(tmp_path: Path) -> None:
    path = models.save_model(made(STUDENTS["distilbert"]), tmp_path / "model")
    student = PretrainedStudent(path=str(path), layers=(1,))
    model = student.build(student.fit_tokenizer([]), LABELS, 0).eval()
    assert len(model.distilbert.transformer.layer) == model.config.n_layers == 1


@pytest.mark.parametrize("name", STUDENTS)
def test_padding_changes_nothing(name: str) -> None:
    text_model = made(STUDENTS[name])
    together = logits(text_model, TEXTS)
    assert torch.allclose(together, logits(text_model, TEXTS, extra=9), atol=1e-5, rtol=0)
    for i, text in enumerate(TEXTS):
        assert torch.allclose(together[i], logits(text_model, [text])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_lstm_is_torchs_lstm_over_a_packed_sequence(bidirectional: bool) -> None:
    text_model = made(
        LSTMStudent(embedding=12, hidden=8, layers=2, pooling="last", bidirectional=bidirectional)
    )
    model = text_model.model
    reference = torch.nn.LSTM(12, 8, num_layers=2, batch_first=True, bidirectional=bidirectional)
    weights = {}
    for at in range(2):
        for suffix, stack in (("", model.forward_layers), ("_reverse", model.backward_layers)):
            if suffix and not bidirectional:
                continue
            for name, weight in stack[at].state_dict().items():
                weights[name.replace("_l0", f"_l{at}{suffix}")] = weight
    reference.load_state_dict(weights)
    rows = tokenize(text_model.tokenizer, TEXTS, None, 32)
    inputs = pad_sequences(rows, range(len(TEXTS)))
    with torch.no_grad():
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            model.embedding(inputs["input_ids"]), torch.as_tensor(rows.lengths_B), True, enforce_sorted=False
        )
        _, (last, _) = reference(packed)
        top = torch.cat([last[-2], last[-1]], dim=1) if bidirectional else last[-1]
        assert torch.allclose(model(**inputs).logits, model.classifier(top), atol=1e-6)


def test_linear_is_what_its_formula_says() -> None:
    text_model = made(STUDENTS["linear"])
    ids = text_model.tokenizer([TEXTS[0]], truncation=True, max_length=32)["input_ids"][0]
    weight, bias = text_model.model.weights.weight, text_model.model.bias
    wanted = weight[torch.as_tensor(ids)].sum(dim=0) / len(ids) ** 0.5 + bias
    assert torch.allclose(logits(text_model, [TEXTS[0]])[0], wanted, atol=1e-5)
    assert torch.equal(logits(text_model, [" "])[0], bias)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_seed_gives_one_model_and_the_global_generators_are_left_alone(name: str) -> None:
    student = STUDENTS[name]
    tokenizer = student.fit_tokenizer(TEXTS)
    torch.manual_seed(7)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = student.build(tokenizer, LABELS, 3)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpys, np.random.get_state()[1])
    torch.manual_seed(8)
    second, third = student.build(tokenizer, LABELS, 3), student.build(tokenizer, LABELS, 4)
    for weight, same in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(weight, same)
    differs = any(not torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))
    assert differs == (student.kind != "linear")


def test_built_models_start_as_their_docstrings_say() -> None:
    lstm = STUDENTS["lstm"].build(STUDENTS["lstm"].fit_tokenizer(TEXTS), LABELS, 0)
    gates = lstm.forward_layers[0].bias_ih_l0 + lstm.forward_layers[0].bias_hh_l0
    assert torch.equal(gates, torch.tensor([0.0] * 8 + [1.0] * 8 + [0.0] * 16))
    assert torch.equal(lstm.embedding.weight[0], torch.zeros(12))
    linear = LinearStudent(buckets=64).build(LinearStudent(buckets=64).fit_tokenizer([]), LABELS, 0)
    assert all(torch.equal(weight, torch.zeros_like(weight)) for weight in linear.parameters())
    assert models.count_parameters(linear) == 64 * 3 + 3


@pytest.mark.parametrize("name", [*STUDENTS, "pretrained"])
def test_yaml_gives_back_every_member(name: str, checkpoint: Path) -> None:
    students = {**STUDENTS, "pretrained": PretrainedStudent(path=str(checkpoint), layers=(0, 1))}
    adapter: TypeAdapter[Student] = TypeAdapter(Student)
    written = yaml.safe_dump(students[name].model_dump(mode="json"))
    assert adapter.validate_python(yaml.safe_load(written)) == students[name]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "linear", "char_ngrams": None, "word_ngrams": None},
        {"kind": "linear", "char_ngrams": [3, 2]},
        {"kind": "linear", "char_ngrams": [0, 2]},
        {"kind": "transformer", "hidden": 10, "heads": 3},
        {"kind": "pretrained", "path": "x", "layers": [0, 0]},
        {"kind": "pretrained", "path": ""},
        {"kind": "lstm", "pooling": "min"},
        {"kind": "lstm", "widht": 1},
        {"kind": "unheard of"},
    ],
)
def test_what_cannot_work_is_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Student).validate_python(wrong)


@pytest.mark.parametrize("labels", [("one",), ("a", "a"), ()])
def test_labels_must_tell_classes_apart(labels: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="labels"):
        LinearStudent(buckets=16).build(LinearStudent(buckets=16).fit_tokenizer([]), labels, 0)


def test_auto_classes_know_the_kinds_of_raykd(tmp_path: Path) -> None:
    models.register()
    for name, model_type in (("linear", "raykd_linear"), ("lstm", "raykd_lstm")):
        text_model = made(STUDENTS[name])
        path = models.save_model(text_model, tmp_path / name)
        assert AutoConfig.from_pretrained(path).model_type == model_type
        loaded = AutoModelForSequenceClassification.from_pretrained(path)
        inputs = pad_sequences(tokenize(text_model.tokenizer, TEXTS, None, 32), range(len(TEXTS)))
        with torch.no_grad():
            out = loaded(**inputs, labels=torch.tensor([0, 1, 2, 0, 1, 2]))
        assert torch.equal(out.logits, logits(text_model, TEXTS))
        wanted = torch.nn.functional.cross_entropy(out.logits, torch.tensor([0, 1, 2, 0, 1, 2]))
        assert float(out.loss) == pytest.approx(float(wanted))


@pytest.mark.parametrize("name", ["linear", "lstm"])
def test_a_student_learns_a_toy_task(name: str) -> None:
    random = np.random.default_rng(0)
    words = {"a": ["good", "fine", "好"], "b": ["bad", "poor", "坏"]}
    truth = [str(random.choice(["a", "b"])) for _ in range(120)]
    texts = [
        " ".join(random.permutation([str(random.choice(words[y])), "it", "was", f"n{i}"]))
        for i, y in enumerate(truth)
    ]
    student = (
        LinearStudent(buckets=2**12)
        if name == "linear"
        else LSTMStudent(embedding=16, hidden=16, vocab_size=300)
    )
    tokenizer = student.fit_tokenizer(texts)
    model = student.build(tokenizer, ("a", "b"), 0).train()
    rows, gold = tokenize(tokenizer, texts, None, 32), torch.tensor([("a", "b").index(y) for y in truth])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for step in range(200):
        picked = [(step * 16 + i) % 120 for i in range(16)]
        loss = model(**pad_sequences(rows, picked), labels=gold[picked]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = model.eval()(**pad_sequences(rows, range(120))).logits.argmax(dim=1) == gold
    assert float(right.float().mean()) > 0.95


def test_wordpieces_are_the_same_in_every_process() -> None:
    script = (
        "import hashlib, json\nfrom raykd.models import LSTMStudent\n"
        f"t = LSTMStudent(vocab_size=150).fit_tokenizer({TEXTS!r})\n"
        "print(hashlib.sha256(json.dumps(sorted(t.get_vocab().items())).encode()).hexdigest())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    seen = {
        subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(seen) == 1


def test_wordpieces_split_chinese_and_keep_accents() -> None:
    tokenizer = TransformerStudent(vocab_size=300).fit_tokenizer(TEXTS)
    assert tokenizer.pad_token_id == 0 and len(tokenizer) <= 300
    encoded = tokenizer(["Très 很好!"], ["good"], truncation=True, max_length=32)
    pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
    assert [p for p in pieces if p in "很好!"] == ["很", "好", "!"]
    assert "è" in "".join(pieces)
    assert encoded["token_type_ids"][0][-2:] == [1, 1] and encoded["token_type_ids"][0][0] == 0
    assert "token_type_ids" not in LSTMStudent(vocab_size=300).fit_tokenizer(TEXTS)(["good"])
    cased = TransformerStudent(vocab_size=300, lowercase=False).fit_tokenizer(TEXTS)
    assert cased(["I"])["input_ids"] != cased(["i"])["input_ids"]
    with pytest.raises(ModelError, match="no words"):
        TransformerStudent().fit_tokenizer(["", "  "])


def test_importing_the_package_imports_neither_torch_nor_transformers() -> None:
    script = "import json, sys, raykd.models; print(json.dumps([m in sys.modules for m in ('torch', 'transformers')]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) == [False, False]
