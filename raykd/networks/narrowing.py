"""Take width out of a transformer encoder: hidden columns, attention heads and feed-forward units, by importance.

Decision record: what is left is an ordinary checkpoint of the same class, so all layers have equally many heads and
units, and a head keeps its width (transformers stores no other shape of a BERT): heads leave together with hidden
columns. Kept numbers are the checkpoint's own. A rotation (principal components) would not commute with the layer norms
between the matrices, so columns are chosen and not mixed.

PartScores is first-order (arXiv:1905.10650, arXiv:1611.06440): every part gets a gate of 1, and the mean over rows of
the absolute gradient of the loss at its gate estimates what its removal costs. Magnitude needs no rows: the norm of
what a part reads times that of what it writes.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from raykd.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

_LAYER = re.compile(r"(?:^|\.)layer\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class _Layout:
    """Names of a family: settings of its configuration, and modules of a layer."""

    hidden: str
    heads: str
    units: str
    reads: tuple[str, str, str]
    """Queries, keys and values: from the state to the heads."""
    mixes: str
    """From the heads to the state."""
    widens: str
    narrows: str


_BERT = _Layout(
    "hidden_size", "num_attention_heads", "intermediate_size",
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense", "intermediate.dense", "output.dense",
)  # fmt: skip
_DISTILBERT = _Layout(
    "dim", "n_heads", "hidden_dim",
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"), "attention.out_lin", "ffn.lin1", "ffn.lin2",
)  # fmt: skip
_LAYOUTS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _BERT),
    "distilbert": _DISTILBERT,
}


@dataclass(frozen=True)
class PartScores:
    """How important each part of an encoder is; larger is more.

    Attributes:
        hidden_D: Of each hidden column, over all layers.
        heads_LH: Of each head of each layer.
        units_LF: Of each feed-forward unit of each layer.
    """

    hidden_D: torch.Tensor
    heads_LH: torch.Tensor
    units_LF: torch.Tensor


def narrow(
    model: PreTrainedModel,
    name: str,
    hidden: int | None,
    feed_forward: int | None,
    measure: Callable[[PreTrainedModel], PartScores] | None,
) -> PreTrainedModel:
    """Return a model with the most important hidden columns, heads and feed-forward units of another.

    Args:
        model: The whole one. On the meta device nothing is measured, and the first parts are kept.
        name: The checkpoint's, for messages.
        hidden: Width that is kept; None keeps all columns and heads.
        feed_forward: Units of a layer that are kept; None keeps all.
        measure: Measures the importance of the model's parts; None measures magnitudes.

    Raises:
        ModelError: The family is unknown, or has no such width.
    """
    import torch

    layout, config = _find_layout(model, name), model.config
    before = {key: int(getattr(config, key)) for key in (layout.hidden, layout.heads, layout.units)}
    width = before[layout.hidden] // before[layout.heads]
    wanted = {
        layout.hidden: hidden or before[layout.hidden],
        layout.units: feed_forward or before[layout.units],
    }
    wanted[layout.heads] = wanted[layout.hidden] // width
    _check_sizes(name, before, wanted, layout, width)
    if wanted == before:
        return model
    if model.device.type == "meta":
        kept = _Kept(
            torch.arange(wanted[layout.hidden]), torch.arange(wanted[layout.hidden]).repeat(99, 1),
            torch.arange(wanted[layout.units]).repeat(99, 1),
        )  # fmt: skip
    else:
        kept = _choose(measure_magnitude(model) if measure is None else measure(model), wanted, layout, width)
    narrower = copy.deepcopy(config)
    narrower.update(
        wanted | ({"embedding_size": hidden} if _shares_width(config, before[layout.hidden]) else {})
    )
    made: PreTrainedModel = type(model)(narrower)
    state = model.state_dict()
    with torch.no_grad():
        for key, target in made.state_dict().items():
            target.copy_(_slice(key, state[key], target.shape, kept, layout))
    made.train(model.training)
    return made


def measure_magnitude(model: PreTrainedModel) -> PartScores:
    """Measure the importance of the parts of an encoder by the size of their weights."""
    import torch

    layout, layers = _find_layout(model, ""), list(_list_layers(model))
    heads = int(getattr(model.config, layout.heads))
    with torch.no_grad():
        reading = [part[key].weight for part in layers for key in (*layout.reads, layout.widens)]
        hidden_D = torch.stack([weight.square().sum(0) for weight in reading]).sum(0).sqrt()
        heads_LH = torch.stack(
            [
                part[layout.reads[2]].weight.reshape(heads, -1).norm(dim=1)
                * part[layout.mixes].weight.T.reshape(heads, -1).norm(dim=1)
                for part in layers
            ]
        )
        units_LF = torch.stack(
            [
                part[layout.widens].weight.norm(dim=1) * part[layout.narrows].weight.norm(dim=0)
                for part in layers
            ]
        )
    return PartScores(hidden_D, heads_LH, units_LF)


def measure_taylor(
    model: PreTrainedModel, losses: Callable[[PreTrainedModel], Iterable[torch.Tensor]]
) -> PartScores:
    """Measure the importance of the parts of an encoder by the gradient of the loss at a gate of each part.

    Args:
        model: With the head that the loss is of.
        losses: Runs the model over batches of rows, and yields the loss of each: a sum of the rows' own.

    Returns:
        Means over rows of absolute gradients.
    """
    import torch

    layout, layers = _find_layout(model, ""), list(_list_layers(model))
    heads = int(getattr(model.config, layout.heads))
    sums: dict[str, torch.Tensor] = {}
    was_training = model.training
    model.eval()
    with _gating(model, layout) as gates:
        for loss in losses(model):
            found = [gate for each in gates.values() for gate in each]
            gradients = iter(torch.autograd.grad(loss, found))
            for place, each in gates.items():
                for _ in each:
                    gradient_BD = next(gradients).squeeze(1)
                    if place.startswith("heads"):
                        gradient_BD = gradient_BD.reshape(len(gradient_BD), heads, -1).sum(-1)
                    sums[place] = sums.get(place, torch.zeros(())) + gradient_BD.abs().sum(0)
                each.clear()
    model.train(was_training)
    count = range(len(layers))
    return PartScores(
        sums["hidden"],
        torch.stack([sums[f"heads {at}"] for at in count]),
        torch.stack([sums[f"units {at}"] for at in count]),
    )


@dataclass(frozen=True)
class _Kept:
    """Indices that are kept: hidden columns, columns of heads by layer, units by layer; each in ascending order."""

    hidden: torch.Tensor
    heads: torch.Tensor
    units: torch.Tensor


def _choose(found: PartScores, wanted: dict[str, int], layout: _Layout, width: int) -> _Kept:
    import torch

    def best(scores: torch.Tensor, count: int) -> torch.Tensor:
        return scores.topk(count, dim=-1).indices.sort(dim=-1).values

    heads_LH = best(found.heads_LH, wanted[layout.heads])
    columns_LD = (heads_LH[..., None] * width + torch.arange(width)).flatten(1)
    return _Kept(
        best(found.hidden_D, wanted[layout.hidden]), columns_LD, best(found.units_LF, wanted[layout.units])
    )


def _slice(name: str, weight: torch.Tensor, shape: torch.Size, kept: _Kept, layout: _Layout) -> torch.Tensor:
    """Return the part of a weight that is kept."""
    found = _LAYER.search(name)
    layer, module = (int(found[1]), found[2].rpartition(".")[0]) if found else (0, "")
    rows = columns = kept.hidden
    if module in layout.reads:
        rows = kept.heads[layer]
    elif module == layout.mixes:
        columns = kept.heads[layer]
    elif module == layout.widens:
        rows = kept.units[layer]
    elif module == layout.narrows:
        columns = kept.units[layer]
    # An axis that is as long as before (labels, tokens) is kept whole.
    for axis, indices in enumerate((rows, columns)[: weight.ndim]):
        if weight.shape[axis] != shape[axis]:
            weight = weight.index_select(axis, indices.to(weight.device))
    return weight


@contextmanager
def _gating(model: PreTrainedModel, layout: _Layout) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Put gates of 1 at all parts of an encoder; the gates of the passes since they were read, by place."""
    import torch
    from torch import nn

    gates: dict[str, list[torch.Tensor]] = {}
    width = getattr(model.config, layout.hidden)

    def gate(place: str, values_BLD: torch.Tensor, *, fresh: bool = True) -> torch.Tensor:
        each = gates.setdefault(place, [])
        if fresh or not each or each[-1].shape[0] != len(values_BLD):
            each.append(torch.ones(len(values_BLD), 1, values_BLD.shape[-1], requires_grad=True))
        return values_BLD * each[-1]

    def before(module: nn.Module, args: tuple[torch.Tensor, ...], place: str) -> tuple[torch.Tensor, ...]:
        return (gate(place, args[0]), *args[1:])

    def after(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        return gate("hidden", output, fresh=False)  # one gate for a column in all layers

    handles = []
    for at, part in enumerate(_list_layers(model)):
        for place, key in (("heads", layout.mixes), ("units", layout.narrows)):
            handles.append(part[key].register_forward_pre_hook(partial(before, place=f"{place} {at}")))
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm) and m.normalized_shape == (width,)]
    handles += [norm.register_forward_hook(after) for norm in norms]
    try:
        yield gates
    finally:
        for handle in handles:
            handle.remove()


