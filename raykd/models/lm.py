"""Language models without their logits.

Decision record: `[tokens, vocabulary]` is the largest tensor of a language model by far, so losses and teachers
work with hidden states and the output head and never let the model multiply them. What the head is applied to
differs by family (T5 scales it, BERT transforms it, some slice it), so it is not assembled again here: the model's
own forward pass runs until it calls its head, and is stopped there by an exception that carries the head's input.
No family needs code of its own, and what happens between body and head cannot be forgotten. What happens *after* a
head (a bias, a soft cap, a scale) is not seen that way. `Headless` therefore tries on two short inputs which of the
maps that the model's configuration can mean gives the model's logits (two families give one name opposite meanings),
and refuses a model for which none does.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from raykd.distill.logitmap import PLAIN, LogitMap
from raykd.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings of families that change logits after the head."""
_LARGE = 20.0
"""Logits at which a cap shows."""


@dataclass(frozen=True)
class OutputHead:
    """What turns hidden states into logits: ``after(hidden @ weight.T + bias)``. Made by `find_output_head`.

    weight_VD: the model's own parameter (often its embeddings too), so gradients reach it. bias_V: likewise, or a
    constant of the model's; None where it has none. after: what the model does to the product.
    """

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    after: LogitMap = PLAIN

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """``[..., D]`` to ``[..., V]``."""
        return self.after(nn.functional.linear(hidden_ND, self.weight_VD, self.bias_V))


@dataclass(frozen=True)
class HiddenOutput:
    """What `Headless` gives: ``hidden`` is ``[B, L, D]``, L the decoder's length for an encoder-decoder."""

    hidden: torch.Tensor


class _HeadReachedError(Exception):
    """Not an error: the forward pass has come to the output head, and carries what it was to be applied to."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def compute_hidden_states(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    """``[B, L, D]``: exactly what the output head is applied to; the head is not applied. Gradients flow.

    Args:
        inputs: as the model's forward takes them. An encoder-decoder takes ``labels`` (-100 is padding) in place
            of ``decoder_input_ids``; it shifts them itself, and the hidden state at a place predicts the label
            there. A decoder's state at a place predicts the token after it.

    Raises:
        ModelError: the model has no output head, or calls it with something else than hidden states.
    """

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
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
    """The head's weight and bias, shared with the model.

    Args:
        after: what the model does to the product; None tries which map it is (two short forward passes).
    Raises:
        ModelError: the model has no linear output head, or no map gives its logits.
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

    It shares all parameters with ``model``, and its state is the model's state under the model's own names.

    Raises:
        ModelError: hidden states and head do not give this model's logits.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self._after = find_output_head(model).after

    @property
    def head(self) -> OutputHead:
        """The head as it is now; read it anew after the model was moved."""
        return find_output_head(self.model, self._after)

    def forward(self, **inputs: Any) -> HiddenOutput:
        """See `compute_hidden_states`."""
        return HiddenOutput(compute_hidden_states(self.model, **inputs))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> object:
        """Into the model."""
        return self.model.load_state_dict(*args, **kwargs)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


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
    """What the settings of the model's configuration can mean."""
    config = model.config.get_text_config(decoder=True)

    def named(*names: str) -> list[float]:
        values = (getattr(config, name, None) for name in names)
        return [float(v) for v in values if isinstance(v, int | float) and v and v != 1]

    scales = [each for value in named(*_SCALES) for each in (value, 1.0 / value)]
    caps = [None, *named(*_CAPS)]
    return [LogitMap(scale, cap) for cap in caps for scale in (1.0, *scales)]


def _find_map(model: PreTrainedModel, plain: OutputHead) -> LogitMap:
    """The map from hidden states times head to the model's own logits, tried on two short inputs.

    Raises:
        ModelError: none of those that its configuration can mean.
    """
    embeddings = cast("nn.Embedding", model.get_input_embeddings())
    size = min(len(plain.weight_VD), embeddings.num_embeddings)
    ids_BL = (torch.arange(1, 7, device=plain.weight_VD.device) % size).view(2, 3)
    inputs = {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids_BL
    with _evaluating(model), torch.no_grad():
        hidden = compute_hidden_states(model, **inputs)
        # Small logits do not tell a cap from none, so the head is given states that make them large.
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
    if not apart <= (1e-5 if plain.weight_VD.dtype == torch.float32 else 1e-2):
        raise ModelError(
            f"the logits of {type(model).__name__} do not follow from hidden states and its output head",
            got=f"a relative difference of {apart:.1e}",
            wanted="a linear head, perhaps with a scale or a soft cap that the configuration names",
            next_step="take a model of another family: as a teacher and as a student",
        )
    return best
