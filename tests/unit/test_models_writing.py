"""What models write: greedy means greedy, ends are ends, a decoder's start is found or refused; room for what is
written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PLBartConfig, PLBartForConditionalGeneration

from raykd import models
from raykd.config import RunConfig
from raykd.driver.language_models import describe_ignored_settings
from raykd.errors import ModelError
from raykd.prediction.generation_settings import check_token_ids, find_ignored_settings
from raykd.prediction.predictor import RequestedLengths, build_served_task
from raykd.prediction.writing import generate_texts
from raykd.pretrained.starts import check_decoder_start
from tests.tokenizers import byte_level
from tests.unit.test_equivalence_language import TARGETS, TEXTS, built

SETTINGS: dict[str, dict[str, Any]] = {
    "min_length": {"min_length": 40},
    "min_new_tokens": {"min_new_tokens": 8},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "repetition_penalty": {"repetition_penalty": 8.0},
    "beams": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    "drawn": {"do_sample": True, "temperature": 9.0, "top_k": 3},
    "max_length": {"max_length": 4},
}


@pytest.fixture(scope="module", params=["llama", "bart"])
def made(request: Any) -> tuple[Any, Any]:
    tokenizer = byte_level([*TEXTS, *TARGETS] * 2, "<s> $A </s>")
    return built(request.param, tokenizer), tokenizer


def by_hand(model: Any, tokenizer: Any, text: str, new: int, **settings: Any) -> str:
    """One text by transformers' own call with the model's generation config and these settings over it."""
    closed = model.config.is_encoder_decoder
    ids = tokenizer(text)["input_ids"]
    ids = ids if closed else ids[:-1]
    out = model.generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=new,
        **settings,
    )  # fmt: skip
    found: str = tokenizer.decode(out[0, 0 if closed else len(ids) :], skip_special_tokens=True)
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_a_generation_config_is_set_aside_or_followed_by_a_key(made: Any, name: str) -> None:
    model, tokenizer = made
    own = model.generation_config
    greedy = [by_hand(model, tokenizer, text, 8, num_beams=1, do_sample=False) for text in TEXTS]
    try:
        model.generation_config = type(own)(
            **{k: v for k, v in own.to_dict().items() if v is not None} | SETTINGS[name]
        )
        assert generate_texts(model, tokenizer, TEXTS, max_new_tokens=8) == greedy
        wanted = [by_hand(model, tokenizer, text, 8, do_sample=False) for text in TEXTS]
        followed = generate_texts(
            model, tokenizer, TEXTS, max_new_tokens=8, beams=None, generation="checkpoint"
        )
        assert followed == wanted
        if name in ("no_repeat_ngram_size", "repetition_penalty"):
            assert followed != greedy
        said = find_ignored_settings(SETTINGS[name], "plain")
        assert set(said) == set(SETTINGS[name]) - {"temperature", "top_k"}
        assert set(find_ignored_settings(SETTINGS[name], "checkpoint")) == {"do_sample", "max_length"} & set(
            SETTINGS[name]
        )
    finally:
        model.generation_config = own


def test_a_text_ends_at_each_of_several_ends(made: Any) -> None:
    model, tokenizer = made
    own = model.generation_config
    settings = type(own)(eos_token_id=2, pad_token_id=1, decoder_start_token_id=own.decoder_start_token_id)
    model.generation_config = settings
    written = generate_texts(model, tokenizer, TEXTS, max_new_tokens=8)
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in written]
    at = next(i for i, ids in enumerate(rows) if len(set(ids)) > 1 and tokenizer.decode(ids) == written[i])
    ids = rows[at]
    third = next(i for i in ids if i != ids[0])
    try:
        for ends, pad in (([2, third], 1), ([third], third), (third, None)):
            model.generation_config = type(own)(
                eos_token_id=ends,
                pad_token_id=pad,
                bos_token_id=0,
                decoder_start_token_id=own.decoder_start_token_id,
            )
            found = generate_texts(model, tokenizer, TEXTS, max_new_tokens=8)[at]
            assert found == tokenizer.decode(ids[: ids.index(third)])
    finally:
        model.generation_config = own


def folder_of(tmp_path: Path, architecture: str, config: dict[str, Any], generation: dict[str, Any]) -> Path:
    tokenizer = byte_level([*TEXTS, *TARGETS] * 2, "<s> $A </s>")
    model = built(architecture, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for name, changes in (("config.json", config), ("generation_config.json", generation)):
        tree = json.loads((tmp_path / name).read_text()) | changes
        tree = {key: value for key, value in tree.items() if value != "-"}
        (tmp_path / name).write_text(json.dumps(tree))
    return tmp_path


@pytest.mark.parametrize("architecture", ["t5", "bart"])
@pytest.mark.parametrize("where", ["config", "generation", "bos", "nowhere", "beyond"])
def test_a_decoder_starts_where_transformers_would_or_is_refused(
    architecture: str, where: str, tmp_path: Path
) -> None:
    key = "decoder_start_token_id"
    config: dict[str, Any] = {key: None}
    generation: dict[str, Any] = {key: "-", "bos_token_id": "-"}
    if where == "config":
        config[key] = 3
    elif where == "generation":
        generation[key] = 3
    elif where == "bos":
        generation["bos_token_id"] = 3
    elif where == "beyond":
        config[key] = 90_000
    folder = folder_of(tmp_path, architecture, config, generation)
    if where in ("nowhere", "beyond"):
        with pytest.raises(ModelError, match=r"decoder of|decoder starts with"):
            check_decoder_start(folder)
        if where == "nowhere":
            with pytest.raises(ModelError, match="set decoder_start_token_id in its config"):
                models.load_model(folder)
        return
    check_decoder_start(folder)
    loaded = models.load_model(folder)
    assert (
        loaded.model.config.decoder_start_token_id
        == loaded.model.generation_config.decoder_start_token_id
        == 3
    )
    labels = torch.tensor([[9, 10, 2]])
    ids = torch.tensor([[7, 8, 2]])
    with torch.no_grad():
        shifted = loaded.model(input_ids=ids, labels=labels).logits
        wanted = loaded.model(input_ids=ids, decoder_input_ids=torch.tensor([[3, 9, 10]])).logits
    assert torch.equal(shifted, wanted)
    assert isinstance(generate_texts(loaded.model, loaded.tokenizer, TEXTS, max_new_tokens=3)[0], str)


def test_a_decoder_whose_targets_end_with_its_start_needs_no_key(tmp_path: Path) -> None:
    """PLBart's configuration has no decoder_start_token_id: each target's last token is moved to the front."""
    tokenizer = byte_level([*TEXTS, *TARGETS] * 2, "$A </s>")
    config = PLBartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=40,
    )  # fmt: skip
    PLBartForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    check_decoder_start(tmp_path)
    model = models.load_model(tmp_path).model
    ids, labels = torch.tensor([[7, 8, 2]]), torch.tensor([[9, 10, 2]])
    with torch.no_grad():
        shifted = model(input_ids=ids, labels=labels).logits
        wanted = model(input_ids=ids, decoder_input_ids=torch.tensor([[2, 9, 10]])).logits
    assert torch.equal(shifted, wanted)


def test_lengths_of_a_stranger_follow_from_its_positions(made: Any) -> None:
    model, tokenizer = made
    kind = "seq2seq" if model.config.is_encoder_decoder else "causal_lm"
    stranger = models.TextModel(model, tokenizer, (), task=kind)
    task: Any = build_served_task(stranger)
    if kind == "seq2seq":
        assert (task.max_length, task.max_new_tokens) == (96, 64)
        assert build_served_task(stranger, RequestedLengths(10, 96)).max_length == 10
    else:
        assert (task.prompt_tokens, task.max_new_tokens) == (48, 48)
        asked: Any = build_served_task(stranger, RequestedLengths(10, 90))
        with pytest.raises(ModelError, match="no place"):
            generate_texts(model, tokenizer, TEXTS, max_new_tokens=90, max_input_tokens=asked.prompt_tokens)
        assert build_served_task(stranger, RequestedLengths(None, 90)).prompt_tokens == 6  # type: ignore[attr-defined]
    known = models.TextModel(
        model,
        tokenizer,
        (),
        task=kind,
        max_length=40,
        settings={"max_target_length": 10, "max_new_tokens": 7},
    )
    again: Any = build_served_task(known)
    assert again.max_new_tokens == 7 and again.prompt_tokens == (40 if kind == "seq2seq" else 30)
    with pytest.raises(ModelError, match="invalid settings"):
        build_served_task(models.TextModel(model, tokenizer, (), task=kind, settings={"beams": "many"}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_sample": True, "temperature": 0.7}, "it says do_sample True"),
        ({"max_length": 512, "num_beams": 4}, "num_beams 4; task.generation: checkpoint follows num_beams"),
        ({"eos_token_id": [2, 3]}, ""),
    ],
)
def test_only_what_a_key_would_follow_is_promised(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "generation_config.json").write_text(json.dumps(settings))
    files = {"kind": "files", "paths": ["rows.jsonl"]}
    config = RunConfig.model_validate(
        {
            "task": {"kind": "seq2seq", "written": ["chrf"]},
            "data": {"languages": ["fr"], "train": files, "validation": files},
            "student": {"kind": "pretrained", "path": str(tmp_path / "teacher")},
            "objective": {"alpha": 1.0},
        }
    )
    found = describe_ignored_settings(config)
    assert len(found) == bool(said) and all(text.endswith(said) for text in found)


def test_a_generation_config_that_forces_a_token_without_a_row_is_refused_by_key() -> None:
    check_token_ids({"forced_bos_token_id": 4, "bad_words_ids": [[1, 2]], "forced_eos_token_id": None}, 5)
    check_token_ids({"forced_bos_token_id": 99}, None)
    for settings in (
        {"forced_bos_token_id": 5},
        {"bad_words_ids": [[1], [2, 9]]},
        {"forced_eos_token_id": [7]},
    ):
        with pytest.raises(ModelError, match=next(iter(settings))):
            check_token_ids(settings, 5)
