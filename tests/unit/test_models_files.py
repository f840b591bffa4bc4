"""Model directories: what is refused, what is told, what travels, what a fingerprint sees."""

from __future__ import annotations

import json
import os
import pickle
import stat
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from raykd import models
from raykd.errors import ModelError
from raykd.models import LinearStudent, LSTMStudent, ModelCard, TextModel, TransformerStudent

LABELS = ("sad", "glad")
TEXTS = ["a good film", "the worst meal", "很好的电影", "un très mauvais repas"]
KINDS = {
    "transformer": TransformerStudent(layers=1, hidden=16, heads=2, vocab_size=200, max_positions=32),
    "lstm": LSTMStudent(embedding=8, hidden=8, vocab_size=200),
    "linear": LinearStudent(buckets=64),
}


def made(name: str, labels: tuple[str, ...] = LABELS) -> TextModel:
    student = KINDS[name]
    tokenizer = student.fit_tokenizer(TEXTS)
    return TextModel(student.build(tokenizer, labels, 0).eval(), tokenizer, labels, kind=name, max_length=16)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return models.save_model(made("transformer"), tmp_path / "model")


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_pickled_weights_are_refused_and_not_run(directory: Path, name: str) -> None:
    marker = directory.parent / "marker"
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(pickle.dumps(Evil(marker)))
    for act in (
        models.load_model,
        models.fingerprint,
        lambda p: models.PretrainedStudent(path=str(p)).build(None, LABELS, 0),
    ):
        with pytest.raises(ModelError, match="pickle") as caught:
            act(directory)
        assert name in str(caught.value) and "convert" in str(caught.value)
    assert not marker.exists()
    assert any("pickle" in problem for problem in models.inspect_directory(directory).problems)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("deep", [False, True])
def test_code_of_the_directorys_own_is_refused_and_not_run(directory: Path, file: str, deep: bool) -> None:
    marker = directory.parent / "marker"
    (directory / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: ...\n")
    named = {"auto_map": {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}}
    rewrite(directory / file, **({"inner": [{"deeper": named}]} if deep else named))
    for act in (models.load_model, models.load_tokenizer, models.fingerprint):
        with pytest.raises(ModelError, match="code of its own") as caught:
            act(directory)
        assert file in str(caught.value) and "trust_remote_code" in str(caught.value)
    assert not marker.exists()
    assert models.inspect_directory(directory).needs_code == (file,)
    assert models.inspect_directory(directory, trust_remote_code=True).problems == ()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for act in (models.load_model, models.load_tokenizer, models.fingerprint, models.read_labels):
        with pytest.raises(ModelError, match=str(gone)):
            act(gone)
        with pytest.raises(ModelError, match=str(gone)):
            act(str(gone))
    assert str(gone) in models.inspect_directory(gone).problems[0]


def test_a_hub_name_that_cannot_be_had_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> str:
        raise OSError("no route to https://user:secret@hub.example with hf_0123456789abcdef")

    monkeypatch.setattr("huggingface_hub.HfApi.resolve_revision", offline)
    with pytest.raises(ModelError, match="nobody/nothing") as caught:
        models.load_model("nobody/nothing")
    assert "secret" not in str(caught.value) and "0123456789abcdef" not in str(caught.value)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_directory_is_refused(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    if missing == "tokenizer.json":
        (directory / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError):
        models.load_model(directory)
    assert models.inspect_directory(directory).problems != ()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"[1, 2]", b"\xff" * 50])
def test_a_broken_file_is_a_model_error(directory: Path, file: str, content: bytes) -> None:
    (directory / file).write_bytes(content)
    with pytest.raises(ModelError):
        models.load_model(directory)
    with pytest.raises(ModelError):
        models.fingerprint(directory)


def test_a_cut_weights_file_is_a_model_error(directory: Path) -> None:
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[:-64])
    with pytest.raises(ModelError):
        models.load_model(directory)
    with pytest.raises(ModelError, match="cut short"):
        models.fingerprint(directory)


def test_a_head_that_is_not_in_the_checkpoint_is_not_drawn_at_random(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("classifier")}
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not a complete classification model") as caught:
        models.load_model(directory)
    assert "classifier.weight" in str(caught.value)
    student = models.PretrainedStudent(path=str(directory))
    model = student.build(student.fit_tokenizer([]), LABELS, 0)
    assert (
        bool(torch.isfinite(model.classifier.weight).all())
        and float(model.classifier.weight.detach().std()) > 0
    )
    only_head = {name: weight for name, weight in weights.items() if name.startswith("classifier")}
    save_file(only_head, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="does not hold the weights"):
        student.build(student.fit_tokenizer([]), LABELS, 0)


