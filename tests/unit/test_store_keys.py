"""Everything that changes an answer changes where it is kept; nothing else does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raykd import models
from raykd.distill.weighting import Uniform
from raykd.tasks import Classification
from raykd.teachers.backends.backend import describe_teacher
from raykd.teachers.source import LocalSource
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.store import make_text_key
from raykd.teachers.teacher import Teacher
from tests.fakes import LABELS, logits_of, model_spec, save_transformer, text_batch, texts_and_labels


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformer(tmp_path_factory.mktemp("model") / "teacher")


def spec(directory: Path, **changes: Any) -> TeacherSpec:
    settings = {
        "name": "t",
        "path": str(directory),
        "labels": LABELS,
        "task": Classification(max_length=64),
        "dtype": "float32",
    }
    return model_spec(**{**settings, **changes})


def flip_weight(folder: Path) -> None:
    """One byte of one weight."""
    (file,) = folder.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def other_tokenizer(folder: Path) -> None:
    """Another token in place of the vocabulary's last."""
    file = folder / "tokenizer.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = tree["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    vocabulary["zzz"] = vocabulary.pop(last)
    file.write_text(json.dumps(tree), encoding="utf-8")


def other_config(folder: Path) -> None:
    """Another activation, the same weights."""
    file = folder / "config.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    tree["hidden_act"] = "relu"
    file.write_text(json.dumps(tree), encoding="utf-8")


def test_any_other_weight_tokenizer_or_configuration_is_a_miss(directory: Path, tmp_path: Path) -> None:
    found = {describe_teacher(spec(directory)).answers}
    for change in (flip_weight, other_tokenizer, other_config):
        folder = shutil.copytree(directory, tmp_path / change.__name__)
        assert describe_teacher(spec(folder)).answers in found, "a copy is the same teacher"
        change(folder)
        found.add(describe_teacher(spec(folder)).answers)
    assert len(found) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"max_length": 32},
        {"dtype": "bfloat16"},
        {"device": "cuda"},
        {"labels": LABELS[::-1]},
        {"labels": ("bad", "good"), "label_map": {"negative": "bad", "positive": "good"}},
        {"labels": ("bad", "good"), "label_map": {"negative": "good", "positive": "bad"}},
    ],
    ids=str,
)
def test_any_other_setting_that_changes_an_answer_is_a_miss(directory: Path, changes: dict[str, Any]) -> None:
    assert describe_teacher(spec(directory, **changes)).answers != describe_teacher(spec(directory)).answers


def test_a_name_a_language_a_batch_size_and_a_folder_change_nothing(directory: Path, tmp_path: Path) -> None:
    same = {"name": "other", "languages": frozenset({"zh"}), "max_tokens": 7, "store": str(tmp_path)}
    moved = shutil.copytree(directory, tmp_path / "moved")
    for change in [{k: v} for k, v in same.items()] + [{"path": str(moved)}]:
        assert (
            describe_teacher(spec(directory, **change)).answers == describe_teacher(spec(directory)).answers
        )


def test_every_part_of_a_text_is_in_its_key() -> None:
    parts = [
        ("a", None),
        ("a", ""),
        ("a", "b"),
        ("b", "a"),
        ("ab", None),
        ("a ", None),
        ("A", None),
        ("", "a"),
    ]
    assert len({make_text_key(text, pair) for text, pair in parts}) == len(parts)


def test_teachers_with_other_tokenizers_each_read_the_raw_text(tmp_path: Path) -> None:
    """The same text is other tokens to each; asked together they answer as each does alone."""
    texts = texts_and_labels(12)[0]
    specs = []
    for seed, size in enumerate((100, 200)):
        model = models.TransformerStudent(
            layers=1, hidden=16, heads=2, dropout=0.0, vocab_size=size, max_positions=64
        )
        tokenizer = model.fit_tokenizer(texts_and_labels(300, seed=seed)[0])
        built = models.TextModel(model.build(tokenizer, LABELS, seed), tokenizer, LABELS, max_length=64)
        specs.append(spec(models.save_model(built, tmp_path / str(size)), name=str(size)))
    one, two = (models.load_model(s.teacher.model_path).tokenizer for s in specs)
    assert [one(t)["input_ids"] for t in texts] != [two(t)["input_ids"] for t in texts]
    batch = text_batch(texts)
    together = LocalSource([Teacher(s) for s in specs], Uniform()).submit(batch).result()
    for signal, alone in zip(together, specs, strict=True):
        np.testing.assert_allclose(logits_of(signal), logits_of(Teacher(alone).answer(batch)), atol=1e-6)
