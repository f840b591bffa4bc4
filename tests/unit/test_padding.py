"""A row's answer does not depend on the rows beside it: padding by model and tokenizer, and the self-test."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from raykd.distill.signals import UNLABELLED
from raykd.errors import ModelError
from raykd.models import TextModel
from raykd.prediction.findings import compute_finding_key, load_or_test, read_finding, write_finding
from raykd.prediction.predictor import Predictor, build_unlabelled_rows
from raykd.prediction.selftest import PaddingFinding, find_padding
from raykd.pretrained.positions import count_positions
from raykd.tasks import CausalLM, Classification, QuestionAnswering, TokenClassification
from raykd.teachers.teacher import Teacher
from raykd.text.batch import TextBatch
from raykd.text.padding import RIGHT, Padding, pad_sequences, read_padding, split_passes
from tests.fakes import logits_of, model_spec

SENTENCE = "the room was bad and food awful today again good we said it here very quite not so"
WORDS = SENTENCE.split()
SPECIALS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
SIZE = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
TEXTS = [
    "good room",
    "the food was awful today and the room was bad again",
    "we said it here very quite good",
]
TASK = Classification(max_length=32)


def tokenizer(**settings: Any) -> Any:
    """A tokenizer of whole words with [CLS] and [SEP]."""
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate([*SPECIALS, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.decoder = decoders.WordPiece()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **({"pad_token": "[PAD]"} | named | settings))


def classifier(
    kind: str, tokenizing: Any = None, auto: str = "SequenceClassification", **settings: Any
) -> TextModel:
    """A random model of a family, in float32, whose weights are wide enough that every input counts."""
    import transformers

    config = transformers.AutoConfig.for_model(
        kind, vocab_size=len(SPECIALS) + len(WORDS), **({"num_labels": 2} | SIZE | settings)
    )
    torch.manual_seed(3)
    model = getattr(transformers, f"AutoModelFor{auto}").from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.4)
    return TextModel(model, tokenizing or tokenizer(), tuple(str(v) for v in model.config.id2label.values()))


def rows(texts: list[str]) -> TextBatch:
    return build_unlabelled_rows("text", texts)


def alone(model: TextModel, text: str) -> np.ndarray:
    """What plain transformers gives for one text."""
    inputs = model.tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
    taken = read_padding(model.model, model.tokenizer)
    with torch.no_grad():
        logits = model.model(**{name: value for name, value in inputs.items() if taken.takes(name)}).logits
    return logits.double().softmax(-1)[0].numpy()


FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "bert": ({}, "longest"),
    "distilbert": ({"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}, "longest"),
    "xlnet": ({"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}, "longest"),
    "fnet": ({}, "equal"),
    "convbert": ({"embedding_size": 16, "conv_kernel_size": 3, "head_ratio": 1}, "equal"),
    "gpt2": ({"n_embd": 16, "n_layer": 2, "n_head": 2, "pad_token_id": 0}, "longest"),
    "llama": ({"pad_token_id": None, "num_key_value_heads": 2}, "single"),
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_rows_beside_others_are_answered_as_plain_transformers_answers_them_alone(kind: str) -> None:
    settings, shapes = FAMILIES[kind]
    model = classifier(kind, **settings)
    found = find_padding(model, TASK, rows(TEXTS))
    assert (found.shapes, found.is_conclusive) == (shapes, True)
    assert found.side == ("left" if kind == "xlnet" else "right")
    answers = list(Predictor.of(model).predict(rows(TEXTS)))
    for text, answer in zip(TEXTS, answers, strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx(alone(model, text), abs=1e-5)


def test_a_tokenizer_that_forgets_the_mask_and_one_with_too_many_token_types_do_no_harm() -> None:
    forgetful = classifier("bert", tokenizer(model_input_names=["input_ids"]))
    assert find_padding(forgetful, TASK, rows(TEXTS)).shapes == "longest"
    one_type = classifier(
        "bert", tokenizer(model_input_names=["input_ids", "token_type_ids"]), type_vocab_size=1
    )
    pairs = build_unlabelled_rows("text", TEXTS, TEXTS[::-1])
    assert find_padding(one_type, TASK, pairs).shapes == "longest"
    assert (
        "token_type_ids"
        not in TASK.collate(TASK.encode(one_type.tokenizer, pairs), [0, 1], one_type.padding).inputs
    )


def test_the_model_says_what_padding_is_where_the_tokenizer_does_not_know() -> None:
    unaware = tokenizer(pad_token=None)
    model = classifier("gpt2", unaware, n_embd=16, n_layer=2, n_head=2, pad_token_id=4)
    assert model.padding.pad_id == 4
    assert find_padding(model, TASK, rows(TEXTS)).shapes == "longest"
    beyond = SimpleNamespace(
        config=SimpleNamespace(pad_token_id=99),
        get_input_embeddings=lambda: SimpleNamespace(num_embeddings=10),
    )
    assert read_padding(beyond, tokenizer()).pad_id == 0


def test_padding_on_the_left_moves_the_places_that_are_read() -> None:
    spec = TokenClassification(max_length=32)
    batch = build_unlabelled_rows("words", TEXTS)
    encoded = spec.encode(tokenizer(), batch)
    right, left = (spec.collate(encoded, [0, 1], Padding(side=side)) for side in ("right", "left"))
    for one in (right, left):
        ids_N = one.inputs["input_ids"][one.places_N2[:, 0], one.places_N2[:, 1]]  # type: ignore[index]
        assert tokenizer().convert_ids_to_tokens(ids_N.tolist()) == [*TEXTS[0].split(), *TEXTS[1].split()]
    assert left.inputs["input_ids"][0, 0] == 0 and right.inputs["input_ids"][0, -1] == 0


def test_question_windows_are_read_alike_on_either_side_and_in_parts_of_equal_length() -> None:
    task = QuestionAnswering(max_length=12, stride=4)
    model = classifier("bert", auto="QuestionAnswering", num_labels=2)
    batch = build_unlabelled_rows("answers", ["good", "room said"], [" ".join(WORDS), "the food was bad"])
    encoded = task.encode(model.tokenizer, batch)
    with torch.no_grad():
        one, two = (
            task.gather(padded.run(model.model), padded).softmax(-1)
            for padded in (
                task.collate(encoded, [0, 1], Padding(shapes=shapes)) for shapes in ("longest", "equal")
            )
        )
    assert torch.allclose(one, two, atol=1e-6)
    relative = classifier("bert", auto="QuestionAnswering", num_labels=2, position_embedding_type="absolute")
    assert find_padding(relative, task, batch).shapes == "longest"


@pytest.mark.parametrize("task", ["classification", "token_classification", "question_answering"])
def test_lstms_answer_alike_on_either_side_and_at_any_width(task: Any) -> None:
    import raykd.models as made

    student = made.LSTMStudent(embedding=8, hidden=8, vocab_size=120)
    labels = {"classification": ("a", "b"), "token_classification": ("O", "B-X", "I-X")}.get(task, ())
    spec = {"classification": TASK, "token_classification": TokenClassification(max_length=32)}.get(
        task, QuestionAnswering(max_length=32, stride=4)
    )
    learnt = student.fit_tokenizer([*TEXTS, "?"])
    model = TextModel(student.build(learnt, labels, 3, task), learnt, labels, kind="lstm", task=task)
    form = spec.form
    batch = build_unlabelled_rows(
        form, TEXTS if form != "answers" else ["good", "room said", "."], TEXTS if form == "answers" else None
    )
    encoded = spec.encode(learnt, batch)
    model.model.eval()

    def said(picked: list[int], padding: Padding) -> list[torch.Tensor]:
        padded = spec.collate(encoded, picked, padding)
        with torch.no_grad():
            units = spec.gather(padded.run(model.model), padded)
        return list(units.softmax(-1).split(padded.counts_B.tolist()))

    for padding in (RIGHT, Padding(side="left"), Padding(buckets=(64,)), Padding(side="left", buckets=(64,))):
        for row, one in enumerate(said([0, 1, 2], padding)):
            alone_NC = said([row], RIGHT)[0]
            assert torch.allclose(one[:, : alone_NC.shape[1]], alone_NC, atol=1e-6)


def test_parts_give_the_gradients_of_rows_that_run_alone() -> None:
    model = classifier("fnet", hidden_dropout_prob=0.0)
    encoded = TASK.encode(model.tokenizer, rows(TEXTS))
    padding = Padding(inputs=model.padding.inputs, shapes="equal")
    weight = model.model.get_input_embeddings().weight

    def gradient(picked: list[list[int]]) -> torch.Tensor:
        model.model.zero_grad()
        for part in picked:
            batch = TASK.collate(encoded, part, padding)
            TASK.gather(batch.run(model.model), batch)[:, 0].sum().backward()
        assert weight.grad is not None
        return weight.grad.clone()

    assert torch.allclose(gradient([[0, 1, 2]]), gradient([[0], [1], [2]]), atol=1e-6)


def test_buckets_decide_the_width_and_what_is_longer_keeps_its_own() -> None:
    padding = Padding(buckets=(8, 16))
    assert [padding.width(n) for n in (1, 8, 9, 16, 17)] == [8, 8, 16, 16, 17]
    targets = Padding(buckets=(8,), target_buckets=(4,))
    assert [targets.width(3, name) for name in ("labels", "decoder_input_ids", "input_ids")] == [4, 4, 8]
    encoded = TASK.encode(tokenizer(), rows(TEXTS))
    assert pad_sequences(encoded, [0], padding)["input_ids"].shape == (1, 8)
    assert pad_sequences(encoded, [0, 1], padding)["attention_mask"].sum() == encoded.lengths_B[:2].sum()
    assert pad_sequences(encoded, [0, 1], RIGHT)["input_ids"].shape[1] == encoded.lengths_B[:2].max()


def test_half_precision_hides_nothing() -> None:
    model = classifier("convbert", embedding_size=16, conv_kernel_size=3, head_ratio=1)
    model.model.to(torch.bfloat16)
    before = [weight.clone() for weight in model.model.parameters()]
    found = find_padding(model, TASK, rows(TEXTS))
    assert found.shapes == "equal" and found.padded > 1e-5
    after = list(model.model.parameters())
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(before, after, strict=True))


def test_a_precision_in_which_a_model_cannot_compute_is_refused_and_never_chosen() -> None:
    from raykd.teachers.backends.precision import choose_precision

    model = classifier("fnet")
    model.model.to(torch.bfloat16)
    with pytest.raises(ModelError, match="cannot compute in bfloat16"):
        find_padding(model, TASK, rows(TEXTS))
    assert choose_precision("auto", "fnet", "cpu").name == "float32"
    exact = finding_of("bert", torch.float32)
    rounded = finding_of("bert", torch.bfloat16)
    assert exact.rounding == 0.0 < rounded.rounding
    assert "half precision moves" in PaddingFinding("right", "longest", 0.0, 0.0, (3, 9), 0.1).describe()
    assert "half precision" not in exact.describe()


def finding_of(kind: str, dtype: torch.dtype) -> PaddingFinding:
    model = classifier(kind)
    model.model.to(dtype)
    return find_padding(model, TASK, rows(TEXTS))


def test_a_model_that_draws_at_random_is_refused() -> None:
    model = classifier("bert")
    forward = type(model.model.bert).forward

    class Noisy(type(model.model.bert)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = forward(self, *args, **kwargs)
            out.pooler_output = out.pooler_output + torch.randn_like(out.pooler_output)
            return out

    model.model.bert.__class__ = Noisy
    with pytest.raises(ModelError, match="twice"):
        find_padding(model, TASK, rows(TEXTS))


def test_rows_of_one_length_are_cut_so_that_lengths_differ() -> None:
    model = classifier("fnet")
    same = ["good room and food", "awful food was bad"]
    found = find_padding(model, TASK, rows(same))
    assert found.is_conclusive and found.shapes == "equal"
    for form, task in (
        ("words", TokenClassification(max_length=32)),
        ("target", CausalLM(max_length=32, max_target_length=8)),
    ):
        if form == "words":
            tagger = classifier("bert", auto="TokenClassification")
            assert find_padding(tagger, task, build_unlabelled_rows("words", same)).is_conclusive
    assert not find_padding(model, TASK, rows(["good"])).is_conclusive


def test_what_is_found_holds_for_rows_that_are_shorter_than_all_of_the_test() -> None:
    """Padding that reaches the first token of a short text only: one layer of convolutions, read at the first token."""
    settings = {"embedding_size": 16, "conv_kernel_size": 9, "head_ratio": 1, "num_hidden_layers": 1}
    model = classifier("convbert", **settings)
    found = find_padding(
        model, TASK, rows(["good room and food was bad", "the food was awful and the room was bad"])
    )
    assert found.shapes == "equal" and found.padded > 1e-5
    beside = found.of(model.padding)
    encoded = TASK.encode(model.tokenizer, rows(["good", " ".join(WORDS)]))
    with torch.no_grad():
        batch = TASK.collate(encoded, [0, 1], beside)
        probabilities_NC = TASK.gather(batch.run(model.model), batch).double().softmax(-1).numpy()
    assert probabilities_NC[0] == pytest.approx(alone(model, "good"), abs=1e-5)


def test_a_model_that_fails_or_answers_with_nan_is_named_and_no_traceback() -> None:
    model = classifier("yoso", use_expectation=False)  # wants a kernel that only a GPU has
    with pytest.raises(ModelError, match=r"fails at a row[\s\S]*fast_hash"):
        list(Predictor.of(model).predict(rows(TEXTS[:1])))
    broken = classifier("bert")
    with torch.no_grad():
        broken.model.classifier.weight.fill_(float("nan"))
    for texts in (TEXTS[:1], TEXTS):
        with pytest.raises(ModelError, match="NaN"):
            list(Predictor.of(broken).predict(rows(texts)))


def test_a_text_is_read_as_far_as_the_tokenizer_says_and_the_model_has_places() -> None:
    sizes = {(None, 2048): 512, (1024, 2048): 1024, (1024, 700): 700, (16, 2048): 512, (10**30, 2048): 512}
    for (said, places), wanted in sizes.items():
        learnt = tokenizer() if said is None else tokenizer(model_max_length=said)
        model = classifier("bert", learnt, max_position_embeddings=places)
        model = replace(model, positions=count_positions(model.model))
        assert Predictor.of(model).task.max_length == wanted


def test_a_finding_is_kept_by_content_and_anything_else_is_a_new_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    finding = PaddingFinding("right", "equal", 1e-8, 0.3, (4, 9))
    key = compute_finding_key("abc", "classification", 32, "float32", "cuda:1")
    assert key == compute_finding_key("abc", "classification", 32, "float32", "cuda")
    assert key != compute_finding_key("abc", "classification", 32, "bfloat16", "cuda")
    made = []
    for _ in range(2):
        assert load_or_test(key, lambda: made.append(1) or finding) == finding  # type: ignore[func-returns-value]
    assert made == [1] and read_finding(key) == finding
    kept = next((tmp_path / "cache" / "selftests").glob("*.json"))
    for bad in ("", "[]", "{}", json.dumps({**asdict(finding), "shapes": "any"})):
        kept.write_text(bad, encoding="utf-8")
        assert read_finding(key) is None
    write_finding("inconclusive", PaddingFinding("right", "longest", 0.0, 0.0, (4, 4)))
    assert read_finding("inconclusive") is None
    monkeypatch.setenv("RAYKD_CACHE", "/proc/none")
    write_finding(key, finding)
    assert read_finding(key) is None


def test_a_teacher_tests_itself_before_its_first_answer_and_refuses_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    model = classifier("fnet")
    model.model.save_pretrained(tmp_path / "fnet")
    model.tokenizer.save_pretrained(str(tmp_path / "fnet"))
    teacher = Teacher(model_spec("f", str(tmp_path / "fnet"), model.labels, TASK, dtype="float32"))
    labels = np.full(len(TEXTS), UNLABELLED)
    batch = TextBatch(tuple("abc"), tuple(TEXTS), ("en",) * 3, labels)
    said = logits_of(teacher.answer(batch))
    for i, text in enumerate(TEXTS):
        p = np.exp(said[i].astype(float)) / np.exp(said[i].astype(float)).sum()
        assert p == pytest.approx(alone(model, text), abs=1e-5)
    assert len(list((tmp_path / "cache" / "selftests").glob("*.json"))) == 1
    monkeypatch.setattr(
        "raykd.teachers.backends.model.find_padding",
        lambda *a, **k: (_ for _ in ()).throw(ModelError("twice differs")),
    )
    again = Teacher(teacher.spec)
    assert np.array_equal(logits_of(again.answer(batch)), said)  # the finding is kept
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "other"))
    with pytest.raises(ModelError, match="teacher f: twice differs"):
        Teacher(teacher.spec).answer(batch)


def test_split_passes_keeps_every_row_once() -> None:
    lengths = np.asarray([3, 50, 7, 7, 120, 1])
    assert sorted(i for part in split_passes(lengths, 100) for i in part) == list(range(6))


STUDENTS: dict[str, tuple[dict[str, Any], dict[str, Any], str, tuple[str, ...]]] = {
    "linear": ({"kind": "linear"}, {"kind": "classification"}, "SequenceClassification", ("a", "b")),
    "lstm": (
        {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 120},
        {"kind": "classification"}, "SequenceClassification", ("a", "b"),
    ),
    "transformer": (
        {"kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "vocab_size": 120},
        {"kind": "token_classification"}, "TokenClassification", ("O", "B-X", "I-X"),
    ),
    "transformer-qa": (
        {"kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "vocab_size": 120},
        {"kind": "question_answering", "stride": 4, "max_length": 32}, "QuestionAnswering", (),
    ),
    "decoder": (
        {"kind": "decoder", "layers": 1, "hidden": 16, "heads": 2, "vocab_size": 520},
        {"kind": "causal_lm", "max_length": 64, "max_target_length": 32}, "CausalLM", (),
    ),
    "encoder_decoder": (
        {"kind": "encoder_decoder", "layers": 1, "hidden": 16, "heads": 2, "vocab_size": 520},
        {"kind": "seq2seq"}, "Seq2SeqLM", (),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_saved_student_loaded_by_plain_transformers_passes_the_self_test(kind: str, tmp_path: Path) -> None:
    import transformers
    from pydantic import TypeAdapter

    from raykd.models import Student, register, save_model
    from raykd.models.lm import Headless
    from raykd.tasks import Task

    settings, asked, auto, labels = STUDENTS[kind]
    student: Any = TypeAdapter(Student).validate_python(settings)
    task: Any = TypeAdapter(Task).validate_python(asked)
    learnt = student.fit_tokenizer(TEXTS * 3)
    model = student.build(learnt, labels, 1, task.kind)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
    save_model(
        TextModel(model, learnt, labels, kind=student.kind, task=task.kind, max_length=64),
        tmp_path / "student",
    )
    register()
    loaded = getattr(transformers, f"AutoModelFor{auto}").from_pretrained(tmp_path / "student")
    form = task.form
    pairs = None if form in ("text", "words") else TEXTS[::-1]
    batch = build_unlabelled_rows(form, TEXTS, pairs)
    found = find_padding(
        TextModel(loaded, learnt, labels, task=task.kind),
        task,
        batch,
        module=Headless(loaded) if task.language else None,
    )
    assert (found.shapes, found.side, found.is_conclusive) == ("longest", "right", True)
    assert found.padded <= 1e-5
