"""An adapter for each language beside one base: what a row goes through, what is saved, and who can load it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raykd import models
from raykd.config import ModelTeacher, RunConfig, overlay
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.driver.gold_labels import check_gold_labels
from raykd.driver.loop import make_task_model, save_student
from raykd.errors import ConfigError, DataError, ModelError
from raykd.models import PretrainedStudent
from raykd.models.starts.heads import set_start
from raykd.models.tuning import LoRA
from raykd.networks.routing import AdapterRouter, name_adapter
from raykd.preflight.model_check import look_at_teacher
from raykd.scoring.model import Model
from raykd.student.evaluate import answer_rows
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import fit_tokenizer, prepare_rows
from raykd.tasks import build_task
from raykd.text.batch import TextBatch
from raykd.text.buckets import make_buckets, plan_passes
from raykd.text.tokens import ADAPTER_IDS, name_adapters
from tests.fakes import LABELS, save_transformer
from tests.worlds import rows, run_config, source

pytest.importorskip("peft")
TRAIN, HELD = rows(160, 1), rows(60, 2, unlabelled=0.0)
LANGUAGES = ("en", "fr", "zh")
TEXT = "a good room and awful food"
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder as plain transformers saves it: without a head, and without a pooler."""
    folder = save_transformer(tmp_path_factory.mktemp("models") / "whole", hidden=16, layers=2)
    whole = models.load_model(folder)
    whole.model.bert.pooler = None
    whole.model.bert.save_pretrained(str(folder.parent / "base"))
    whole.tokenizer.save_pretrained(str(folder.parent / "base"))
    return folder.parent / "base"


def make_config(base: Path, tuning: dict[str, Any] | None = None, **train: Any) -> RunConfig:
    config = run_config({"alpha": 0.5}, **{"steps": 6, "learning_rate": 0.02, "evaluations": 1, **train})
    own = {"kind": "lora", "rank": 4, "by": "language", **(tuning or {})}
    return config.model_copy(update={"student": PretrainedStudent(path=str(base), tuning=own)})


def make_loop(config: RunConfig, train: Rows = TRAIN, held: Rows = HELD, **options: Any) -> TrainingLoop:
    tokenizer = fit_tokenizer(config.student, [(config.task, train)])
    prepared = prepare_rows(config, train, held, tokenizer)
    return TrainingLoop(config, prepared, make_task_model(config, tokenizer), source(config), **options)


def in_languages(whole: Rows, *languages: str) -> Rows:
    return whole.select(np.isin(whole.languages, languages))


def read_weights(loop: TrainingLoop, number: int | None = None, *, only: str = "default") -> Weights:
    """The weights of one adapter and its head by names that other adapters share; None is a run's only one."""
    name = only if number is None else name_adapter(number)
    named = {n.replace(name, "*"): p for n, p in loop.engine.module.named_parameters() if f".{name}" in n}
    return {n: p.detach().clone() for n, p in named.items()}


def is_equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def digest(loop: TrainingLoop) -> str:
    frozen = [p for _, p in sorted(loop.engine.module.named_parameters()) if not p.requires_grad]
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in frozen)).hexdigest()


@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.nightly)])
def test_frozen_weights_are_counted_once_and_stay_bit_for_bit(base: Path, kind: str) -> None:
    loop, alone = (
        make_loop(make_config(base, {"kind": kind})),
        make_loop(make_config(base, {"by": None, "kind": kind})),
    )

    def count(loop: TrainingLoop, *, trained: bool) -> int:
        return sum(p.numel() for p in loop.engine.module.parameters() if p.requires_grad is trained)

    assert count(loop, trained=False) == count(alone, trained=False)
    assert count(loop, trained=True) == 3 * count(alone, trained=True)
    before, starts = digest(loop), [read_weights(loop, at) for at in range(3)]
    assert is_equal(starts[0], starts[1]) and is_equal(starts[1], starts[2])
    loop.run()
    ends = [read_weights(loop, at) for at in range(3)]
    assert digest(loop) == before
    for at in range(3):
        assert all(not torch.equal(starts[at][n], ends[at][n]) for n in starts[at])
        assert all(not torch.equal(ends[at][n], ends[at - 1][n]) for n in starts[at])


