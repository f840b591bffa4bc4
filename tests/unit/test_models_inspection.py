"""What a model's files say of it is compared with what it is used for before a run starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from raykd import models
from raykd.config.loading import load_run
from raykd.errors import ConfigError, LabelMismatchError, ModelError
from raykd.models import TransformerStudent
from raykd.models.textmodel import TextModel
from raykd.networks.heads import find_auto_class
from raykd.preflight.check import collect_findings
from raykd.preflight.finding import Finding
from raykd.pretrained.labels import describe_contradiction, read_label_names
from tests.families import save, tiny

LABELS = ("negative", "positive")
TEXTS = ["a good film", "the worst meal", "a very long and very bad film about a good meal"]


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A BERT of 24 positions as plain transformers would hold it."""
    student = TransformerStudent(layers=1, hidden=16, heads=2, vocab_size=120, max_positions=24)
    tokenizer = student.fit_tokenizer(TEXTS)
    path = models.save_model(
        TextModel(student.build(tokenizer, LABELS, 0).eval(), tokenizer, LABELS), tmp_path / "teacher"
    )
    (path / "raykd.json").unlink()
    return path


def rewrite(path: Path, **changes: object) -> None:
    told = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))


def findings(folder: Path, teacher: Path, text: str = "a good film", **changes: Any) -> dict[str, Finding]:
    """What check says of a run of two labels with this teacher."""
    rows = "".join(json.dumps({"text": f"{text} {i}", "label": LABELS[i % 2]}) + "\n" for i in range(8))
    (folder / "rows.jsonl").write_text(rows)
    files = {"kind": "files", "paths": [str(folder / "rows.jsonl")]}
    run: dict[str, Any] = {
        "name": "r",
        "output": str(folder / "runs"),
        "task": {"kind": "classification", "max_length": 20},
        "data": {"labels": list(LABELS), "languages": ["en"], "train": files, "validation": files},
        "student": {"kind": "lstm", "embedding": 8, "hidden": 8, "vocab_size": 120},
        "teachers": [{"name": "t", "languages": "all", "path": str(teacher)}],
        "train": {"epochs": 1, "batch_size": 4},
        "ray": {"num_cpus": 2},
    }
    for key, value in changes.items():
        run[key] = (
            {**run[key], **value} if isinstance(value, dict) and isinstance(run.get(key), dict) else value
        )
    (folder / "run.yaml").write_text(json.dumps(run))
    return {finding.what: finding for finding in collect_findings(load_run(folder / "run.yaml", []))}


