"""`MultiModel`: one encoder with a head a task.

Decision record: a part is transformers' own model of its task (a sequence classifier, a token classifier, ...), and
all parts hold the same encoder weights, not copies of them. So no architecture needs heads of raykd's making, a part
behaves as it would alone, and on disk each task is a folder that `load_model`, a teacher's `path` and
`from_pretrained` take like any other model: nothing else in raykd knows that its encoder is shared. The encoder's
file is written once; the folders of the other tasks hold hard links to it (copies where the file system has no
links).
"""

from __future__ import annotations

import json
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
from raykd.models.textmodel import FORMAT, ModelCard, TextModel, save_model, write_whole_folder
from raykd.pretrained import files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raykd.text.tokens import Tokenizer

KIND = "raykd_multi"
"""The model type in the config.json of a directory that holds a folder a task."""
_SHARED = "model-00001-of-00002.safetensors"
_OWN = "model-00002-of-00002.safetensors"


class MultiHead(nn.Module):
    """The parts as one module: shared weights are one parameter, and stand once in the state dict.

    Args:
        parts: a model a task; weights of the encoder that have the same name and shape become one, the first part's.
    Raises:
        ModelError: two parts that have no such weight in common.
    """

    def __init__(self, parts: Mapping[str, PreTrainedModel]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts))
        self.aliases = _share({name: model for name, model in parts.items()})
        """Names in the state dict that are another one's weight."""
        self.register_state_dict_post_hook(_leave_out_aliases)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_give_aliases)  # type: ignore[no-untyped-call]

    def forward(self, route: str, **inputs: torch.Tensor) -> Any:
        """The outputs of the task ``route`` to the inputs that its model takes."""
        return self.parts[route](**inputs)


@dataclass(frozen=True)
class MultiModel:
    """A model for each task with one encoder. Made by `share` or `load_tasks`.

    model: all parts as one module. parts: of each task its own model, which is a part of that module.
    """

    model: MultiHead
    parts: dict[str, TextModel]

    @property
    def tokenizer(self) -> Tokenizer:
        """The one of all parts."""
        return next(iter(self.parts.values())).tokenizer


def share(parts: Mapping[str, TextModel]) -> MultiModel:
    """Joins models of one architecture: from here they have the encoder of the first.

    Raises:
        ModelError: two that have no encoder in common.
    """
    return MultiModel(MultiHead({name: part.model for name, part in parts.items()}), dict(parts))


def save_tasks(
    student: MultiModel, directory: str | Path, *, cards: Mapping[str, ModelCard] | None = None
) -> Path:
    """Writes a folder a task, each a whole model that `load_model` reads; replaces a directory that raykd wrote before.

    Raises:
        ModelError: the directory holds something else.
    """
    target = Path(directory)
    with write_whole_folder(target) as fresh:
        for name, part in student.parts.items():
            save_model(part, fresh / name, card=(cards or {}).get(name))
        _split(fresh, list(student.parts))
        described = {"format": FORMAT, "task": "multi", "tasks": list(student.parts)}
        (fresh / files.CARD).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        told = {"model_type": KIND, "tasks": list(student.parts)}
        (fresh / files.CONFIG).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(_readme(student), encoding="utf-8")
    return target


def load_tasks(directory: str | Path) -> MultiModel:
    """All parts of a directory that `save_tasks` wrote, with one encoder in memory.

    Raises:
        ModelError: it is no such directory, or a part is broken.
    """
    folder = Path(directory)
    names = files.list_tasks(folder)
    if not names:
        raise ModelError(
            f"{folder} holds no model of several tasks", wanted="a directory that raykd train wrote"
        )
    return share({name: load_model(folder / name) for name in names})


def rebuilt(student: MultiModel, weights: Mapping[str, torch.Tensor]) -> MultiModel:
    """New modules of the same configurations with these weights (a state dict of ``student.model``)."""
    made = {
        name: replace(part, model=type(part.model)(part.model.config)) for name, part in student.parts.items()
    }
    joined = share(made)
    joined.model.load_state_dict(dict(weights))
    return joined


def _share(parts: Mapping[str, PreTrainedModel]) -> dict[str, str]:
    """Makes equal encoder weights one; which name of the state dict stands for which other."""
    first: dict[tuple[str, tuple[int, ...]], tuple[str, nn.Parameter]] = {}
    aliases: dict[str, str] = {}
    for task, model in parts.items():
        met = 0
        for module_name, module in model.named_modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                path = f"{module_name}.{name}" if module_name else name
                if not _in_trunk(model, path):
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


def _in_trunk(model: PreTrainedModel, path: str) -> bool:
    """Whether a weight belongs to the encoder; the rest is the head."""
    prefix = model.base_model_prefix
    if prefix:
        return path.startswith(f"{prefix}.")
    return path.split(".", 1)[0] in getattr(model, "trunk", ())


def _leave_out_aliases(module: nn.Module, state: dict[str, object], prefix: str, meta: object) -> None:
    for alias in getattr(module, "aliases", ()):
        state.pop(prefix + alias, None)


def _give_aliases(module: nn.Module, state: dict[str, object], prefix: str, *rest: Any) -> None:
    aliases: Mapping[str, str] = getattr(module, "aliases", {})
    for alias, name in aliases.items():
        if prefix + name in state:
            state.setdefault(prefix + alias, state[prefix + name])


def _split(folder: Path, names: Sequence[str]) -> None:
    """Weights that all parts have move to one file, of which the other folders hold links."""
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
        (here / files.INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        (here / files.WEIGHTS).unlink()
        for path in (here / _SHARED, here / _OWN):  # safetensors makes files that only their owner may read
            path.chmod((here / files.CARD).stat().st_mode)


def _common(stored: Sequence[Mapping[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights that all parts have under one name, with the same numbers."""
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
    lines = [
        "# One encoder with a head a task",
        "",
        "| folder | task | labels |",
        "| --- | --- | --- |",
        *rows,
    ]
    first = next(iter(student.parts))
    lines += [
        "",
        "Each folder is a model of its own, for `from_pretrained`, for `raykd predict` and as a teacher's",
    ]
    lines += [
        "`path`; the encoder's file is the same in all (hard links). Together, with one encoder in memory:",
        "",
    ]
    lines += ["```python", "import raykd", ""]
    lines += [f'one = raykd.load("<this directory>", task="{first}")', "```", ""]
    return "\n".join(lines)