@pytest.mark.parametrize("tuning", [{}, {"kind": "dora", "dropout": 0.3}])
def test_rows_of_one_language_train_its_adapter_as_a_run_with_one_adapter(
    base: Path, tuning: dict[str, Any]
) -> None:
    """Also beside an adapter that never has a row: weight decay alone moves it."""
    english, held = in_languages(TRAIN, "en"), in_languages(HELD, "en")
    alone = make_loop(make_config(base, {**tuning, "by": None}, batch_size=16), english, held)
    routed = make_loop(make_config(base, tuning, batch_size=16), english, held)
    tokenizer_of_both = fit_tokenizer(routed.config.student, [(routed.config.task, TRAIN)])
    prepared = prepare_rows(routed.config, english, held, tokenizer_of_both)
    student = make_task_model(routed.config, tokenizer_of_both)
    beside = TrainingLoop(routed.config, prepared, student, source(routed.config))
    start = read_weights(beside, 1)
    for loop in (alone, routed, beside):
        loop.run()
    assert is_equal(read_weights(alone), read_weights(routed, 0))
    assert is_equal(read_weights(alone), read_weights(beside, 0))
    shrunk = (1 - 0.02 * 0.1) ** 6  # learning rate, weight decay, steps
    for name, weight in read_weights(beside, 1).items():
        assert torch.allclose(weight, start[name] * (shrunk if weight.ndim >= 2 else 1), atol=1e-6), name


def test_a_row_goes_through_its_own_adapter_alone_bit_for_bit(base: Path) -> None:
    """Outputs and gradients in a mixed batch are those of a batch of the language's rows alone."""
    loop = make_loop(make_config(base))
    loop.run()
    module, task, tokens = loop.engine.module.eval(), loop.config.task, loop.trainer.tokens
    chosen = [TRAIN.languages.index(x) for x in ("en", "zh", "en", "fr", "zh")] + [5, 6, 7]

    def run(picked: Sequence[int]) -> tuple[torch.Tensor, list[Weights]]:
        encoded = task.collate(tokens, picked, loop.trainer.padding)
        module.zero_grad()
        logits = task.gather(encoded.run(module), encoded)
        logits.square().sum().backward()
        return logits.detach(), [
            {
                n: p.grad.clone()
                for n, p in module.named_parameters()
                if name_adapter(at) in n and p.grad is not None
            }
            for at in range(3)
        ]

    mixed, gradients = run(chosen)
    for at, language in enumerate(LANGUAGES):
        own = [i for i in chosen if TRAIN.languages[i] == language]
        logits, alone = run(own)
        assert torch.equal(logits, mixed[[chosen.index(i) for i in own]])
        assert is_equal(alone[at], gradients[at]) and gradients[at]
        assert not alone[at - 1]


