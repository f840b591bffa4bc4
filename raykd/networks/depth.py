"""Take layers of a model out: DistilBERT's start (arXiv:1910.01108)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raykd.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def keep_layers(model: PreTrainedModel, layers: tuple[int, ...], folder: Path) -> None:
    """Keep these layers, in this order (DistilBERT's initialisation, arXiv:1910.01108).

    A decoder's layer holds its own number, under which it caches keys and values, so the kept ones are renumbered.
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
