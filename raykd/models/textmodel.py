"""`TextModel`, a model with what is needed to use it, and how it is saved.

Decision record: a saved model is the directory that transformers writes (config.json, model.safetensors, the
tokenizer's files), a README.md with a model card, and `raykd.json` for what transformers has no place for. It is
written beside its place and then renamed, so a directory of that name is always complete. A directory that raykd did
not write is never replaced.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.errors import ModelError
from raykd.head import Head, TaskSettings
from raykd.keys import make_key_part
from raykd.models.tuning import is_adapted, save_adapter
from raykd.networks.heads import LABELLED, PIPELINES, has_labels
from raykd.networks.routing import is_routed, merges_copies, name_adapter
from raykd.pretrained.adapters import LANGUAGES
from raykd.pretrained.files import CARD
from raykd.pretrained.positions import Positions
from raykd.pretrained.structure import silence_transformers
from raykd.text.tokens import list_adapters

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from raykd.text.padding import Padding
    from raykd.text.tokens import Tokenizer

FORMAT = 1


@dataclass(frozen=True)
class TextModel:
    """A model, its tokenizer and its labels. Made by `load_model` or from a `Student`.

    Attributes:
        model: With the head of its task.
        tokenizer: Gives its inputs.
        labels: In the order of the logits; () for a head without labels.
        kind: The student's kind, or the model type of transformers.
        task: What its head serves.
        max_length: Longest texts in training, in tokens; None if unknown.
        languages: What it was trained on; () if unknown.
        no_answer: Whether it learnt to say that a context does not answer a question.
        pairs: Whether all texts that it learnt from came with a second one.
        settings: Lengths and ways of writing that a language model was trained and evaluated with, by the task's keys.
        positions: Where its positions end; None if it was not inspected.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    kind: str = "pretrained"
    task: Head = "classification"
    max_length: int | None = None
    languages: tuple[str, ...] = ()
    no_answer: bool = False
    pairs: bool = False
    settings: TaskSettings = field(default_factory=dict)
    positions: Positions | None = None

    @property
    def padding(self) -> Padding:
        """How batches are padded, by the model's configuration; a self-test may find a better answer."""
        from raykd.text.padding import read_padding

        return read_padding(self.model, self.tokenizer)


@dataclass(frozen=True)
class ModelCard:
    """What the README.md of a saved model adds to what the model itself knows.

    Attributes:
        name: The title.
        teachers: Their names; () for a model that was trained without any.
        metrics: For example ``{"test/fr/accuracy": 0.81}``.
        base_model: What a student started from.
        license: As the hub names it.
        notes: A paragraph of Markdown.
    """

    name: str = "model"
    teachers: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    base_model: str | None = None
    license: str | None = None
    notes: str = ""


