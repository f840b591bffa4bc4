"""`MultiModel`: one encoder with a head per task; `PairModel`: two networks that learn from each other.

Decision record: each part is transformers' own model for its task (a sequence classifier, a token classifier, ...), and
all parts hold the same encoder weights, not copies. So no architecture needs heads of raykd's own, and a part behaves
as it would alone. On disk each task is a folder that `load_model`, a teacher's `path` and `from_pretrained` accept like
any other model, and nothing else in raykd knows that its encoder is shared. The encoder's file is written once; the
folders of the other tasks hold hard links to it, or copies if the file system has no links.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raykd.errors import ModelError
from raykd.models.loading import load_model
from raykd.models.textmodel import (
    FORMAT,
    ModelCard,
    TextModel,
    let_others_read,
    save_model,
    write_json,
    write_whole_folder,
)
from raykd.networks.crf import build_like
from raykd.pretrained import files
from raykd.pretrained.structure import is_in_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.generic import ModelOutput

    from raykd.text.tokens import Tokenizer

PEER = "peer"
"""The route to the second network."""
KIND = "raykd_multi"
"""The model type in the config.json of a directory that holds a folder per task."""
_SHARED = "model-00001-of-00002.safetensors"
_OWN = "model-00002-of-00002.safetensors"


class MultiHead(nn.Module):
    """The parts as one module. A shared weight is one parameter, and is in the state dict once.

    Args:
        parts: The model of each task. Encoder weights with the same name and shape become one, the first part's.

    Raises:
        ModelError: A part has no such weight in common with the first.
    """

    def __init__(self, parts: Mapping[str, PreTrainedModel]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts))
        self.aliases = _tie_encoders(parts)
        """Names that are left out of the state dict, and the names under which it holds their weights."""
        self.register_state_dict_post_hook(_leave_out_aliases)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_give_aliases)  # type: ignore[no-untyped-call]

    def forward(self, route: str, **inputs: torch.Tensor) -> ModelOutput:
        """Return the outputs of one task's model.

        Args:
            route: The task's name.
            **inputs: As its model takes them.
        """
        outputs: ModelOutput = self.parts[route](**inputs)
        return outputs


class Pair(nn.Module):
    """Both networks as one module.

    Args:
        student: The first one.
        peer: The second one.
    """

    def __init__(self, student: TextModel, peer: TextModel) -> None:
        super().__init__()
        self.student, self.peer = student.model, peer.model
        self._paddings = {"": student.padding, PEER: peer.padding}

    def forward(self, route: str = "", **inputs: torch.Tensor) -> Any:
        """Return the outputs of the student, or of its peer where `route` says so, each of the inputs that it takes."""
        own = {name: value for name, value in inputs.items() if self._paddings[route].takes(name)}
        return self.peer(**own) if route == PEER else self.student(**own)


@dataclass(frozen=True)
class MultiModel:
    """A model per task, all with one encoder. Made by `share_encoder` or `load_tasks`.

    Attributes:
        model: All parts as one module.
        parts: The model of each task, which is a part of that module.
    """

    model: MultiHead
    parts: dict[str, TextModel]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that all parts share."""
        return next(iter(self.parts.values())).tokenizer


