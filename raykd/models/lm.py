"""Run language models without computing their logits.

Decision record: the logits ``[tokens, vocabulary]`` are by far the largest tensor of a language model. So losses and
teachers work with hidden states and the output head, and the model never multiplies them.

Families differ in what they apply the head to (T5 scales it, BERT transforms it, some slice it). So the model's own
forward pass runs until it calls its head, and an exception that carries the head's input stops it there. No family
needs code of its own.

What happens *after* the head (a bias, a soft cap, a scale) is not visible that way, and two families give one setting
opposite meanings. `Headless` therefore tries, on two short inputs, which of the maps that the configuration can mean
gives the model's logits. It refuses a model for which none does.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from raykd.distill.logitmap import PLAIN, LogitMap
from raykd.errors import ModelError
from raykd.models.textmodel import use_evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings that change logits after the head, by the names of several families."""
_LARGE = 20.0
"""Largest logit for the test of maps; small logits do not tell a cap from none."""


@dataclass(frozen=True)
class OutputHead:
    """Turns hidden states into logits: ``after(hidden @ weight.T + bias)``. Made by `find_output_head`.

    Attributes:
        weight_VD: The model's own parameter (often its embeddings too), so gradients reach it.
        bias_V: A parameter, or a constant buffer; None if the model has none.
        after: What the model does to the product.
    """

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    after: LogitMap = PLAIN

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """Return logits ``[..., V]`` for hidden states ``[..., D]``."""
        return self.after(nn.functional.linear(hidden_ND, self.weight_VD, self.bias_V))


@dataclass(frozen=True)
class HiddenOutput:
    """Output of `Headless`.

    Attributes:
        hidden: ``[B, L, D]``; L is the decoder's length in an encoder-decoder.
    """

    hidden: torch.Tensor


class _HeadReachedError(Exception):
    """Ends the forward pass at the output head, and carries the head's input. Not an error."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def compute_hidden_states(model: PreTrainedModel, **inputs: object) -> torch.Tensor:
    """Return exactly what the model would apply its output head to. Gradients flow.

    Args:
        model: A causal, masked or encoder-decoder language model.
        **inputs: As the model's forward takes them. An encoder-decoder takes ``labels`` (-100 is padding) instead of
            ``decoder_input_ids`` and shifts them itself.

    Returns:
        ``[B, L, D]``. The state at a place predicts the label there in an encoder-decoder, and the next token in a
        decoder.

    Raises:
        ModelError: The model has no output head, or does not call it.
    """

    def stop(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        raise _HeadReachedError(args[0])

    if "use_cache" in inspect.signature(model.forward).parameters:
        inputs.setdefault("use_cache", False)
    handle = _head_module(model).register_forward_pre_hook(stop)
    try:
        model(**inputs)
    except _HeadReachedError as reached:
        return reached.hidden
    finally:
        handle.remove()
    raise ModelError(f"{type(model).__name__} did not call its output head")


def find_output_head(model: PreTrainedModel, after: LogitMap | None = None) -> OutputHead:
    """Find the output head of a language model; weight and bias are shared with the model.

    Args:
        model: The language model.
        after: What the model does to the product; None finds out with two short forward passes.

    Raises:
        ModelError: The model has no linear output head, or no map gives its logits.
    """
    head = _head_module(model)
    bias = head.bias
    constant = getattr(model, "final_logits_bias", None)  # Marian, BART: a buffer of [1, V]
    if constant is not None:
        bias = constant[0] if bias is None else bias + constant[0]
    plain = OutputHead(head.weight, bias)
    return replace(plain, after=_find_map(model, plain) if after is None else after)


class Headless(nn.Module):
    """A language model whose forward pass ends before its output head, for an engine to train.

    It shares all parameters with the model, and its state dict has the model's own names.

    Raises:
        ModelError: Hidden states and head do not give this model's logits.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self._after = find_output_head(model).after

    @property
    def head(self) -> OutputHead:
        """The current head; read it again after the model was moved."""
        return find_output_head(self.model, self._after)

    def forward(self, **inputs: object) -> HiddenOutput:
        """Return the hidden states; see `compute_hidden_states`."""
        return HiddenOutput(compute_hidden_states(self.model, **inputs))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's own state dict."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> object:
        """Load a state dict into the model."""
        return self.model.load_state_dict(*args, **kwargs)


def _head_module(model: PreTrainedModel) -> nn.Linear:
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"{type(model).__name__} has no output head over a vocabulary",
            got=type(head).__name__,
            wanted="a causal, masked or encoder-decoder language model",
        )
    return head


def _maps(model: PreTrainedModel) -> list[LogitMap]:
    """Return the maps that the model's configuration can mean."""
    config = model.config.get_text_config(decoder=True)

    def named(*names: str) -> list[float]:
        values = (getattr(config, name, None) for name in names)
        return [float(v) for v in values if isinstance(v, int | float) and v and v != 1]

    scales = [each for value in named(*_SCALES) for each in (value, 1.0 / value)]
    caps = [None, *named(*_CAPS)]
    return [LogitMap(scale, cap) for cap in caps for scale in (1.0, *scales)]


def _find_map(model: PreTrainedModel, plain: OutputHead) -> LogitMap:
    """Find the map from hidden states times head to the model's logits by trying it on two short inputs.

    Raises:
        ModelError: No map that its configuration can mean gives the logits.
    """
    embeddings = cast("nn.Embedding", model.get_input_embeddings())
    size = min(len(plain.weight_VD), embeddings.num_embeddings)
    ids_BL = (torch.arange(1, 7, device=plain.weight_VD.device) % size).view(2, 3)
    inputs = {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids_BL
    with use_evaluation_mode(model), torch.no_grad():
        hidden = compute_hidden_states(model, **inputs)
        hidden = hidden * (_LARGE / float(plain.logits(hidden).abs().max().clamp(min=1e-6)))
        handle = _head_module(model).register_forward_pre_hook(lambda module, args: (hidden,))
        try:
            own = model(**inputs).logits.float()
        finally:
            handle.remove()
        found = []
        for after in _maps(model):
            made = replace(plain, after=after).logits(hidden).float()
            scale = float(own.abs().max().clamp(min=1.0))
            apart = float((own - made).abs().max()) / scale if own.shape == made.shape else float("inf")
            found.append((apart, after))
    apart, best = min(found, key=lambda each: each[0])
    # "not <=" instead of ">" also refuses NaN.
    if not apart <= (1e-5 if plain.weight_VD.dtype == torch.float32 else 1e-2):
        raise ModelError(
            f"the logits of {type(model).__name__} do not follow from hidden states and its output head",
            got=f"a relative difference of {apart:.1e}",
            wanted="a linear head, perhaps with a scale or a soft cap that the configuration names",
            next_step="take a model of another family: as a teacher and as a student",
        )
    return best