def _list_layers(model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """Yield the modules of each layer by the ending of their names."""
    layers: dict[int, dict[str, Any]] = {}
    for name, module in model.named_modules():
        if found := _LAYER.search(name):
            layers.setdefault(int(found[1]), {})[found[2]] = module
    yield from (layers[at] for at in sorted(layers))


def _find_layout(model: PreTrainedModel, name: str) -> _Layout:
    kind = str(model.config.model_type)
    if kind not in _LAYOUTS:
        raise ModelError(
            f"the width of {name} cannot be taken out",
            got=f"model type {kind}",
            wanted=f"one of {', '.join(_LAYOUTS)}",
            next_step="leave student.hidden and student.feed_forward out; student.layers takes layers out",
        )
    return _LAYOUTS[kind]


def _check_sizes(
    name: str, before: dict[str, int], wanted: dict[str, int], layout: _Layout, width: int
) -> None:
    hidden = wanted[layout.hidden]
    if hidden % width or hidden > before[layout.hidden] or wanted[layout.units] > before[layout.units]:
        raise ModelError(
            f"{name} cannot be made as narrow as student.hidden and student.feed_forward say",
            got=f"hidden {hidden}, feed_forward {wanted[layout.units]}",
            wanted=f"hidden: a multiple of {width} (the width of a head), at most {before[layout.hidden]}; "
            f"feed_forward: at most {before[layout.units]}",
        )


def _shares_width(config: object, hidden: int) -> bool:
    """Return whether an embedding table that could have a width of its own (ELECTRA) has that of the states."""
    return getattr(config, "embedding_size", None) == hidden