def refused(found: Finding) -> str:
    assert found.error is not None, found
    return str(found.error)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id2label": {"0": "good", "1": "good"}}, "gives two outputs the same name"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "id2label does not fit the head"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "holds quantised weights"),
        ({"hidden_size": 32}, "config.json does not fit the weights"),
        ({"vocab_size": 200}, "config.json does not fit the weights"),
    ],
)
def test_what_cannot_be_used_is_refused_at_check_and_at_load(
    teacher: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    rewrite(teacher / "config.json", **changes)
    found = findings(tmp_path, teacher)["teacher t"]
    assert said in refused(found) and refused(found).startswith("teacher t: ")
    with pytest.raises(ModelError) as caught:
        models.load_model(teacher)
    assert caught.value.what in refused(found)


@pytest.mark.parametrize(
    ("changes", "said", "loading"),
    [
        ({"problem_type": "multi_label_classification"}, "gives several labels at once", ""),
        ({"problem_type": "regression"}, "is a regression: one output is a number", "several numbers"),
        (
            {"problem_type": None, "id2label": {"0": "score"}, "label2id": {"score": 0}},
            "is a regression",
            "config.json does not fit the weights",
        ),
    ],
)
def test_a_model_of_another_task_of_the_same_class_teaches_no_classifier(
    teacher: Path, tmp_path: Path, changes: dict[str, object], said: str, loading: str
) -> None:
    rewrite(teacher / "config.json", **changes)
    assert said in refused(findings(tmp_path, teacher)["teacher t"])
    if loading:
        with pytest.raises(ModelError, match=loading):
            models.load_model(teacher)
    else:
        assert models.load_model(teacher).task == "multi_label"


def test_a_head_of_one_row_is_a_regression_though_the_configuration_says_nothing(
    tmp_path: Path, teacher: Path
) -> None:
    save(tiny("bert", find_auto_class("classification"), num_labels=1, vocab_size=200), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for key in ("id2label", "label2id", "problem_type"):
        config.pop(key, None)
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((teacher / name).read_bytes())
    with pytest.raises(ModelError, match="is a regression"):
        models.load_model(tmp_path / "model")


def test_an_encoder_without_its_head_is_refused_at_check(teacher: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {
        k: v for k, v in load_file(teacher / "model.safetensors").items() if not k.startswith("classifier")
    }
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    said = refused(findings(tmp_path, teacher)["teacher t"])
    assert (
        "not a complete classification model" in said
        and "classifier.weight" in said
        and "fine-tune it" in said
    )


def test_weights_that_a_wrapper_saved_are_refused_with_what_to_save(teacher: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    whole = load_file(teacher / "model.safetensors")
    for prefix in ("module.", "_orig_mod."):
        wrapped = {f"{prefix}{name}": weight for name, weight in whole.items()}
        save_file(wrapped, teacher / "model.safetensors", metadata={"format": "pt"})
        said = refused(findings(tmp_path, teacher)["teacher t"])
        assert f"names in the file begin with {prefix}," in said and "fine-tune it" not in said


def test_layers_that_the_configuration_leaves_out_are_said(teacher: Path, tmp_path: Path) -> None:
    """Transformers loads such a checkpoint without its last layers. What it computes anew is no weight."""
    from safetensors.torch import load_file, save_file

    weights = load_file(teacher / "model.safetensors")
    weights["bert.encoder.layer.0.attention.self.inv_freq"] = torch.zeros(2)
    weights["cls.seq_relationship.bias"] = torch.zeros(2)
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    assert "no place" not in findings(tmp_path, teacher)["teacher t"].detail
    first = "bert.encoder.layer.0."
    second = {
        name.replace(first, "bert.encoder.layer.1."): weight.clone()
        for name, weight in weights.items()
        if name.startswith(first)
    }
    save_file(weights | second, teacher / "model.safetensors", metadata={"format": "pt"})
    detail = findings(tmp_path, teacher)["teacher t"].detail
    assert "no place for 16 weights of its layers" in detail
    assert "bert.encoder.layer.1.attention.output.LayerNorm.bias" in detail


def test_weights_of_another_name_are_refused_with_theirs(teacher: Path, tmp_path: Path) -> None:
    (teacher / "model.safetensors").rename(teacher / "model.fp16.safetensors")
    said = refused(findings(tmp_path, teacher)["teacher t"])
    assert "give model.fp16.safetensors the name model.safetensors" in said


def test_a_file_that_is_cut_short_is_refused_at_check(teacher: Path, tmp_path: Path) -> None:
    whole = (teacher / "model.safetensors").read_bytes()
    (teacher / "model.safetensors").write_bytes(whole[:-8])
    assert "is cut short" in refused(findings(tmp_path, teacher)["teacher t"])


def test_labels_that_contradict_are_said(teacher: Path, tmp_path: Path) -> None:
    rewrite(teacher / "config.json", label2id={"negative": 1, "positive": 0})
    detail = findings(tmp_path, teacher)["teacher t"].detail
    assert "note: label2id contradicts id2label" in detail
    assert "{0: 'negative', 1: 'positive'}" in detail and "{'negative': 1, 'positive': 0}" in detail


@pytest.mark.parametrize(
    ("config", "contradicts"),
    [
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}, False),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, False),
        ({"id2label": {"0": "a", "1": "b"}}, False),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "c": 1}}, True),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"bad": 0, "good": 1}}, True),
    ],
)
def test_default_names_contradict_nothing(config: dict[str, Any], contradicts: bool) -> None:
    assert bool(describe_contradiction(config)) is contradicts