def test_no_pass_of_scoring_and_prediction_mixes_adapters_and_rows_keep_their_order(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mixed pass costs a pass for each of its languages, with few rows each."""
    loop = make_loop(make_config(base))
    loop.run()
    trainer, module = loop.trainer, loop.engine.module.eval()
    held = trainer.prepared.validation_tokens
    alone = [
        answer_rows(module, trainer.task, held, [at], trainer.device, trainer.padding).logits_NC
        for at in range(len(HELD))
    ]
    passes: list[int] = []
    run = AdapterRouter._run
    monkeypatch.setattr(
        AdapterRouter,
        "_run",
        lambda self, number, inputs: passes.append(number) or run(self, number, inputs),
    )
    picked = list(reversed(range(len(HELD))))
    together = answer_rows(module, trainer.task, held, picked, trainer.device, trainer.padding)
    np.testing.assert_allclose(together.logits_NC, np.concatenate(alone)[::-1], atol=1e-5)
    assert passes == sorted(passes) and set(passes) == {0, 1, 2}, "one adapter after the other"

    save_student(loop, tmp_path / "student")
    student, texts = Model.load(tmp_path / "student"), HELD.texts[:30]
    mixed = [{"text": text, "lang": lang} for text, lang in zip(texts, HELD.languages, strict=False)]
    singly = [answer["probabilities"] for row in mixed for answer in student.predict([row])]
    for answer, expected in zip(student.predict(mixed), singly, strict=True):
        assert answer["probabilities"] == pytest.approx(expected, abs=1e-5)
    passes.clear()
    student.predict(mixed)  # its self-test, which pads rows with any others, was made before
    assert passes == sorted(passes) and set(passes) == {0, 1, 2}
    buckets = make_buckets(64, 0, 512)
    for part, _ in plan_passes(held, buckets):
        assert len({HELD.languages[at] for at in part}) == 1
    assert sorted(at for part, _ in plan_passes(held, buckets) for at in part) == list(range(len(HELD)))


@pytest.mark.nightly
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_accumulation_and_the_stage_of_zero_change_nothing(base: Path, stage: int) -> None:
    """Micro-batches of 3 rows often lack a language; whole batches of 24 do not."""
    whole = make_loop(make_config(base))
    parts = make_loop(make_config(base, gradient_accumulation=8, zero_stage=stage))
    for loop in (whole, parts):
        loop.run()
    expected, found = whole.engine.weights() or {}, parts.engine.weights() or {}
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        assert torch.allclose(found[name], weight, atol=2e-4), name


@pytest.mark.nightly
def test_a_resume_is_exact(base: Path, tmp_path: Path) -> None:
    config = make_config(base, evaluations=3)
    whole, first, second = (make_loop(config) for _ in range(3))
    whole.run()
    first.advance()
    first.save(tmp_path)
    second.load(tmp_path)
    second.run()
    assert all(is_equal(read_weights(whole, at), read_weights(second, at)) for at in range(3))


@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.nightly)])
def test_a_saved_adapter_answers_as_plain_peft_and_a_folder_routes_by_language(
    base: Path, tmp_path: Path, kind: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    loop = make_loop(make_config(base, {"kind": kind, "merged": True}))
    loop.run()
    save_student(loop, tmp_path / "student")
    student = Model.load(tmp_path / "student")
    answers = student.predict([{"text": TEXT, "lang": language} for language in LANGUAGES])
    teacher = ModelTeacher(name="all", languages="all", path=str(tmp_path / "student"))
    with pytest.raises(ModelError, match="an adapter for each of several languages, and a teacher has one"):
        look_at_teacher(teacher, loop.config, tmp_path / "student")
    assert student.predict([TEXT], language="fr") == [{k: v for k, v in answers[1].items() if k != "lang"}]
    inputs = AutoTokenizer.from_pretrained(str(base))(TEXT, return_tensors="pt")
    for language, answer in zip(LANGUAGES, answers, strict=True):
        whole = AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=len(LABELS))
        theirs = PeftModel.from_pretrained(whole, str(tmp_path / "student/adapters" / language)).eval()
        merged = AutoModelForSequenceClassification.from_pretrained(
            str(tmp_path / "student/merged" / language)
        )
        alone = Model.load(tmp_path / "student/adapters" / language).predict([TEXT])[0]
        with torch.no_grad():
            for model in (theirs, merged.eval()):
                expected = model(**inputs).logits.softmax(-1)[0].tolist()
                assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
        assert alone["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
    assert answers[0]["probabilities"] != answers[1]["probabilities"]
    for lost in ({"text": TEXT, "lang": "de"}, {"text": TEXT}):
        with pytest.raises(DataError, match="an adapter for each of its languages") as caught:
            student.predict([lost])
        assert "one of en, fr, zh" in str(caught.value)


def test_adapters_that_plain_peft_saved_are_served_together(base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    expected = {}
    for seed, language in enumerate(LANGUAGES):
        torch.manual_seed(seed)
        whole = AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=2)
        made = get_peft_model(
            whole, LoraConfig(task_type="SEQ_CLS", modules_to_save=["pooler"], init_lora_weights=False)
        )
        made.save_pretrained(str(tmp_path / language))
        expected[language] = made.eval()
    (tmp_path / "adapters.json").write_text(json.dumps({language: language for language in LANGUAGES}))
    model = models.load_model(tmp_path)
    inputs = model.tokenizer(TEXT, return_tensors="pt")
    assert models.fingerprint(tmp_path) != models.fingerprint(tmp_path / "en")
    for at, language in enumerate(LANGUAGES):
        ids = torch.full_like(inputs["input_ids"], at)
        with torch.no_grad():
            found = model.model(**inputs, **{ADAPTER_IDS: ids}).logits
            assert torch.allclose(found, expected[language](**inputs).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"features": [{"kind": "hidden_mse"}]}}, "objective.features"),
        ({"train": {"zero_stage": 3}}, "ZeRO 3"),
        ({"train": {"adversarial": {"kind": "fgm"}}}, "train.adversarial"),
        ({"student": {"language_codes": {"en": "en_XX"}}}, "language_codes"),
        ({"student": {"layers": [0]}}, "which layers changes"),
    ],
)
def test_what_no_adapter_of_a_language_goes_with_is_refused_by_name(
    base: Path, changes: dict[str, Any], message: str
) -> None:
    tree = make_config(base).model_dump(mode="json")
    with pytest.raises((ConfigError, ValueError), match=message):
        RunConfig.model_validate(overlay(tree, changes))


def test_a_language_without_training_rows_is_refused_before_the_run(base: Path) -> None:
    data = Dataset(train=in_languages(TRAIN, "en", "zh"), validation=HELD, test=None, form="text")
    with pytest.raises(DataError, match="one would learn nothing") as caught:
        check_gold_labels(make_config(base), data)
    assert "rows of fr in data.validation" in str(caught.value)


@pytest.mark.parametrize("kind", ["question_answering", "token_classification", "ranking"])
def test_windows_words_and_candidates_carry_the_adapter_of_their_row(base: Path, kind: str) -> None:
    tokenizer = name_adapters(models.load_tokenizer(base), LANGUAGES)
    batch = TextBatch(
        ids=("a", "b"),
        texts=("which food", "good room"),
        languages=("zh", "fr"),
        labels_B=np.zeros(2, dtype=np.int64),
        pairs=(" ".join([TEXT] * 20), TEXT) if kind == "question_answering" else None,
        words=(((0, 5), (6, 10)), ((0, 4), (5, 9))) if kind == "token_classification" else None,
        candidates=(("food", "room"), ("room",)) if kind == "ranking" else None,
    )
    settings = {"stride": 8} if kind == "question_answering" else {}
    rows = build_task({"kind": kind, "max_length": 32, **settings}).encode(tokenizer, batch)
    counts = np.diff(rows.sequences_B1) if rows.sequences_B1 is not None else np.ones(2, dtype=int)
    found = [set(ids.tolist()) for ids in rows.fields[ADAPTER_IDS]]
    assert found == [{2}] * int(counts[0]) + [{1}] * int(counts[1])
    assert [len(ids) for ids in rows.fields[ADAPTER_IDS]] == [len(ids) for ids in rows.fields["input_ids"]]
    assert kind == "token_classification" or counts[0] > 1


def test_relative_positions_of_deberta_are_routed_too(tmp_path: Path) -> None:
    """Its projections also run over positions, which are no rows: peft's own mixed batches fail there."""
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    relative = {
        "relative_attention": True,
        "share_att_key": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 4,
    }
    model = DebertaV2ForSequenceClassification(DebertaV2Config(vocab_size=50, **settings, **relative)).eval()
    LoRA(rank=2, by="language").apply(model, "classification", (), "base", ("en", "zh"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    inputs = {
        "input_ids": torch.arange(24).reshape(3, 8),
        "attention_mask": torch.ones(3, 8, dtype=torch.int64),
    }
    ids = torch.tensor([0, 1, 0])[:, None].expand(3, 8)
    with torch.no_grad():
        mixed = model(**inputs, **{ADAPTER_IDS: ids}).logits
        for i in range(3):
            alone = {name: value[i : i + 1] for name, value in inputs.items()}
            assert torch.allclose(
                model(**alone, **{ADAPTER_IDS: ids[i : i + 1]}).logits[0], mixed[i], atol=1e-6
            )
    assert not torch.allclose(mixed[0], mixed[1], atol=1e-3)


def test_the_head_of_each_language_begins_where_its_task_says(base: Path) -> None:
    student = PretrainedStudent(path=str(base), tuning=LoRA(rank=2, by="language"))
    tokenizer = name_adapters(student.load_tokenizer(), LANGUAGES)
    model = student.build(tokenizer, (), 0, "regression")
    set_start(model, 2.5)
    biases = [p.tolist() for n, p in model.named_parameters() if p.shape == (1,) and "adapter_" in n]
    assert biases == [[2.5]] * 3
