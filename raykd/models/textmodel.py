"""`TextModel`, a model with what is needed to use it, and how one is saved.

Decision record: a directory is what transformers writes (config.json, model.safetensors, the tokenizer's
files), a README.md with a model card, and `raykd.json` with what transformers has no place for. It is written
beside its place and renamed, so that a directory of that name is always whole; what raykd did not write is
never replaced.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.errors import ModelError
from raykd.head import Head
from raykd.networks.heads import LABELLED, PIPELINES, has_labels
from raykd.pretrained.files import CARD
from raykd.pretrained.positions import Positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raykd.text.padding import Padding
    from raykd.text.tokens import Tokenizer

FORMAT = 1


@dataclass(frozen=True)
class TextModel:
    """A model and how it is fed. Made by `load_model` or from a `Student`; read by teachers, evaluation and
    `save_model`.

    labels: in the order of the logits; () where the head has none.
    task: what its head serves.
    kind: the student's kind, or the model type of transformers.
    max_length: tokens it was trained with; None is unknown.
    languages: what it was trained on, empty where unknown.
    no_answer: whether it learnt to say that a context does not answer a question.
    settings: of a language model: lengths and ways of writing that it was trained and judged with, by the task's names.
    positions: where its positions end; None where nobody looked.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    kind: str = "pretrained"
    task: Head = "classification"
    max_length: int | None = None
    languages: tuple[str, ...] = ()
    no_answer: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    positions: Positions | None = None

    @property
    def padding(self) -> Padding:
        """How batches for this model are padded, as its configuration says; the self-test may know better."""
        from raykd.text.padding import read_padding

        return read_padding(self.model, self.tokenizer)


@dataclass(frozen=True)
class ModelCard:
    """What the README.md of a model tells besides what the model itself knows; people read it.

    teachers: names; empty for a model that was trained without any.
    metrics: name to value, for example ``{"test/fr/accuracy": 0.81}``.
    """

    name: str = "model"
    teachers: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    base_model: str | None = None
    license: str | None = None
    notes: str = ""


def parameter_count(model: PreTrainedModel) -> int:
    """Parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def save_model(text_model: TextModel, directory: str | Path, *, card: ModelCard | None = None) -> Path:
    """Writes the model as a directory that `load_model` reads; replaces one that raykd wrote before.

    Raises:
        ModelError: the directory holds something else, or the labels are not those of the model.
    """
    target = Path(directory)
    named = tuple(label for _, label in sorted((text_model.model.config.id2label or {}).items()))
    named = named if text_model.task in LABELLED else ()
    if not has_labels(text_model.labels, named, text_model.task):
        raise ModelError("the labels are not those of the model", got=text_model.labels, wanted=str(named))
    with write_whole_folder(target) as fresh:
        with hide_progress_bars():
            text_model.model.save_pretrained(str(fresh))
        text_model.tokenizer.save_pretrained(str(fresh))
        _write_length(fresh / "tokenizer_config.json", text_model.max_length)
        (fresh / "README.md").write_text(render_model_card(text_model, card or ModelCard()), encoding="utf-8")
        described = {
            "format": FORMAT,
            "kind": text_model.kind,
            "task": text_model.task,
            "labels": list(text_model.labels),
            "max_length": text_model.max_length,
            "languages": list(text_model.languages),
        } | ({"no_answer": True} if text_model.no_answer else {})
        if text_model.settings:
            described["settings"] = dict(text_model.settings)
        (fresh / CARD).write_text(
            json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        for path in fresh.iterdir():  # safetensors makes files that only their owner may read
            path.chmod((fresh / CARD).stat().st_mode)
    return target


def _write_length(path: Path, length: int | None) -> None:
    """Write the length of a run into the tokenizer's settings, so that plain transformers truncates as the run did."""
    if length is not None and path.is_file():
        settings = json.loads(path.read_text(encoding="utf-8")) | {"model_max_length": length}
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def write_whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write a model to, which takes the place of ``target`` when all is written.

    Raises:
        ModelError: the place holds something that raykd did not write.
    """
    if target.exists() and not (target / CARD).is_file() and not _is_empty(target):
        raise ModelError(
            f"{target} exists and is not a model that raykd wrote; it is left alone",
            next_step="choose another directory",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        fresh.mkdir()
        yield fresh
        _put(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def hide_progress_bars() -> Iterator[None]:
    """transformers draws a bar for each file it reads or writes; in the log of an actor they are noise."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def render_model_card(text_model: TextModel, card: ModelCard) -> str:
    """The model card: YAML front matter as the hub reads it, then text."""
    import yaml

    front: dict[str, object] = {
        "language": list(text_model.languages) or None,
        "license": card.license,
        "base_model": card.base_model,
        "library_name": "transformers",
        "pipeline_tag": PIPELINES[text_model.task],
        "tags": ["raykd", *(["knowledge-distillation"] if card.teachers else [])],
    }
    known = {key: value for key, value in front.items() if value is not None}
    facts = [
        ("task", text_model.task),
        ("kind", text_model.kind),
        ("labels, in the order of the logits", ", ".join(text_model.labels) or "none"),
        ("languages", ", ".join(text_model.languages) or "unknown"),
        ("longest text", f"{text_model.max_length} tokens" if text_model.max_length else "unknown"),
        ("parameters", f"{parameter_count(text_model.model):,}"),
        ("teachers", ", ".join(card.teachers) or "none"),
    ]
    lines = [
        "---",
        yaml.safe_dump(known, allow_unicode=True, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {card.name}",
        "",
    ]
    if card.notes:
        lines += [card.notes, ""]
    lines += _table("fact", "value", facts)
    if card.metrics:
        lines += [
            "## Metrics",
            "",
            *_table("metric", "value", [(k, f"{v:.4f}") for k, v in card.metrics.items()]),
        ]
    lines += ["## Use", "", "```python", "import raykd", ""]
    lines += ['student = raykd.load("<this directory>")', "```", ""]
    lines += ["`student.predict` takes texts and gives what `raykd predict` writes. transformers loads the"]
    lines += ["model too (after `raykd.models.register()` where its kind is `linear` or `lstm`).", ""]
    return "\n".join(lines)


def _table(left: str, right: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    body = [f"| {a} | {b.replace('|', chr(92) + '|')} |" for a, b in rows]
    return [f"| {left} | {right} |", "| --- | --- |", *body, ""]


def _put(fresh: Path, target: Path) -> None:
    """Renames; a directory cannot be renamed onto one that holds files, so an old one first steps aside."""
    if not target.exists() or _is_empty(target):
        fresh.replace(target)
        return
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    target.rename(aside)
    try:
        fresh.replace(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
