"""A checkpoint as the beginning of a student.

Decision record: a student keeps the encoder of a checkpoint and, where its head serves the same task with the same
labels in the same order, its head. Whether that can be done is tried on torch's meta device before a run starts, by
the code that does it when the student is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.errors import ModelError
from raykd.head import Head
from raykd.models.loading import read_model
from raykd.networks.heads import LABELLED, LANGUAGE, build_label_settings, choose_head, read_head, register
from raykd.pretrained import files
from raykd.pretrained.adapters import is_adapter
from raykd.pretrained.hub import raise_as_model_error, resolve_model
from raykd.pretrained.jsonfile import read_json
from raykd.pretrained.labels import read_label_names
from raykd.pretrained.positions import Positions, count_positions
from raykd.pretrained.structure import build_empty, find_missing_weights
from raykd.pretrained.tokenizers import (
    TokenizerFacts,
    check_placed,
    check_words,
    inspect_tokenizer,
    load_tokenizer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class BaseInspection:
    """What was found of a checkpoint that a student starts from. Made by `inspect_base`.

    Attributes:
        kind: Its model type.
        positions: Where its positions end.
        tokenizer: What its tokenizer says.
    """

    kind: str
    positions: Positions
    tokenizer: TokenizerFacts


def inspect_base(
    folder: Path,
    labels: tuple[str, ...],
    head: Head,
    *,
    trust_remote_code: bool = False,
    layers: tuple[int, ...] | None = None,
) -> BaseInspection:
    """Look at a checkpoint that a student is to start from; reads no weights.

    Args:
        folder: Its directory.
        labels: The run's; () where the head has none.
        head: What the student learns.
        trust_remote_code: Whether code that comes with it may run.
        layers: Those that the student keeps; None keeps all.

    Raises:
        ModelError: As `load_for_training` would raise.
    """
    check_base(folder, head, trust_remote_code)
    register()
    stored = files.read_stored_weights(folder)
    with raise_as_model_error(f"the model {folder} cannot be loaded"):
        model = build_empty(
            folder, head, trust_remote_code=trust_remote_code, **build_label_settings(labels, head)
        )
        missing, _ = find_missing_weights(model, stored)
    fit_to_task(model, missing, folder, labels, head, layers)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    check_words(tokenizer, str(folder))
    check_placed(tokenizer, head, str(folder))
    kind = str(read_json(folder / files.CONFIG).get("model_type") or "unknown")
    return BaseInspection(kind, count_positions(model), inspect_tokenizer(tokenizer))


def check_base(folder: Path, head: Head, trust_remote_code: bool) -> None:
    """Refuse a directory that must not be loaded, or that has no head of a language model where one is needed.

    Raises:
        ModelError: With what to name instead.
    """
    if is_adapter(folder):
        raise ModelError(
            f"{folder} holds an adapter, and a student starts from a whole model",
            next_step="merge the adapter into its base (peft: merge_and_unload), save that, and name the folder",
        )
    files.check_directory(folder, trust_remote_code=trust_remote_code)
    if head in LANGUAGE:
        choose_head(folder, read_head(read_json(folder / files.CONFIG)), head)


def load_for_training(
    path: str | Path,
    labels: tuple[str, ...],
    head: Head = "classification",
    *,
    revision: str | None,
    trust_remote_code: bool,
    layers: tuple[int, ...] | None,
) -> PreTrainedModel:
    """A checkpoint as a float32 student: with a new head where its task or its labels differ, perhaps fewer layers.

    What is drawn anew comes from torch's CPU generator, which the caller seeds.

    Raises:
        ModelError: as `load_model`; or the head or the layers cannot be told from the rest.
    """
    import torch

    folder = resolve_model(path, revision=revision, trust_remote_code=trust_remote_code)
    check_base(folder, head, trust_remote_code)
    settings = build_label_settings(labels, head)
    model, missing = read_model(
        folder, head, trust_remote_code, dtype=torch.float32, ignore_mismatched_sizes=True, **settings
    )
    fit_to_task(model, missing, folder, labels, head, layers)
    return model


def fit_to_task(
    model: PreTrainedModel,
    missing: list[str],
    folder: Path,
    labels: tuple[str, ...],
    head: Head,
    layers: tuple[int, ...] | None,
) -> None:
    """Give a loaded checkpoint the head of a task and the layers that are kept.

    Args:
        model: With the run's labels in its configuration; on the meta device nothing is drawn.
        missing: Weights that the checkpoint lacked or had in another shape.
        folder: Where it was.
        labels: The run's.
        head: What the student learns.
        layers: Those that are kept; None keeps all.

    Raises:
        ModelError: The encoder is not whole, the head cannot be told from the rest, or it has no such layers.
    """
    config = read_json(folder / files.CONFIG)
    own, own_head = read_label_names(config), read_head(config)
    outside = [name for name in missing if not _in_encoder(model, name)]
    lost = [name for name in missing if _in_encoder(model, name) and "pooler" not in name]
    if lost or len(missing) == len(model.state_dict()) or (outside and head in LANGUAGE):
        raise ModelError(
            f"{folder} does not hold the weights of a model for {head} that fit these labels",
            got=f"missing or of another shape: {', '.join(missing[:8])}",
            wanted=f"a checkpoint with a {head} head"
            if head in LANGUAGE
            else "a checkpoint of this encoder; of a linear model, one with the same labels",
        )
    # Sigmoids and regressions are no choice among labels, even where the names are the run's.
    other = head == "classification" and config.get("problem_type") in (
        "multi_label_classification",
        "regression",
    )
    if head in LABELLED and ((own, own_head or head) != (labels, head) or other) and not outside:
        _new_head(model, folder)
    if layers is not None:
        _keep_layers(model, layers, folder)


def _new_head(model: PreTrainedModel, folder: Path) -> None:
    """Draws the last layer anew: its old columns stand for other labels, or for the same in another order."""
    import torch
    from torch import nn

    heads = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and not _in_encoder(model, name)
    ]
    if len(heads) != 1:
        raise ModelError(
            f"the head of {folder} cannot be told from the rest, and its labels are not the run's",
            got=list(files.read_labels(folder)),
            wanted=str(list((model.config.id2label or {}).values())),
        )
    with torch.no_grad():
        heads[0].weight.normal_(std=getattr(model.config, "initializer_range", 0.02))
        if heads[0].bias is not None:
            heads[0].bias.zero_()


def _in_encoder(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight or module belongs to the encoder; the rest is the head."""
    return bool(model.base_model_prefix) and name.startswith(f"{model.base_model_prefix}.")


def _keep_layers(model: PreTrainedModel, layers: tuple[int, ...], folder: Path) -> None:
    """Keeps these layers, in this order (DistilBERT's initialisation, arXiv:1910.01108).

    A layer of a decoder knows its place, under which it caches what it saw; places are counted anew.
    """
    from torch import nn

    count = getattr(model.config, "num_hidden_layers", None)
    stacks = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count and name in ("layer", "layers", "h")
    ]
    if len(stacks) != 1 or max(layers) >= len(getattr(*stacks[0])) or hasattr(model.config, "layer_types"):
        raise ModelError(
            f"layers {list(layers)} cannot be taken from {folder}",
            got=f"{count} layers" if stacks else "no stack of layers",
            wanted="an encoder such as BERT or a decoder such as GPT-2, with layers counted from 0",
        )
    parent, name = stacks[0]
    stack = getattr(parent, name)
    kept = nn.ModuleList(stack[i] for i in layers)
    setattr(parent, name, kept)
    for place, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", place)  # noqa: B010  (mypy takes attributes of modules for tensors)
    model.config.num_hidden_layers = len(layers)