def test_transformers_count_of_labels_is_followed_where_no_names_are_given() -> None:
    classifier = {"architectures": ["BertForSequenceClassification"]}
    assert read_label_names(classifier) == ("LABEL_0", "LABEL_1")
    assert read_label_names(classifier | {"num_labels": 3}) == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_several_labels_that_lead_nowhere_are_refused_with_what_to_write(
    teacher: Path, tmp_path: Path
) -> None:
    five = {f"{i}": f"{i + 1} stars" for i in range(5)}
    save(tiny("bert", find_auto_class("classification"), num_labels=5, vocab_size=200), tmp_path / "five")
    rewrite(tmp_path / "five" / "config.json", id2label=five, label2id={v: int(k) for k, v in five.items()})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "five" / name).write_bytes((teacher / name).read_bytes())
    said = refused(findings(tmp_path, tmp_path / "five")["teacher t"])
    assert "several may lead to one, and null drops one" in said and "{1 stars: ..., 2 stars: ...," in said
    mapped = [{"name": "t", "languages": "all", "path": str(teacher), "label_map": {"nagative": "positive"}}]
    said = refused(findings(tmp_path, teacher, teachers=mapped)["teacher t"])
    assert "teachers.t.label_map names labels that the teacher does not have" in said and "nagative" in said


def test_a_teacher_without_a_length_reads_what_it_has_positions_for(teacher: Path, tmp_path: Path) -> None:
    found = findings(tmp_path, teacher, task={"max_length": 64})
    assert "note: reads 24 tokens of a text at most: it has no positions for 64" in found["teacher t"].detail
    assert found["student"].error is None
    teachers = [{"name": "t", "languages": "all", "path": str(teacher), "max_length": 30}]
    said = refused(findings(tmp_path, teacher, teachers=teachers)["teacher t"])
    assert (
        "teachers.t.max_length is more than teacher t has positions for" in said
        and "set teachers.t.max_length: 24" in said
    )


def test_a_pretrained_student_is_compared_with_the_tasks_length(teacher: Path, tmp_path: Path) -> None:
    student = {"kind": "pretrained", "path": str(teacher)}
    found = findings(tmp_path, teacher, task={"max_length": 64})
    assert found["student"].error is None
    run = yaml.safe_load((tmp_path / "run.yaml").read_text()) | {"student": student}
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    found = {f.what: f for f in collect_findings(load_run(tmp_path / "run.yaml", []))}
    said = refused(found["student"])
    assert (
        "task.max_length is more than the student has positions for" in said
        and "set task.max_length: 24" in said
    )


def test_predict_reads_what_the_model_has_positions_for(teacher: Path) -> None:
    from raykd.scoring.model import Model

    long, cut = Model.load(teacher).predict(["good film " * 40, "good film " * 11])
    assert long["probabilities"] == pytest.approx(cut["probabilities"], abs=1e-5)


@pytest.mark.parametrize("length", [1, 2])
def test_a_length_that_special_tokens_fill_is_refused(teacher: Path, tmp_path: Path, length: int) -> None:
    found = findings(tmp_path, teacher, task={"max_length": length})
    for what in ("teacher t", "student"):
        said = refused(found[what])
        assert "task.max_length leaves no room for a text" in said and "at least 3" in said
    assert findings(tmp_path, teacher, task={"max_length": 3})["teacher t"].error is None


def test_a_tokenizer_with_more_ids_than_rows_is_refused(teacher: Path, tmp_path: Path) -> None:
    tokenizer: Any = models.load_tokenizer(teacher)
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(str(teacher))
    said = refused(findings(tmp_path, teacher)["teacher t"])
    assert "gives ids that the model has no row for" in said and "'newword'" in said


