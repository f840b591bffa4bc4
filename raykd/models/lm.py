"""Language models without their logits, and what they generate.

Decision record: `[tokens, vocabulary]` is the largest tensor of a language model by far, so losses and teachers
work with hidden states and the output head and never let the model multiply them. What the head is applied to
differs by family (T5 scales it, BERT transforms it, some slice it), so it is not assembled again here: the model's
own forward pass runs until it calls its head, and is stopped there by an exception that carries the head's input.
No family needs code of its own, and what happens between body and head cannot be forgotten. What happens *after* a
head (a bias, a soft cap, a scale) is not seen that way; `Headless` therefore proves on two short inputs that hidden
states times weight plus bias are the model's logits, and refuses a family for which they are not.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from raykd.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raykd.text.tokens import Tokenizer

_AFTER = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings of families that change logits after the head."""
_MARKS = (
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
)
"""What generation takes from a checkpoint: where texts begin and end, and what must not be written."""


@dataclass(frozen=True)
class OutputHead:
    """What turns hidden states into logits: ``hidden @ weight.T + bias``. Made by `output_head`.

    weight_VD: the model's own parameter (often its embeddings too), so gradients reach it. bias_V: likewise, or a
    constant of the model's; None where it has none.
    """

    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """``[..., D]`` to ``[..., V]``."""
        return nn.functional.linear(hidden_ND, self.weight_VD, self.bias_V)


@dataclass(frozen=True)
class HiddenOutput:
    """What `Headless` gives: ``hidden`` is ``[B, L, D]``, L the decoder's length for an encoder-decoder."""

    hidden: torch.Tensor


