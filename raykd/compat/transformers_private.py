"""Private names of transformers 5.23. A logged student carries this file with it."""

from __future__ import annotations

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