def test_a_special_token_without_a_row_is_left_to_the_texts(teacher: Path, tmp_path: Path) -> None:
    tokenizer: Any = models.load_tokenizer(teacher)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    tokenizer.save_pretrained(str(teacher))
    assert models.inspect_model(teacher, "classification").rowless == ("<extra>",)
    assert findings(tmp_path, teacher)["teacher t"].error is None
    said = refused(findings(tmp_path, teacher, text="an <extra> film")["rows"])
    assert "<extra> in 8 training rows" in said
    tokenizer.pad_token = "<extra>"
    tokenizer.save_pretrained(str(teacher))
    assert "has no row for" in refused(findings(tmp_path, teacher)["teacher t"])


def test_rows_that_hold_special_tokens_are_counted(teacher: Path, tmp_path: Path) -> None:
    assert findings(tmp_path, teacher)["rows"].detail == "no special tokens in texts"
    detail = findings(tmp_path, teacher, text="a [SEP] good [MASK] film")["rows"].detail
    assert "8 training rows hold [MASK], [SEP] as text, which teacher t reads as special tokens" in detail


def test_markers_and_a_linear_model_are_refused_together(teacher: Path, tmp_path: Path) -> None:
    task = {"max_length": 20, "markers": ["[E1]", "[/E1]"]}
    made = [{"name": "t", "languages": "all", "training": {"model": {"kind": "linear"}}}]
    said = refused(findings(tmp_path, teacher, task=task, teachers=made)["teacher t"])
    assert "teachers.t.training.model: a linear model" in said and "no marker of the task" in said
    found = findings(tmp_path, teacher, task=task)
    assert "teacher t: a tokenizer cuts markers to pieces" in refused(found["teacher t"])
    assert found["student"].error is None


def test_a_tokenizer_without_its_vocabulary_is_refused(teacher: Path, tmp_path: Path) -> None:
    (teacher / "tokenizer.json").unlink()
    rewrite(teacher / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    assert "has special tokens and no words" in refused(findings(tmp_path, teacher)["teacher t"])


def test_other_json_files_are_not_the_models(teacher: Path, tmp_path: Path) -> None:
    (teacher / "data_config.json").write_text('[{"name": "stackexchange", "weight": 1}]')
    (teacher / "config_sentence_transformers.json").write_text("not JSON")
    (teacher / "1_Pooling").mkdir()
    (teacher / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 384}')
    (teacher / "modules.json").write_text("[]")
    assert findings(tmp_path, teacher)["teacher t"].error is None
    (teacher / "data_config.json").write_text('[{"auto_map": {"AutoModel": "evil.Evil"}}]')
    assert "code of its own" in refused(findings(tmp_path, teacher)["teacher t"])


def test_a_saved_tokenizer_carries_the_length_of_the_run(teacher: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from transformers import AutoTokenizer

    path = models.save_model(replace(models.load_model(teacher), max_length=7), tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(str(path)).model_max_length == 7
    assert len(AutoTokenizer.from_pretrained(str(path))("good film " * 40, truncation=True)["input_ids"]) == 7
    assert models.fingerprint(path) == models.fingerprint(teacher)


def test_labels_of_others_are_still_mapped_one_to_one(teacher: Path, tmp_path: Path) -> None:
    rewrite(teacher / "config.json", id2label={"0": "bad", "1": "good"}, label2id={"bad": 0, "good": 1})
    assert isinstance(findings(tmp_path, teacher)["teacher t"].error, LabelMismatchError)
    mapped = [
        {
            "name": "t",
            "languages": "all",
            "path": str(teacher),
            "label_map": {"bad": "negative", "good": "positive"},
        }
    ]
    assert findings(tmp_path, teacher, teachers=mapped)["teacher t"].error is None


def test_windows_of_questions_need_room(teacher: Path, tmp_path: Path) -> None:
    from raykd.pretrained.lengths import check_room
    from raykd.tasks import QuestionAnswering

    with pytest.raises(ConfigError, match="leaves no room for a question and windows"):
        check_room("task.max_length", 68, (2, 3), QuestionAnswering(max_length=68, stride=64), pairs=True)
    check_room("task.max_length", 128, (2, 3), QuestionAnswering(max_length=128, stride=64), pairs=True)