class _HeadReachedError(Exception):
    """Not an error: the forward pass has come to the output head, and carries what it was to be applied to."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def hidden_states(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
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


def output_head(model: PreTrainedModel) -> OutputHead:
    """The head's weight and bias, shared with the model.

    Raises:
        ModelError: the model has no linear output head, or changes its logits after it (a soft cap, a scale).
    """
    head = _head_module(model)
    config = model.config.get_text_config(decoder=True)
    changed = {name: value for name in _AFTER if (value := getattr(config, name, None)) not in (None, 1, 1.0)}
    if changed:
        raise ModelError(
            f"{type(model).__name__} changes its logits after the output head",
            got=changed,
            wanted="logits that are hidden states times the head's weight",
            next_step="choose top-k or sampled answers for this teacher; as a student take another family",
        )
    bias = head.bias
    constant = getattr(model, "final_logits_bias", None)  # Marian, BART: a buffer of [1, V]
    if constant is not None:
        bias = constant[0] if bias is None else bias + constant[0]
    return OutputHead(head.weight, bias)


class Headless(nn.Module):
    """A language model whose forward pass ends before its output head, for an engine to train.

    It shares all parameters with ``model``, and its state is the model's state under the model's own names.

    Raises:
        ModelError: hidden states and head do not give this model's logits.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        _prove(model)

    @property
    def head(self) -> OutputHead:
        """The head as it is now; read it anew after the model was moved."""
        return output_head(cast("PreTrainedModel", self.model))

    def forward(self, **inputs: Any) -> HiddenOutput:
        """See `hidden_states`."""
        return HiddenOutput(hidden_states(cast("PreTrainedModel", self.model), **inputs))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Into the model."""
        return self.model.load_state_dict(*args, **kwargs)


def generate(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_new_tokens: int,
    beams: int = 1,
    length_penalty: float = 1.0,
    max_input_tokens: int | None = None,
    batch_size: int = 16,
) -> list[str]:
    """The most likely continuation (decoder) or target (encoder-decoder) of each text; nothing is drawn at random.

    Texts of like length share a batch; a decoder's prompts are padded on the left, and prompts are not repeated in
    the answers. The model is in evaluation mode while it generates and afterwards in the mode that it was in.

    Args:
        beams: 1 is greedy.
        length_penalty: exponent of the length by which a beam's log-likelihood is divided; only with beams.
        max_input_tokens: longer sources lose their end, longer prompts their beginning. None is what the model can
            take.

    Raises:
        ModelError: the model has no place for so many new tokens, or a decoder has no token to begin with.
    """
    from transformers import GenerationConfig

    closed = bool(model.config.is_encoder_decoder)
    limit = _input_limit(model, max_new_tokens, max_input_tokens)
    rows = _prompts(tokenizer, texts, limit, closed)
    pad = tokenizer.pad_token_id
    eos = model.generation_config.eos_token_id
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=beams,
        length_penalty=length_penalty,
        do_sample=False,
        pad_token_id=pad if pad is not None else (eos[0] if isinstance(eos, list) else eos),
        **{name: getattr(model.generation_config, name) for name in _MARKS},
    )
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    answers = [""] * len(rows)
    with _evaluating(model), torch.no_grad():
        for first in range(0, len(order), batch_size):
            picked = order[first : first + batch_size]
            ids_BL, mask_BL = _padded([rows[i] for i in picked], settings.pad_token_id or 0, left=not closed)
            out_BL = cast("Any", model).generate(
                input_ids=ids_BL.to(model.device),
                attention_mask=mask_BL.to(model.device),
                generation_config=settings,
            )
            new_BL = out_BL[:, 0 if closed else ids_BL.shape[1] :].tolist()
            for i, ids in zip(picked, new_BL, strict=True):
                answers[i] = tokenizer.decode(ids, skip_special_tokens=True)  # type: ignore[attr-defined]
    return answers


def _prompts(tokenizer: Tokenizer, texts: Sequence[str], limit: int | None, closed: bool) -> list[list[int]]:
    """Token ids of each text, cut to the limit; a prompt keeps its special first token and its end."""
    bos = getattr(tokenizer, "bos_token_id", None)
    encoded = tokenizer(list(texts), truncation=closed and limit is not None, max_length=limit)  # type: ignore[arg-type]
    rows = [list(ids) for ids in encoded["input_ids"]]
    if closed:
        return rows
    eos = getattr(tokenizer, "eos_token_id", None)
    begin = bos if bos is not None else eos
    for i, ids in enumerate(rows):
        if limit is not None and len(ids) > limit:
            kept = ids[:1] if ids[0] == bos else []
            rows[i] = kept + ids[len(ids) - limit + len(kept) :]
        if not ids:
            if begin is None:
                raise ModelError("an empty prompt needs a token to begin with, and this tokenizer has none")
            rows[i] = [begin]
    return rows


def _input_limit(model: PreTrainedModel, max_new_tokens: int, asked: int | None) -> int | None:
    """Tokens that an input may have; None is any number."""
    config = model.config.get_text_config(decoder=True)
    places = getattr(config, "max_position_embeddings", None)
    if places is None:
        return asked
    room = places if model.config.is_encoder_decoder else places - max_new_tokens
    if room < 1 or max_new_tokens > places or (asked or 0) > room:
        raise ModelError(
            "the model has no place for so many tokens",
            got=f"max_input_tokens {asked}, max_new_tokens {max_new_tokens}",
            wanted=f"at most {places} tokens"
            + ("" if model.config.is_encoder_decoder else ", input and new ones together"),
        )
    return asked or room


def _padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """``[B, L]`` ids and mask."""
    width = max(1, *(len(row) for row in rows))
    ids_BL = np.full((len(rows), width), pad, dtype=np.int64)
    mask_BL = np.zeros_like(ids_BL)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        ids_BL[i, at], mask_BL[i, at] = row, 1
    return torch.from_numpy(ids_BL), torch.from_numpy(mask_BL)


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


def _prove(model: PreTrainedModel) -> None:
    """Hidden states and head against the model's own logits; fails loudly where a family does more."""
    head = output_head(model)
    embeddings = cast("nn.Embedding", model.get_input_embeddings())
    size = min(len(head.weight_VD), embeddings.num_embeddings)
    ids_BL = (torch.arange(1, 7, device=head.weight_VD.device) % size).view(2, 3)
    inputs = {"input_ids": ids_BL, "attention_mask": torch.ones_like(ids_BL)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids_BL
    with _evaluating(model), torch.no_grad():
        own = model(**inputs).logits.float()
        made = head.logits(hidden_states(model, **inputs)).float()
    scale = float(own.abs().max().clamp(min=1.0))
    apart = float((own - made).abs().max()) / scale if own.shape == made.shape else float("inf")
    if not apart <= (1e-5 if head.weight_VD.dtype == torch.float32 else 1e-2):
        raise ModelError(
            f"the logits of {type(model).__name__} are not hidden states times its output head",
            got=f"a relative difference of {apart:.1e}",
            next_step="choose top-k or sampled answers for this teacher; as a student take another family",
        )