def count_parameters(model: PreTrainedModel, *, trained: bool = False) -> int:
    """Count parameters, all or only those that are trained; shared ones count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def save_model(text_model: TextModel, directory: str | Path, *, card: ModelCard | None = None) -> Path:
    """Write the model as a directory that `load_model` reads; replaces a directory that raykd wrote.

    Args:
        text_model: The model.
        directory: Where it goes.
        card: What its README.md adds.

    Raises:
        ModelError: The directory holds something else, or the labels are not the model's.
    """
    target = Path(directory)
    named = tuple(label for _, label in sorted((text_model.model.config.id2label or {}).items()))
    named = named if text_model.task in LABELLED else ()
    if not has_labels(text_model.labels, named, text_model.task):
        raise ModelError("the labels are not those of the model", got=text_model.labels, wanted=str(named))
    with write_whole_folder(target) as fresh:
        if is_routed(text_model.model):
            _write_adapters(text_model, fresh, card or ModelCard())
        else:
            _write_model(text_model, fresh, card or ModelCard())
        let_others_read(*(path for path in fresh.rglob("*") if path.is_file()))
    return target


def _write_model(
    text_model: TextModel, folder: Path, card: ModelCard, save: Callable[[Path], object] | None = None
) -> None:
    """Write the files of a model, or of one of its adapters, which `save` then writes."""
    folder.mkdir(parents=True, exist_ok=True)
    with silence_transformers():
        if save is not None:
            save(folder)
        elif is_adapted(text_model.model):
            save_adapter(text_model.model, folder)
        else:
            text_model.model.save_pretrained(str(folder))
    text_model.tokenizer.save_pretrained(str(folder))
    _write_length(folder / "tokenizer_config.json", text_model.max_length)
    (folder / "README.md").write_text(render_model_card(text_model, card), encoding="utf-8")
    described = {
        "format": FORMAT,
        "kind": text_model.kind,
        "task": text_model.task,
        "labels": list(text_model.labels),
        "max_length": text_model.max_length,
        "languages": list(text_model.languages),
    } | {name: True for name in ("no_answer", "pairs") if getattr(text_model, name)}
    if text_model.settings:
        described["settings"] = dict(text_model.settings)
    write_json(folder / CARD, described)


def _write_adapters(text_model: TextModel, folder: Path, card: ModelCard) -> None:
    """Write a folder that routes texts to adapters, and in it one for each language, which stands alone."""
    from raykd.models.loading import load_model

    model = text_model.model
    _write_model(text_model, folder, card, lambda place: model.config.save_pretrained(str(place)))
    places = {
        language: f"adapters/{make_key_part(language)}" for language in list_adapters(text_model.tokenizer)
    }
    for number, (language, place) in enumerate(places.items()):
        own = replace(text_model, languages=(language,))
        save = partial(save_adapter, model, name=name_adapter(number))
        _write_model(own, folder / place, replace(card, name=f"{card.name}, {language}"), save)
        if merges_copies(model):
            merged = load_model(folder / place)
            _write_model(merged, folder / "merged" / make_key_part(language), card)
    write_json(folder / LANGUAGES, places)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file for programs and people."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def let_others_read(*paths: Path) -> None:
    """Give files of one folder the mode of its raykd.json; safetensors makes files that only their owner may read."""
    for path in paths:
        place = next(parent for parent in path.parents if (parent / CARD).is_file())
        path.chmod((place / CARD).stat().st_mode)


def _write_length(path: Path, length: int | None) -> None:
    """Write the length of a run into the tokenizer's settings, so that plain transformers truncates as the run did."""
    if length is not None and path.is_file():
        write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"model_max_length": length})


@contextmanager
def use_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch off dropout and the like while the body runs."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def write_whole_folder(target: Path) -> Iterator[Path]:
    """Give the body a new folder to write a model to, which replaces the target when the body has ended.

    Args:
        target: The model's directory.

    Raises:
        ModelError: The target holds something that raykd did not write.
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


def render_model_card(text_model: TextModel, card: ModelCard) -> str:
    """Render the README.md: front matter as the hub reads it, then text."""
    from huggingface_hub import ModelCardData

    front = ModelCardData(
        language=list(text_model.languages) or None,
        license=card.license,
        base_model=card.base_model,
        library_name="transformers",
        pipeline_tag=PIPELINES[text_model.task],
        tags=["raykd", *(["knowledge-distillation"] if card.teachers else [])],
    )
    facts = {
        "task": text_model.task,
        "kind": text_model.kind,
        "labels, in the order of the logits": ", ".join(text_model.labels) or "none",
        "languages": ", ".join(text_model.languages) or "unknown",
        "longest text": f"{text_model.max_length} tokens" if text_model.max_length else "unknown",
        "parameters": f"{count_parameters(text_model.model):,}",
        "teachers": ", ".join(card.teachers) or "none",
    }
    metrics = {name: f"{value:.4f}" for name, value in card.metrics.items()}
    parts = [f"---\n{front.to_yaml()}\n---", f"# {card.name}", card.notes, _table("fact", facts)]
    parts += ["## Metrics", _table("metric", metrics)] if metrics else []
    others = _ADAPTER_OTHERS if is_adapted(text_model.model) else _OTHERS
    routed = is_routed(text_model.model) and len(text_model.languages) > 1
    use = _USE.format(others=_ROUTED_OTHERS if routed else others)
    return "\n\n".join(part for part in [*parts, use] if part)


_USE = """\
## Use

```python
import raykd

student = raykd.load("<this directory>")
```

`student.predict` takes texts and returns what `raykd predict` writes. {others}
"""
_OTHERS = "transformers loads the model too (after\n`raykd.models.register()` where its kind is `linear` or `lstm`)."
_ADAPTER_OTHERS = "It is an adapter: peft loads it beside its base,\nwhich adapter_config.json names."
_ROUTED_OTHERS = (
    "It has an adapter for each of its languages, so each text needs\nits language. "
    "Each folder in `adapters` is one of them: peft loads it beside its base, which its adapter_config.json names."
)


def _table(title: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows.items()]
    return "\n".join([f"| {title} | value |", "| --- | --- |", *lines])


def _put(fresh: Path, target: Path) -> None:
    """Rename the new folder to the target, which is moved aside first: only an empty directory can be replaced."""
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
