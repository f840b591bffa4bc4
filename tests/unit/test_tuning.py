"""Adapters and heads: what is trained, what stays bit for bit, what is saved, and who can load it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from raykd import models
from raykd.config import RunConfig, TrainConfig
from raykd.driver.loop import save_student
from raykd.errors import ModelError
from raykd.models import PretrainedStudent
from raykd.models.bases import inspect_base
from raykd.models.tuning import LoRA
from raykd.preflight.disk import compute_disk
from raykd.preflight.plan import describe_sizes
from raykd.student.engine import Engine
from raykd.student.loop import TrainingLoop
from tests.fakes import LABELS, save_transformer
from tests.families import tiny
from tests.worlds import build_loop, run_config

pytest.importorskip("peft")
HIDDEN, LAYERS, RANK = 16, 2, 4
MATRICES = 2 * LAYERS
"""Adapted matrices: peft takes query and value of each layer of a BERT."""
HEAD = HIDDEN * len(LABELS) + len(LABELS)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An encoder as plain transformers saves it: without a head, and without a pooler."""
    folder = save_transformer(tmp_path / "whole", hidden=HIDDEN, layers=LAYERS)
    whole = models.load_model(folder)
    encoder = whole.model.bert
    encoder.pooler = None
    encoder.save_pretrained(str(tmp_path / "base"))
    whole.tokenizer.save_pretrained(str(tmp_path / "base"))
    return tmp_path / "base"


def tuned(base: Path, tuning: dict[str, Any] | None, **train: Any) -> RunConfig:
    config = run_config({"alpha": 1}, teachers=False, steps=6, learning_rate=0.02, **train)
    return config.model_copy(update={"student": PretrainedStudent(path=str(base), tuning=tuning)})


def digest(weights: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(weights[n].numpy().tobytes() for n in sorted(weights))).hexdigest()


