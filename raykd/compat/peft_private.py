"""Private names of peft 0.21: which adapter of a layer is active.

Why: `set_adapter` also freezes the weights of all other adapters, which are trained in the same step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def list_adapted_layers(model: nn.Module) -> list[Any]:
    """Return the layers that hold adapters, and the modules that each adapter has of its own."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)]


def activate_adapter(layer: Any, name: str) -> None:
    """Make an adapter the active one of a layer; what is trained stays as it is."""
    layer._active_adapter = [name]
