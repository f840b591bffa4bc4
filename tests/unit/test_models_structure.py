"""What a header says of a checkpoint is what loading says; positions end where a forward pass fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.models import register
from raykd.networks.heads import find_auto_class
from raykd.pretrained import files
from raykd.pretrained.positions import count_positions
from raykd.pretrained.structure import build_empty, find_missing_weights
from raykd.pretrained.weights import read_headers
from tests.families import CLASSIFIERS, QUICK, TRANSLATORS, save, tiny

FAMILIES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.nightly) for name in CLASSIFIERS]
PAIRS = [name if name in ("bart", "marian", "m2m_100", "t5", "pegasus") else pytest.param(name, marks=pytest.mark.nightly)
         for name in TRANSLATORS]  # fmt: skip


def rewrite_weights(folder: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    weights = {change(name): weight for name, weight in load_file(folder / "model.safetensors").items()}
    weights.pop(None, None)
    save_file(
        {name: w.clone() for name, w in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def by_header(folder: Path, head: Any) -> tuple[list[str], list[str]]:
    stored = read_headers(files.list_weight_files(folder))
    missing, reshaped, _ = find_missing_weights(build_empty(folder, head), stored)
    return missing, [name for name, _, _ in reshaped]


def by_loading(folder: Path, head: Any) -> tuple[list[str], list[str]]:
    _, found = find_auto_class(head).from_pretrained(
        str(folder), output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
    )
    reshaped = [key[0] for key in found["mismatched_keys"]]
    return sorted({*found["missing_keys"], *reshaped}), sorted(reshaped)


def changes_of(model: Any) -> dict[str, Any]:
    """Checkpoints as others write them: whole, without a head, under other names."""
    prefix = f"{model.base_model_prefix}."
    return {
        "whole": lambda name: name,
        "encoder alone": lambda name: name if name.startswith(prefix) else None,
        "encoder without its prefix": lambda name: (
            name.removeprefix(prefix) if name.startswith(prefix) else None
        ),
        "head without the encoder's prefix": lambda name: name.removeprefix(prefix),
        "gamma and beta": lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ),
        "another prefix": lambda name: f"module.{name}",
    }


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_header_tells_what_loading_would_miss(model_type: str, tmp_path: Path) -> None:
    model = tiny(model_type, find_auto_class("classification"))
    for number, (what, change) in enumerate(changes_of(model).items()):
        folder = save(model, tmp_path / str(number))
        rewrite_weights(folder, change)
        if not read_headers(files.list_weight_files(folder)):
            continue
        assert by_header(folder, "classification") == by_loading(folder, "classification"), what
        if what == "whole":
            assert by_header(folder, "classification") == ([], [])


@pytest.mark.parametrize("model_type", PAIRS)
def test_the_header_tells_the_same_of_translators(model_type: str, tmp_path: Path) -> None:
    folder = save(tiny(model_type, find_auto_class("seq2seq")), tmp_path / "model")
    assert by_header(folder, "seq2seq") == by_loading(folder, "seq2seq") == ([], [])


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "qwen3", "gemma2", "bloom"])
def test_tied_heads_are_not_missing(model_type: str, tmp_path: Path) -> None:
    folder = save(tiny(model_type, find_auto_class("causal_lm")), tmp_path / "model")
    assert by_header(folder, "causal_lm") == by_loading(folder, "causal_lm") == ([], [])


def test_shards_and_other_shapes_are_seen(tmp_path: Path) -> None:
    model = tiny("bert", find_auto_class("classification"))
    folder = save(model, tmp_path / "model", max_shard_size="4KB")
    assert len(files.list_weight_files(folder)) > 2
    assert by_header(folder, "classification") == by_loading(folder, "classification") == ([], [])
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): f"l{i}" for i in range(3)}
    config.pop("label2id", None)
    (folder / "config.json").write_text(json.dumps(config))
    missing, reshaped = by_header(folder, "classification")
    assert missing == reshaped == ["classifier.bias", "classifier.weight"]
    assert by_header(folder, "classification") == by_loading(folder, "classification")


def can_read(model: Any, source: int, target: int | None = None) -> bool:
    ids = torch.full((1, source), 5)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if target is not None:
        inputs["decoder_input_ids"] = torch.full((1, target), 5)
    try:
        with torch.no_grad():
            model(**inputs)
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("model_type", FAMILIES)
def test_positions_end_where_a_forward_pass_fails(model_type: str) -> None:
    model = tiny(model_type, find_auto_class("classification"))
    found = count_positions(model)
    if model.config.is_encoder_decoder:
        pytest.skip("its classifier reads one text twice; see translators")
    if found.source is None:
        assert can_read(model, 60)
    else:
        assert can_read(model, found.source), found
        assert not can_read(model, found.source + 1), found


@pytest.mark.parametrize("model_type", PAIRS)
def test_positions_of_both_sides_end_where_a_forward_pass_fails(model_type: str) -> None:
    model = tiny(model_type, find_auto_class("seq2seq"))
    found = count_positions(model)
    for limit, ask in (
        (found.source, lambda n: can_read(model, n, 4)),
        (found.target, lambda n: can_read(model, 4, n)),
    ):
        assert ask(60) if limit is None else ask(limit) and not ask(limit + 1), found


def test_raykds_own_networks_have_no_positions() -> None:
    from raykd.models import LinearStudent, LSTMStudent

    register()
    for student in (LSTMStudent(embedding=8, hidden=8, vocab_size=120), LinearStudent(buckets=64)):
        model = student.build(student.fit_tokenizer(["a text", "another one"]), ("no", "yes"), 0)
        assert count_positions(model).source is None


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_is_called_well_loads_and_answers(model_type: str, tmp_path: Path) -> None:
    """The verdict of the files against loading and asking: a short text and one beyond the positions."""
    from raykd import models
    from raykd.scoring.model import Model

    tokenizer: Any = models.TransformerStudent(max_positions=512, vocab_size=100).fit_tokenizer(
        ["a good film", "the worst meal"]
    )
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if model_type == "t5":
        ids["decoder_start_token_id"] = 0
    folder = save(tiny(model_type, find_auto_class("classification"), **ids), tmp_path / "model")
    tokenizer.save_pretrained(str(folder))
    looked = models.inspect_model(folder, "classification")
    assert models.load_model(folder, head="classification").labels == looked.labels
    answers = list(Model.load(folder).predict(["a good film", "the worst meal " * 60]))
    assert all(abs(sum(a["probabilities"].values()) - 1) < 1e-4 for a in answers)
    models.fingerprint(folder)