@dataclass(frozen=True)
class PairModel:
    """A student and its peer. Made by `pair_up`.

    Attributes:
        model: Both as one module.
        student: The student; its model is a part of that module, as the peer's is.
        peer: The peer.
    """

    model: Pair
    student: TextModel
    peer: TextModel

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that both share."""
        return self.student.tokenizer


StudentModel = TextModel | MultiModel | PairModel
"""What a loop trains: one network, one with a head a task, or a pair."""


def pair_up(student: TextModel, peer: TextModel) -> PairModel:
    """Return a student and its peer as one."""
    return PairModel(Pair(student, peer), student, peer)


def share_encoder(parts: Mapping[str, TextModel]) -> MultiModel:
    """Join models of one architecture; all of them get the encoder of the first.

    Raises:
        ModelError: Two of them have no encoder in common.
    """
    return MultiModel(MultiHead({name: part.model for name, part in parts.items()}), dict(parts))


def save_tasks(
    student: MultiModel, directory: str | Path, *, cards: Mapping[str, ModelCard] | None = None
) -> Path:
    """Write a folder per task, each a whole model that `load_model` reads; replaces a directory that raykd wrote.

    Args:
        student: The models.
        directory: Where the folders go.
        cards: What their README.md files add, by task.

    Raises:
        ModelError: The directory holds something else.
    """
    target = Path(directory)
    with write_whole_folder(target) as fresh:
        for name, part in student.parts.items():
            save_model(part, fresh / name, card=(cards or {}).get(name))
        _split(fresh, list(student.parts))
        described = {"format": FORMAT, "task": "multi", "tasks": list(student.parts)}
        write_json(fresh / files.CARD, described)
        write_json(fresh / files.CONFIG, {"model_type": KIND, "tasks": list(student.parts)})
        (fresh / "README.md").write_text(_readme(student), encoding="utf-8")
    return target


def load_tasks(directory: str | Path) -> MultiModel:
    """Load all parts of a directory that `save_tasks` wrote, with one encoder in memory.

    Raises:
        ModelError: It is no such directory, or a part is broken.
    """
    folder = Path(directory)
    names = files.list_tasks(folder)
    if not names:
        raise ModelError(
            f"{folder} holds no model of several tasks", wanted="a directory that raykd train wrote"
        )
    return share_encoder({name: load_model(folder / name) for name in names})


def rebuild_tasks(student: MultiModel, weights: Mapping[str, torch.Tensor]) -> MultiModel:
    """Build new modules with the configurations of a student and other weights.

    Args:
        student: Gives the configurations, tokenizers and labels.
        weights: A state dict of ``student.model``.
    """
    rebuilt = share_encoder(
        {name: replace(part, model=build_like(part.model)) for name, part in student.parts.items()}
    )
    rebuilt.model.load_state_dict(dict(weights))
    return rebuilt


def _tie_encoders(parts: Mapping[str, PreTrainedModel]) -> dict[str, str]:
    """Make encoder weights of one name and shape one parameter.

    Returns:
        For each name in the state dict that became another one's weight, that other name.
    """
    first: dict[tuple[str, tuple[int, ...]], tuple[str, nn.Parameter]] = {}
    aliases: dict[str, str] = {}
    for task, model in parts.items():
        met = 0
        for module_name, module in model.named_modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                path = f"{module_name}.{name}" if module_name else name
                if not is_in_encoder(model, path):
                    continue
                here = f"parts.{task}.{path}"
                where, shared = first.setdefault((path, tuple(weight.shape)), (here, weight))
                if where != here:
                    setattr(module, name, shared)
                    aliases[here] = where
                    met += 1
        if not met and model is not next(iter(parts.values())):
            raise ModelError(
                f"task {task} has no encoder weight in common with {next(iter(parts))}",
                got=f"{type(model).__name__} beside {type(next(iter(parts.values()))).__name__}",
                wanted="models of one encoder",
                next_step="choose a student of kind transformer, lstm or pretrained",
            )
    return aliases


def _leave_out_aliases(module: nn.Module, state: dict[str, object], prefix: str, meta: object) -> None:
    for alias in getattr(module, "aliases", ()):
        state.pop(prefix + alias, None)


def _give_aliases(module: nn.Module, state: dict[str, object], prefix: str, *rest: object) -> None:
    aliases: Mapping[str, str] = getattr(module, "aliases", {})
    for alias, name in aliases.items():
        if prefix + name in state:
            state.setdefault(prefix + alias, state[prefix + name])


def _split(folder: Path, names: Sequence[str]) -> None:
    """Move the weights that all parts have to one file, to which the other folders hold links."""
    from safetensors.torch import load_file, save_file

    stored = {name: load_file(folder / name / files.WEIGHTS) for name in names}
    common = dict(_common(list(stored.values())))
    if len(names) < 2 or not common:
        return
    for name in names:
        here, own = folder / name, {k: v for k, v in stored[name].items() if k not in common}
        if name == names[0]:
            save_file(common, here / _SHARED, metadata={"format": "pt"})
        else:
            _link(folder / names[0] / _SHARED, here / _SHARED)
        save_file(own, here / _OWN, metadata={"format": "pt"})
        size = sum(v.numel() * v.element_size() for v in stored[name].values())
        places = {key: _SHARED if key in common else _OWN for key in stored[name]}
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        write_json(here / files.INDEX, index)
        (here / files.WEIGHTS).unlink()
        let_others_read(here / _SHARED, here / _OWN)


def _common(stored: Sequence[Mapping[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights that all parts have under one name, with the same numbers."""
    for name, weight in stored[0].items():
        others = [part.get(name) for part in stored[1:]]
        if all(o is not None and o.shape == weight.shape and torch.equal(o, weight) for o in others):
            yield name, weight


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _readme(student: MultiModel) -> str:
    rows = [
        f"| {name} | {part.task} | {', '.join(part.labels) or 'none'} |"
        for name, part in student.parts.items()
    ]
    return _README.format(rows="\n".join(rows), first=next(iter(student.parts)))


_README = """\
# One encoder with a head per task

| folder | task | labels |
| --- | --- | --- |
{rows}

Each folder is a model of its own, for `from_pretrained`, for `raykd predict` and as a teacher's `path`. The encoder's
file is the same in all of them (hard links). To load one of them:

```python
import raykd

one = raykd.load("<this directory>", task="{first}")
```
"""
