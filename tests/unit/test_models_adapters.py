"""Adapters: the base is loaded and merged, or what is lacking is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd import models
from raykd.errors import ModelError
from raykd.models import TransformerStudent
from raykd.models.bases import inspect_base
from raykd.models.textmodel import TextModel
from raykd.pretrained import adapters

LABELS = ("sad", "glad")
TEXTS = ["a good film", "the worst meal", "a very long and very bad film about a good meal"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    student = TransformerStudent(layers=1, hidden=16, heads=2, vocab_size=120, max_positions=32)
    tokenizer = student.fit_tokenizer(TEXTS)
    model = TextModel(student.build(tokenizer, LABELS, 0).eval(), tokenizer, LABELS)
    path = models.save_model(model, tmp_path / "base")
    (path / "raykd.json").unlink()
    return path


def adapter_file(folder: Path, base: object, **settings: Any) -> Path:
    """A folder as peft saves it, without the weights."""
    folder.mkdir()
    told = {"base_model_name_or_path": str(base), "peft_type": "LORA", "task_type": "SEQ_CLS", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def test_an_adapter_whose_base_is_not_here_names_it(tmp_path: Path) -> None:
    folder = adapter_file(tmp_path / "adapter", "somebody/base")
    for act in (
        models.load_model,
        models.fingerprint,
        models.read_labels,
        lambda path: models.inspect_model(path, None),
    ):
        with pytest.raises(
            ModelError, match="holds an adapter, not a whole model; its base model is somebody/base"
        ) as caught:
            act(folder)
        assert "merge_and_unload" in str(caught.value)
        assert "student.tuning.merged: true saves whole models" in str(caught.value)
    assert "somebody/base" in models.inspect_directory(folder).problems[0]


def test_whole_models_that_lie_in_a_folder_of_adapters_are_the_next_step(tmp_path: Path, base: Path) -> None:
    folder = adapter_file(tmp_path / "student", base)
    shutil.copytree(base, folder / "merged" / "en")
    with pytest.raises(ModelError, match="a student starts from a whole model") as caught:
        inspect_base(folder, LABELS, "classification")
    assert caught.value.next_step == f"name a whole model in it: {folder / 'merged' / 'en'}"


def test_an_adapter_that_cannot_be_merged_is_refused_by_name(tmp_path: Path, base: Path) -> None:
    folder = adapter_file(tmp_path / "adapter", base, peft_type="PROMPT_TUNING")
    with pytest.raises(ModelError, match="PROMPT_TUNING, which cannot be merged"):
        models.load_model(folder)


def test_without_peft_the_package_is_named(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter_file(tmp_path / "adapter", base)
    (folder / "adapter_model.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    monkeypatch.setattr(adapters, "is_installed", lambda name: False)
    with pytest.raises(ModelError, match="peft, which handles adapters, is not installed") as caught:
        models.load_model(folder)
    assert 'pip install "raykd[peft]"' in str(caught.value)


def test_a_student_starts_from_a_whole_model_only(tmp_path: Path, base: Path) -> None:
    folder = adapter_file(tmp_path / "adapter", base)
    with pytest.raises(ModelError, match="a student starts from a whole model"):
        inspect_base(folder, LABELS, "classification")


@pytest.mark.parametrize("count", [2, 3])
def test_an_adapter_answers_as_plain_peft(tmp_path: Path, base: Path, count: int) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_pretrained(
        str(base), num_labels=count, ignore_mismatched_sizes=True
    )
    joined = peft.get_peft_model(plain, peft.LoraConfig(task_type="SEQ_CLS", r=2)).eval()
    for name, weight in joined.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    folder = tmp_path / "adapter"
    joined.save_pretrained(str(folder))
    labels = LABELS if count == 2 else ("LABEL_0", "LABEL_1", "LABEL_2")

    looked = models.inspect_model(folder, "classification")
    loaded = models.load_model(folder, head="classification")
    assert looked.labels == loaded.labels == labels and looked.head == "classification"
    inputs = AutoTokenizer.from_pretrained(str(base))(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(loaded.model(**inputs).logits, joined(**inputs).logits, atol=1e-5)

    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    with torch.no_grad():
        again = models.load_model(folder, head="classification").model(**inputs).logits
    assert torch.allclose(again, joined(**inputs).logits, atol=1e-5)
    (folder / "config.json").unlink()

    one = models.fingerprint(folder)
    assert one not in (models.fingerprint(base), models.fingerprint(loaded))
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 1}))
    assert models.fingerprint(folder) != one
    # An adapter without the head that its base lacks is not complete.
    assert models.count_stored_parameters(folder) > 0
