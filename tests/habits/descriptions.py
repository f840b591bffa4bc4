"""Models that say of themselves what is not so, or what raykd has to read before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.habits.neighbour import LABELS, LONG, SHORT, Neighbour, edit_json, neighbour, write_run
from tests.habits.padding import save_random_classifier
from tests.made_models import made_texts, make_tokenizer

CHECK = "raykd check run.yaml"
PREDICT = f"raykd predict teacher {SHORT!r} {LONG!r} --json"


def _make(change: Callable[[Path], None], folder: Path, **settings: Any) -> None:
    """A sound teacher of BERT's kind, then what makes it a stranger."""
    save_random_classifier(folder / "teacher", "bert", settings=settings)
    change(folder / "teacher")
    write_run(folder, teacher={})


def _refused(
    change: Callable[[Path], None], *patterns: str, predict: bool = False, **settings: Any
) -> Neighbour:
    """Refused at check by the patterns' words; where predict is true `raykd predict` refuses too."""
    refused = {"refused": {"prints": list(patterns)}}
    steps = [{"run": CHECK, **refused}] + ([{"run": PREDICT, **refused}] if predict else [])
    return neighbour(partial(_make, change, **settings), "refused at check", *steps)


def _served(change: Callable[[Path], None], *patterns: str) -> Neighbour:
    """Served as plain transformers answers; check prints the patterns."""
    return neighbour(
        partial(_make, change), "served",
        {"run": CHECK, "served": {"prints": list(patterns)}},
        {"run": PREDICT, "served": {"values": [{"kind": "plain"}]}},
    )  # fmt: skip


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda teacher: edit_json(teacher / "config.json", **changes)


def _tensors(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """A change of the weights by name."""

    def act(teacher: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(teacher / "model.safetensors")
        change(weights)
        save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})

    return act


def _cut_head(weights: dict[str, Any]) -> None:
    for name in [name for name in weights if name.startswith("classifier")]:
        del weights[name]


def _three_outputs(weights: dict[str, Any]) -> None:
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].repeat(2, *[1] * (weights[name].dim() - 1))[:3].contiguous()


def _larger_tokenizer(teacher: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher)
    tokenizer.add_tokens([f"added{i}" for i in range(8)])
    tokenizer.save_pretrained(teacher)


def _regression(folder: Path) -> None:
    one = {
        "num_labels": 1,
        "id2label": {0: "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "problem_type": "regression",
    }
    save_random_classifier(folder / "teacher", "roberta", "bytes_with_blank", one)
    write_run(folder, teacher={})


def _adapter(base: str, folder: Path) -> None:
    """What peft saves: no config.json."""
    (folder / "teacher").mkdir()
    adapter = {"peft_type": "LORA", "base_model_name_or_path": base, "task_type": "SEQ_CLS", "r": 4}
    (folder / "teacher" / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    (folder / "teacher" / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    make_tokenizer("wordpiece", made_texts(50)[0]).save_pretrained(folder / "teacher")
    write_run(folder, teacher={})


def _two_positions_short(folder: Path) -> None:
    """RoBERTa of 34 positions reads 32 tokens: the first position comes after the padding id."""
    save_random_classifier(folder / "teacher", "roberta", "bytes_with_blank", {"max_position_embeddings": 34})
    edit_json(folder / "teacher" / "tokenizer_config.json", model_max_length=34)
    rows = [
        {"text": f"{text} {LONG} {LONG}", "label": LABELS[i % 2]} for i, text in enumerate(made_texts(12)[0])
    ]
    write_run(folder, rows=rows, task={"max_length": 34}, teacher={})


def _headless_tagger(folder: Path) -> None:
    save_random_classifier(folder / "teacher", "bert")
    _tensors(_cut_head)(folder / "teacher")
    edit_json(folder / "teacher" / "config.json", architectures=["BertForTokenClassification"],
              id2label={"0": "O", "1": "B-LOC"}, label2id={"O": 0, "B-LOC": 1})  # fmt: skip
    rows = [{"tokens": ["in", "Rome"], "tags": ["O", "B-LOC"], "lang": "en"}] * 8
    task = {"kind": "token_classification"}
    write_run(folder, rows=rows, task=task, data={"labels": ["O", "B-LOC"]}, teacher={})


def _special_tokens_inside(folder: Path) -> None:
    save_random_classifier(folder / "teacher", "bert")
    write_run(folder, teacher={})


DESCRIPTIONS: dict[str, Neighbour] = {
    "a regression of one output": neighbour(
        _regression, "refused", {"run": CHECK, "refused": {"prints": ["regression"]}},
    ),
    "a regression of two outputs": _refused(_config(problem_type="regression"), "regression", predict=True),
    "several labels at once": _refused(
        _config(problem_type="multi_label_classification"), "multi_label|problem_type"
    ),
    "one label, said": _served(_config(problem_type="single_label_classification")),
    "three outputs and two labels": _refused(_tensors(_three_outputs), r"\b3\b", "label|head|output"),
    "three labels and two outputs": _refused(
        _config(id2label={"0": "negative", "1": "positive", "2": "neutral"}, label2id=None), r"\b3\b|neutral"
    ),
    "one name for two outputs": _refused(
        _config(id2label={"0": "positive", "1": "positive"}, label2id={"positive": 1}), "positive", "twice|same|two|2|name"
    ),
    "a head that is not in the checkpoint": _refused(_tensors(_cut_head), "classifier|head"),
    "a tagger without its head": neighbour(
        _headless_tagger, "refused", {"run": CHECK, "refused": {"prints": ["classifier|head"]}}
    ),
    "a tokenizer of more tokens than the embeddings": _refused(_larger_tokenizer, "embedding|vocab", "tokenizer"),
    "an adapter whose base is far": neighbour(
        partial(_adapter, "someone/base"), "refused",
        {"run": CHECK, "refused": {"prints": ["adapter", "someone/base|merge"]}},
    ),
    "an adapter without a base": neighbour(
        partial(_adapter, ""), "refused", {"run": CHECK, "refused": {"prints": ["adapter", "merge|base"]}}
    ),
    "positions that begin at two": neighbour(
        _two_positions_short, "bounded or refused",
        {"run": CHECK, "served": {}, "refused": {"prints": ["position", "max_length"]}},
        {"run": f"raykd predict teacher {LONG + ' ' + LONG!r} --json",
         "served": {"values": [{"kind": "plain", "max_length": 32}]}, "refused": {"prints": ["position"]}},
    ),
    "special tokens inside a text": neighbour(
        _special_tokens_inside, "read as transformers reads them, or said",
        {"run": "raykd predict teacher 'good [SEP] room' 'bad [PAD] food' '[CLS] fine [MASK]' --json",
         "served": {"values": [{"kind": "plain"}]}, "refused": {"prints": ["special"]}},
    ),
    "a JSON list that is not the model's": _served(
        lambda teacher: (teacher / "data_config.json").write_text('[{"name": "x", "lines": 3}]', encoding="utf-8") and None
    ),
    "names that contradict": neighbour(
        partial(_make, _config(label2id={"negative": 1, "positive": 0})), "a warning",
        {"run": CHECK, "served": {"prints": ["warn", "label2id"]}, "refused": {"prints": ["label2id"]}},
    ),
    "names in capitals": _refused(
        _config(id2label={"0": "NEGATIVE", "1": "POSITIVE"}, label2id={"NEGATIVE": 0, "POSITIVE": 1}), "label_map", "POSITIVE"
    ),
}  # fmt: skip
