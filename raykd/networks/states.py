"""Read states of an encoder while it computes: hidden states, and the queries, keys and values of its attention.

Decision record: hooks read them, because no option of transformers gives queries, keys and values, and the one for
attention scores needs a slower attention. Where a family keeps its layers and projections is known for a few families
and guessed for none. Hidden state 0 is what the first layer gets, which in ELECTRA is the projected embedding. Hooks
stand only while states are read, so a model that is copied, saved or traced has none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from raykd.distill.features.states import EncoderShape, Part, Position, Source, State
from raykd.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_BERT = "attention.self.query", "attention.self.key", "attention.self.value"
_FAMILIES: dict[str, tuple[str, tuple[str, str, str]]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), ("encoder.layer", _BERT)),
    "distilbert": ("transformer.layer", ("attention.q_lin", "attention.k_lin", "attention.v_lin")),
}
"""By model type, where the layers of the encoder stand, and in a layer its queries, keys and values."""
_PROJECTED: tuple[Part, ...] = ("query", "key", "value")
_NAMES = {
    "layers": ("num_hidden_layers", "n_layers"),
    "width": ("hidden_size", "dim"),
    "heads": ("num_attention_heads", "n_heads"),
}


def read_encoder_shape(config: Mapping[str, Any], who: str) -> EncoderShape:
    """Read from a model's configuration what feature terms must know of it.

    Args:
        config: As config.json holds it.
        who: The model, for messages.

    Raises:
        ModelError: Its states cannot be read.
    """
    family = str(config.get("model_type"))
    found: dict[str, Any] = {
        name: next((config[key] for key in keys if isinstance(config.get(key), int)), None)
        for name, keys in _NAMES.items()
    }
    if family not in _FAMILIES or None in found.values():
        lacking = ", ".join(name for name, value in found.items() if value is None)
        raise ModelError(
            f"{who}: hidden states and attention cannot be read",
            got=f"model type {family}" + (f" without {lacking}" if family in _FAMILIES else ""),
            wanted=f"one of {', '.join(sorted(_FAMILIES))}",
            next_step="leave objective.features out, or name in their `teachers` those whose states can be read",
        )
    return EncoderShape(family, **found)


class _Keeper:
    """A hook that keeps what a module returns, or what it gets.

    Args:
        found: Where states are kept.
        state: Which one.
    """

    def __init__(self, found: dict[State, torch.Tensor], state: State) -> None:
        self._found, self._state = found, state

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
        self._found[self._state] = (
            output[0] if isinstance(output, tuple) else inputs[0] if output is None else output
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # Another thread may copy a model while its states are recorded (`ModulePool`): the copy is another model.
        return _keep_nothing


def _keep_nothing(*arguments: object) -> None:
    """Replace a hook in a copy of its model."""


@contextmanager
def record_states(model: nn.Module, states: Collection[State]) -> Iterator[dict[State, torch.Tensor]]:
    """Record states of every forward pass while the body runs; those of the last pass are in the result.

    Args:
        model: A model of one of the families, with any head.
        states: What to record, each ``[S, L, D]``.
    """
    own: Any = model
    base = getattr(own, own.base_model_prefix, own)
    where, parts = _FAMILIES[own.config.model_type]
    layers = base.get_submodule(where)
    found: dict[State, torch.Tensor] = {}
    hooks = []

    for state in sorted(set(states)):
        if state == State("hidden", 0):
            hooks.append(layers[0].register_forward_pre_hook(_Keeper(found, state)))
            continue
        layer = layers[state.layer - 1]
        if state.part in _PROJECTED:
            layer = layer.get_submodule(parts[_PROJECTED.index(state.part)])
        hooks.append(layer.register_forward_hook(_Keeper(found, state)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def read_sources(
    found: Mapping[State, torch.Tensor],
    sources: Collection[Source],
    attention_mask: torch.Tensor,
    places_N2: torch.Tensor | None,
) -> dict[Source, torch.Tensor]:
    """Return what is read of recorded states at each position, ``[X, D]``, of `sequence` ``[B, L, D]``.

    Args:
        found: From `record_states`; rows beyond those of the mask are copies that fill a batch, and are dropped.
        sources: What is read.
        attention_mask: ``[B, L]``, 0 at padding.
        places_N2: The sequence and token of each unit; None where units are no tokens.
    """
    return {
        s: _read(found[s.state][: len(attention_mask)], s.position, attention_mask, places_N2)
        for s in sources
    }


def _read(
    states_BLD: torch.Tensor, position: Position, attention_mask: torch.Tensor, places_N2: torch.Tensor | None
) -> torch.Tensor:
    if position == "sequence":
        return states_BLD
    if position == "words":
        assert places_N2 is not None
        return states_BLD[places_N2[:, 0], places_N2[:, 1]]
    from raykd.networks.sentences import pool_tokens  # it imports transformers

    return pool_tokens(states_BLD, attention_mask, position)
