"""Private names of transformers 5.23. A logged student carries this file with it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.utils.loading_report import LoadStateDictInfo

ATTENTION_KEY, ORIGIN_KEY = "_attn_implementation", "_name_or_path"
"""Keys of a loaded configuration that say how a model is computed and where it came from, not what it computes."""
INITIALIZED = "_is_hf_initialized"


def is_initialized(weight: torch.Tensor) -> bool:
    """Return whether a weight was loaded, so that a model's initialisation must leave it as it is."""
    return bool(getattr(weight, INITIALIZED, False))


def list_computed_weights(model: PreTrainedModel) -> frozenset[str]:
    """Return names of weights that a model computes itself and does not save, for example sinusoidal positions."""
    return frozenset(getattr(model, "_keys_to_ignore_on_save", None) or ())


def drop_ignorable_keys(model: PreTrainedModel, found: LoadStateDictInfo) -> None:
    """Remove from the missing weights of a loading report those that transformers accepts to be missing.

    Args:
        model: The model that was loaded.
        found: The report, changed in place.
    """
    model._adjust_missing_and_unexpected_keys(found)


_BATCH = threading.local()
_SKIPS = ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa")
"""Functions that read a padding mask back from the device, to find that it hides nothing and can be left out."""


@contextlib.contextmanager
def knowing_padding(padded: bool | None) -> Iterator[None]:
    """Tell transformers, while the body runs, whether the batch's mask hides a place.

    It would otherwise ask the device at the beginning of each forward pass, and wait until all that was queued is done.

    Args:
        padded: Whether it does; None if that is not known, and transformers has to look.
    """
    if padded is None:
        yield
        return
    masking = sys.modules.get("transformers.masking_utils")
    if masking is not None:
        for name in _SKIPS:
            _answer_from_host(masking, name)
    before = getattr(_BATCH, "padded", None)
    _BATCH.padded = padded
    try:
        yield
    finally:
        _BATCH.padded = before


def read_padded() -> bool | None:
    """Return what `knowing_padding` was told for the batch at hand."""
    padded: bool | None = getattr(_BATCH, "padded", None)
    return padded


def _answer_from_host(masking: ModuleType, name: str) -> None:
    """Wrap, once, a function that says whether a mask can be left out, so that it uses what `knowing_padding` says."""
    look: Callable[..., bool] | None = vars(masking).get(name)
    if look is None or hasattr(look, "looks"):
        return

    def know(padding_mask: torch.Tensor | None, *arguments: object, **named: object) -> bool:
        padded = getattr(_BATCH, "padded", None)
        if padding_mask is None or padded is None:
            return look(padding_mask, *arguments, **named)
        # What hides nothing is as good as no mask; what hides something cannot be left out.
        return not padded and look(None, *arguments, **named)

    vars(know)["looks"] = look
    vars(masking)[name] = know
