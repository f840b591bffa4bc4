"""Several adapters of one base in one process: each row of a batch goes through the adapter of its language.

Decision record:

- A batch holds rows of any languages, as in every run, so stream, teachers, counts and losses know nothing of adapters.
  The model groups a batch by adapter and makes a plain forward pass with one active adapter for each group, cut to the
  group's longest row. peft's own mixed batches (`adapter_names`) run the base once over all rows, but only for
  inference: they refuse DoRA, draw dropout in an order that differs from process to process, and fail where a layer's
  input is no batch of rows (DeBERTa's relative positions). Grouped passes are right for every architecture and cost the
  same tokens; on a GPU they start more kernels. What reads the encoder's states of a whole batch is refused.
- Each language has its own head. A saved adapter in peft's form holds one, so the folder of a language stands alone.
- All adapters begin with the same weights, so a language's result depends neither on its place nor on how many others
  there are. With rows of one language only, a run gives bit for bit what a run with one adapter gives.
- An adapter without rows in a step has no gradient. The engine and DeepSpeed's reduction (ZeRO 0 to 2) take it as 0, on
  any number of ranks. So it moves on by its moments, as the head of a task does that had no rows. Under ZeRO 3 ranks
  would gather weights in different orders, and wait forever.
- peft's names of adapters are numbers: it looks for `.name.` in the names of weights, where a language could be a part.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raykd.compat.peft_private import activate_adapter, list_adapted_layers
from raykd.compat.transformers_private import knowing_padding
from raykd.errors import ModelError
from raykd.text.tokens import ADAPTER_IDS

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def name_adapter(number: int) -> str:
    """Return peft's name of an adapter by its number."""
    return f"adapter_{number:04}"


def add_equal_adapters(wrapped: Any, count: int) -> PreTrainedModel:
    """Add adapters that equal the first one, and train them all.

    Args:
        wrapped: A PeftModel with the adapter `name_adapter(0)`.
        count: How many there will be.

    Returns:
        The adapted model, without peft's wrapper.
    """
    import torch
    from peft import PeftModel

    model: PreTrainedModel = wrapped.get_base_model()
    first = name_adapter(0)
    own = {name: weight for name, weight in model.named_parameters() if f".{first}." in f"{name}."}
    for name in map(name_adapter, range(1, count)):
        # Not `wrapped.add_adapter`, which lists the modules of the head again.
        PeftModel.add_adapter(wrapped, name, copy.deepcopy(wrapped.peft_config[first]))
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for number in range(count):
            for name, weight in own.items():
                other = weights[name.replace(f".{first}", f".{name_adapter(number)}")]
                other.requires_grad = True
                if number and not weight.is_meta:
                    other.copy_(weight)
    return model


def route_adapters(model: PreTrainedModel, *, merged: bool = False) -> PreTrainedModel:
    """Let a model read `ADAPTER_IDS` beside its inputs, and run each row with its adapter; returns the model.

    Args:
        model: With adapters that are called `name_adapter` of their numbers.
        merged: Whether a checkpoint of each language is saved, too.
    """
    model.forward = AdapterRouter(model, merged)
    return model


def is_routed(model: object) -> bool:
    """Return whether a model has an adapter for each of several languages."""
    return isinstance(getattr(model, "forward", None), AdapterRouter)


def merges_copies(model: PreTrainedModel) -> bool:
    """Return whether a checkpoint of each language is saved beside the adapters."""
    return isinstance(model.forward, AdapterRouter) and model.forward.merged


class AdapterRouter:
    """The forward pass of a model with several adapters, one active at a time.

    Args:
        model: The adapted model.
        merged: As of `route_adapters`.
    """

    def __init__(self, model: PreTrainedModel, merged: bool) -> None:
        self.merged = merged
        self._model, self._layers = model, list_adapted_layers(model)
        self._active: int | None = None

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """Return the outputs of a batch ``[S, L]``, each row's with its adapter.

        Raises:
            ModelError: The rows' adapters are not among the inputs.
        """
        from raykd.text.padding import SubBatch, run_sub_batches

        if (ids_SL := inputs.pop(ADAPTER_IDS, None)) is None:
            raise ModelError(
                "this model has an adapter for each of its languages, and the rows' languages are not known",
                wanted="texts with their languages",
                next_step="load the adapter of one language: the folder adapters/LANGUAGE of the student",
            )
        ids_S = ids_SL.amax(dim=1)  # padding is 0
        numbers = ids_S.unique().tolist()
        if len(numbers) == 1:
            return self._run(numbers[0], inputs)
        groups = [(ids_S == number).nonzero().flatten() for number in numbers]
        parts = [SubBatch(rows, {"input_ids": _measure_width(rows, inputs)}) for rows in groups]
        order = iter(numbers)

        def run(**own: torch.Tensor) -> Any:
            # Of the group, not of the batch: then its pass is the one that the group's rows would have alone.
            mask_SL = own.get("attention_mask")
            with knowing_padding(None if mask_SL is None else not bool(mask_SL.all())):
                return self._run(next(order), own)

        return run_sub_batches(run, inputs, parts)

    def _run(self, number: int, inputs: Mapping[str, torch.Tensor]) -> Any:
        if number != self._active:
            for layer in self._layers:
                activate_adapter(layer, name_adapter(number))
            self._active = number
        return type(self._model).forward(self._model, **inputs)


def _measure_width(rows: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> int:
    """Return the place behind the last token that one of these rows has."""
    if (mask_SL := inputs.get("attention_mask")) is None:
        return inputs["input_ids"].shape[1]
    return int(mask_SL[rows].any(dim=0).nonzero().max()) + 1