def test_an_index_may_not_lead_out_of_the_directory(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory.parent / "outside.safetensors")
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../outside.safetensors"}}')
    with pytest.raises(ModelError, match="names files"):
        models.load_model(directory)


def test_sharded_weights_load_and_have_the_same_fingerprint(directory: Path) -> None:
    one = models.fingerprint(directory)
    text_model = models.load_model(directory)
    (directory / "model.safetensors").unlink()
    text_model.model.save_pretrained(str(directory), max_shard_size="4KB")
    assert (directory / "model.safetensors.index.json").exists()
    assert models.load_model(directory).labels == LABELS
    assert models.fingerprint(directory) == one


def test_an_adapter_is_refused(directory: Path) -> None:
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter"):
        models.load_model(directory)


def test_labels_are_in_the_order_of_the_logits(directory: Path) -> None:
    assert models.read_labels(directory) == models.load_model(directory).labels == LABELS
    labels = [f"label {i}" for i in range(12)]
    shuffled = {str(i): labels[i] for i in (3, 11, 0, 1, 2, 10, 4, 5, 9, 6, 8, 7)}
    rewrite(directory / "config.json", id2label=shuffled)
    assert models.read_labels(directory) == tuple(labels)
    for wrong in ({}, {"1": "a", "2": "b"}, {"x": "a"}, None, ["a"]):
        rewrite(directory / "config.json", id2label=wrong)
        with pytest.raises(ModelError, match="does not say what its logits mean"):
            models.read_labels(directory)


def test_transformers_default_labels_are_read_though_it_does_not_write_them(tmp_path: Path) -> None:
    names = ("LABEL_0", "LABEL_1")
    path = models.save_model(made("linear", names), tmp_path / "model")
    assert "id2label" not in json.loads((path / "config.json").read_text())
    assert models.load_model(path).labels == models.read_labels(path) == names


def test_a_linear_model_cannot_start_with_other_labels(tmp_path: Path) -> None:
    student = models.PretrainedStudent(path=str(models.save_model(made("linear"), tmp_path / "model")))
    assert student.build(student.fit_tokenizer([]), LABELS, 0).config.num_labels == 2
    with pytest.raises(ModelError, match="labels"):
        student.build(student.fit_tokenizer([]), ("a", "b", "c"), 0)


@pytest.mark.parametrize("name", KINDS)
def test_a_model_can_be_served_in_bfloat16(name: str, tmp_path: Path) -> None:
    path = models.save_model(made(name), tmp_path / "model")
    loaded = models.load_model(path, dtype=torch.bfloat16)
    ids = torch.tensor([[5, 6, 7, 0], [8, 9, 10, 11]])
    with torch.no_grad():
        half = loaded.model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        full = models.load_model(path).model(input_ids=ids, attention_mask=(ids != 0).long()).logits
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), full, atol=0.05)


def test_a_directory_tells_what_it_holds(directory: Path) -> None:
    info = models.inspect_directory(directory)
    assert (info.labels, info.kind, info.task, info.max_length) == (
        LABELS,
        "transformer",
        "classification",
        16,
    )
    assert info.has_tokenizer and info.problems == () and info.needs_code == ()
    (directory / "raykd.json").unlink()
    assert models.inspect_directory(directory).kind == "bert"


def test_a_card_is_written_as_the_hub_reads_it(tmp_path: Path) -> None:
    text_model = replace(made("lstm"), languages=("zh", "no"))
    card = ModelCard("tiny", teachers=("teacher|one",), metrics={"test/zh/accuracy": 0.8125}, license="mit")
    folder = models.save_model(text_model, tmp_path / "model", card=card)
    text = (folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "language": ["zh", "no"],
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["raykd", "knowledge-distillation"],
    }
    for part in ("| test/zh/accuracy | 0.8125 |", "teacher\\|one", "sad, glad", "16 tokens"):
        assert part in body
    code = body.split("```python\n")[1].split("```")[0]
    found: dict[str, Any] = {}
    exec(code.replace("<this directory>", str(folder)), found)
    assert [row["label"] in ("sad", "glad") for row in found["student"].predict(["a text"])] == [True]