def frozen(loop: TrainingLoop) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in loop.engine.module.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize(
    ("kind", "added"),
    [
        ("lora", MATRICES * RANK * 2 * HIDDEN),
        ("dora", MATRICES * (RANK * 2 * HIDDEN + HIDDEN)),  # and a length for each output
        ("head", 0),
    ],
)
def test_frozen_weights_stay_bit_for_bit_and_the_rest_is_counted(base: Path, kind: str, added: int) -> None:
    tuning = {"kind": kind} if kind == "head" else {"kind": kind, "rank": RANK}
    loop = build_loop(tuned(base, tuning))
    before = digest(frozen(loop))
    start = loop.engine.weights() or {}
    loop.run()
    assert digest(frozen(loop)) == before
    end = loop.engine.weights() or {}
    pooler = HIDDEN * HIDDEN + HIDDEN  # the checkpoint has none, so it begins at random and is trained
    trained = {name for name, p in loop.engine.module.named_parameters() if p.requires_grad}
    assert sum(end[n].numel() for n in trained) == HEAD + pooler + added
    assert all(not torch.equal(start[n], end[n]) for n in trained)
    looked = inspect_base(base, LABELS, "classification", student=loop.config.student)  # type: ignore[union-attr]
    assert looked.trained == HEAD + pooler + added


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_checkpoint_holds_no_frozen_weight_and_a_resume_is_exact(
    base: Path, tmp_path: Path, stage: int
) -> None:
    config = tuned(base, {"kind": "lora", "rank": RANK}, zero_stage=stage)
    whole, first, second = (build_loop(config) for _ in range(3))
    whole.run()
    first.advance()
    first.save(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*_optim_states.pt" if stage else "best.pt"))
    trained = sum(p.numel() for p in first.engine.module.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in first.engine.module.parameters())
    if stage < 3:  # which keeps no numbers where they can be counted
        assert size < 4 * 3 * trained + 20_000 < 4 * everything + 20_000
    second.load(tmp_path)
    second.run()
    expected, found = whole.engine.weights() or {}, second.engine.weights() or {}
    assert expected.keys() == found.keys() and all(torch.equal(found[n], expected[n]) for n in expected)
    assert digest(frozen(second)) == digest(frozen(whole))


def test_a_saved_adapter_answers_as_plain_peft_and_merged_as_plain_transformers(
    base: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    loops = {
        merged: build_loop(tuned(base, {"kind": "dora", "rank": RANK, "merged": merged}, evaluations=1))
        for merged in (False, True)
    }
    inputs = AutoTokenizer.from_pretrained(str(base))("a good room and awful food", return_tensors="pt")
    logits = {}
    for merged, loop in loops.items():
        loop.run()
        save_student(loop, tmp_path / f"student{merged}")
        with torch.no_grad():
            logits[merged] = loop.engine.module.eval()(**inputs).logits
    adapter, plain = tmp_path / "studentFalse", tmp_path / "studentTrue"
    assert not (adapter / "model.safetensors").exists() and not (plain / "adapter_config.json").exists()
    whole = AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=len(LABELS))
    theirs = PeftModel.from_pretrained(whole, str(adapter)).eval()
    merged = AutoModelForSequenceClassification.from_pretrained(str(plain)).eval()
    ours = models.load_model(adapter)
    assert ours.labels == LABELS
    with torch.no_grad():
        for model, kind in ((theirs, False), (ours.model, False), (merged, True)):
            assert torch.allclose(model(**inputs).logits, logits[kind], atol=1e-5)


def test_queries_and_values_are_adapted_where_peft_names_no_layers() -> None:
    model = tiny("distilbert", AutoModelForSequenceClassification)
    LoRA(rank=2).apply(model, "classification", set(), "plain")
    adapted = {
        name.split(".lora_A")[0].rpartition(".")[2]
        for name, _ in model.named_parameters()
        if "lora_A" in name
    }
    assert adapted == {"q_lin", "v_lin"}


def test_layers_of_gpt2_are_adapted_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    """Its weights are [in, out], which peft would find out with a warning in each process."""
    model = tiny("gpt2", AutoModelForSequenceClassification)
    LoRA(rank=2).apply(model, "classification", set(), "plain")
    assert model.peft_config["default"].fan_in_fan_out
    assert not [w for w in recwarn if "fan_in_fan_out" in str(w.message)]


def test_layers_that_peft_does_not_know_are_asked_for(base: Path) -> None:
    student = PretrainedStudent(path=str(base), tuning={"kind": "lora", "targets": ["q_proj"]})
    with pytest.raises(ModelError, match="targets q_proj, which no layer is called"):
        student.build(student.load_tokenizer(), LABELS, 0)


def test_what_no_adapter_serves_is_refused_by_name(base: Path) -> None:
    student = PretrainedStudent(path=str(base), tuning={"kind": "lora"})
    with pytest.raises(ModelError, match="does not serve sentence vectors"):
        student.build(student.load_tokenizer(), (), 0, "embedding")
    tokenizer = student.load_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[E1]"]})
    with pytest.raises(ModelError, match="trains no row of the embedding table"):
        student.build(tokenizer, LABELS, 0)


def test_the_plan_says_how_much_is_trained(base: Path) -> None:
    config = tuned(base, {"kind": "lora", "rank": RANK})
    trained = MATRICES * RANK * 2 * HIDDEN + HEAD + HIDDEN * HIDDEN + HIDDEN
    disk = compute_disk(config)
    assert disk.trained == trained and disk.checkpoint == 16 * trained
    assert (
        f"of which {trained:,} are trained; a checkpoint is 16 bytes x {trained:,}"
        in describe_sizes(disk)[0].detail
    )


def test_a_language_model_keeps_its_head_and_learns_beside_it(tmp_path: Path) -> None:
    fresh = models.DecoderStudent(layers=1, hidden=HIDDEN, heads=2, vocab_size=520, max_positions=32)
    tokenizer = fresh.fit_tokenizer(["a good room", "awful food"])
    whole = models.TextModel(fresh.build(tokenizer, (), 0), tokenizer, (), task="causal_lm")
    folder = models.save_model(whole, tmp_path / "decoder")
    student = PretrainedStudent(path=str(folder), tuning=LoRA(rank=RANK))
    model = student.build(student.load_tokenizer(), (), 0, "causal_lm")
    # Llama: peft adapts the projections of queries and values.
    assert models.count_parameters(model, trained=True) == 2 * RANK * 2 * HIDDEN
    saved = models.save_model(models.TextModel(model, tokenizer, (), task="causal_lm"), tmp_path / "adapter")
    assert models.load_model(saved).task == "causal_lm"


def test_an_adapter_of_a_changed_checkpoint_is_refused_unless_merged() -> None:
    with pytest.raises(ValueError, match="layers changes"):
        PretrainedStudent(path="base", layers=(0,), tuning=LoRA())
    assert PretrainedStudent(path="base", layers=(0,), tuning=LoRA(merged=True)).tuning is not None


@pytest.mark.parametrize("tuned", [False, True])
def test_weights_that_an_architecture_freezes_by_itself_are_copied(tuned: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].weight.requires_grad = False  # as tables of sines are in some families
    engine = Engine(model, TrainConfig(), total_steps=2, world=1, device=torch.device("cpu"), tuned=tuned)
    assert ("0.weight" in (engine.weights() or {})) is not tuned
    engine.close()


def test_dropout_reaches_every_place_and_is_refused_where_there_is_none(base: Path, tmp_path: Path) -> None:
    student = PretrainedStudent(path=str(base), dropout=0.35)
    model = student.build(student.load_tokenizer(), LABELS, 0)
    found = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert found == {0.35} and model.config.attention_probs_dropout_prob == 0.35
    lstm = models.LinearStudent(buckets=64)
    saved = models.save_model(
        models.TextModel(lstm.build(lstm.fit_tokenizer(()), LABELS, 0), lstm.fit_tokenizer(()), LABELS),
        tmp_path / "linear",
    )
    with pytest.raises(ModelError, match="has none"):
        PretrainedStudent(path=str(saved), dropout=0.1).build(None, LABELS, 0)