def test_saving_replaces_only_what_raykd_wrote(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    models.save_model(made("linear"), target)
    models.save_model(made("linear", ("no", "yes")), target)
    assert models.read_labels(target) == ("no", "yes")
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    other = tmp_path / "other"
    other.mkdir()
    models.save_model(made("linear"), other)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("words")
    with pytest.raises(ModelError, match="left alone"):
        models.save_model(made("linear"), precious)
    assert (precious / "thesis.txt").read_text() == "words"
    with pytest.raises(ModelError, match="labels"):
        models.save_model(replace(made("linear"), labels=("glad", "sad")), tmp_path / "swapped")


def test_a_save_that_fails_leaves_the_old_model_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = models.save_model(made("linear"), tmp_path / "model")
    before = models.fingerprint(target)

    def full(self: object, directory: str) -> None:
        raise OSError("no space left on device")

    broken = made("linear", ("no", "yes"))
    monkeypatch.setattr(type(broken.tokenizer), "save_pretrained", full)
    with pytest.raises(OSError, match="no space"):
        models.save_model(broken, target)
    assert models.fingerprint(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_saved_directory_names_no_path_and_can_be_read_by_others(tmp_path: Path) -> None:
    first = models.save_model(made("transformer"), tmp_path / "first")
    second = models.save_model(models.load_model(first), tmp_path / "second")
    for path in second.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
        assert path.stat().st_mode & stat.S_IRUSR
    umask = os.umask(0)
    os.umask(umask)
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~umask for path in second.iterdir())


@pytest.mark.parametrize("name", KINDS)
def test_a_fingerprint_survives_saving_and_loading(name: str, tmp_path: Path) -> None:
    text_model = made(name)
    one = models.fingerprint(text_model)
    text_model.tokenizer(TEXTS, truncation=True, max_length=3)  # sets the backend's truncation
    path = models.save_model(text_model, tmp_path / "model")
    loaded = models.load_model(path)
    assert models.fingerprint(text_model) == models.fingerprint(path) == models.fingerprint(loaded) == one
    again = models.save_model(loaded, tmp_path / "again")
    assert models.fingerprint(again) == one
    assert len(one) == 64 and set(one) <= set("0123456789abcdef")


@pytest.mark.parametrize("name", KINDS)
def test_a_fingerprint_sees_every_change_of_an_answer(name: str, tmp_path: Path) -> None:
    one = models.fingerprint(models.save_model(made(name), tmp_path / "model"))
    weight = made(name)
    with torch.no_grad():
        next(weight.model.parameters()).view(-1)[-1] += 1e-3
    assert models.fingerprint(weight) != one
    assert models.fingerprint(models.save_model(weight, tmp_path / "weight")) != one
    assert models.fingerprint(made(name, ("glad", "sad"))) != one
    assert models.fingerprint(replace(made(name), model=made(name).model.to(torch.bfloat16))) != one
    tokens = made(name)
    if name == "linear":
        tokens = replace(tokens, tokenizer=models.HashedNgrams(buckets=64, char_ngrams=(1, 3)))
    else:
        tokens.tokenizer.add_tokens(["newword"])
    assert models.fingerprint(tokens) != one
    assert models.fingerprint(models.save_model(tokens, tmp_path / "tokens")) != one


def test_a_fingerprint_sees_the_configuration(tmp_path: Path) -> None:
    path = models.save_model(made("lstm"), tmp_path / "model")
    one = models.fingerprint(path)
    rewrite(path / "config.json", transformers_version="0.0", architectures=["X"])
    assert models.fingerprint(path) == one
    rewrite(path / "config.json", pooling="mean")
    assert models.fingerprint(path) != one


def test_a_header_that_claims_the_moon_is_refused(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", 2**60))
    with pytest.raises(ModelError, match="not a safetensors file"):
        models.fingerprint(directory)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_of_git_lfs_is_called_one(directory: Path, name: str) -> None:
    (directory / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match="pointer of git-lfs") as caught:
        models.load_model(directory)
    assert "git lfs pull" in str(caught.value)


def test_a_folder_that_holds_models_names_them(directory: Path) -> None:
    with pytest.raises(ModelError, match=rf"next: +name the model in it: {directory}"):
        models.load_model(directory.parent)
