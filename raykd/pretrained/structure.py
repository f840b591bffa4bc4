"""What a checkpoint holds, compared with the class that would load it; no weights are read.

Decision record: which names a checkpoint may have, and which of them transformers renames, fills in or ignores, is
known to transformers alone (prefixes, gamma and beta, tied heads, merged experts). So the class is built on torch's
meta device, which has shapes and no memory, and transformers' own loading code is given tensors of the shapes in the
safetensors headers. What it then reports as missing is what loading would report. This uses names of transformers
that are not promised to stay (`convert_and_load_state_dict_in_model`, `get_model_conversion_mapping`,
`LoadStateDictConfig`, `meta_device_safe_creation_ops`, `_adjust_missing_and_unexpected_keys`: transformers 5.23); a
test compares the verdict with `from_pretrained`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.compat.transformers_private import drop_ignorable_keys
from raykd.head import Head
from raykd.networks.heads import find_auto_class
from raykd.pretrained.positions import Positions, count_positions
from raykd.pretrained.weights import StoredTensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Structure:
    """A class with a head, and what a checkpoint holds of it. Made by `compare_structure`.

    Attributes:
        missing: Weights that the checkpoint lacks or has in another shape, in order.
        reshaped: Of those, the ones that it has in another shape: name, stored shape, wanted shape.
        encoder: Of the missing ones, those that belong to the encoder and not to the head.
        names: Number of weights that the class has.
        labels: Outputs of a classifying head, as the configuration says; None where there is none.
        positions: Where its positions end.
        vocabulary: Rows of its table of tokens; None where it has none.
        token_types: Rows of its table of token types; None where it has none.
    """

    missing: tuple[str, ...]
    reshaped: tuple[tuple[str, Shape, Shape], ...]
    encoder: tuple[str, ...]
    names: int
    labels: int | None
    positions: Positions
    vocabulary: int | None
    token_types: int | None


def compare_structure(
    folder: Path,
    head: Head,
    stored: Mapping[str, StoredTensor],
    *,
    trust_remote_code: bool = False,
    **settings: Any,
) -> Structure:
    """Lay a checkpoint's header on the class that loads it.

    Args:
        folder: Where its config.json lies.
        head: What its head has to serve.
        stored: Its tensors, from `raykd.pretrained.weights`.
        trust_remote_code: Build a class that comes with the model.
        **settings: What is set in the configuration, as `from_pretrained` takes it.

    Raises:
        Exception: Whatever building the class raises, which loading would raise too.
    """
    model = build_empty(folder, head, trust_remote_code=trust_remote_code, **settings)
    missing, reshaped = find_missing_weights(model, stored)
    prefix = f"{model.base_model_prefix}." if model.base_model_prefix else None
    return Structure(
        missing=tuple(missing),
        reshaped=tuple(reshaped),
        encoder=tuple(name for name in missing if prefix and name.startswith(prefix)),
        names=len(model.state_dict()),
        labels=getattr(model.config, "num_labels", None),
        positions=count_positions(model),
        vocabulary=_vocabulary(model),
        token_types=_token_types(model),
    )


def build_empty(
    folder: Path, head: Head, *, trust_remote_code: bool = False, **settings: Any
) -> PreTrainedModel:
    """Build the class of a directory's config.json on torch's meta device: shapes, and no memory."""
    import torch
    from transformers import AutoConfig
    from transformers.initialization import meta_device_safe_creation_ops, no_init_weights

    config = AutoConfig.from_pretrained(
        str(folder), trust_remote_code=trust_remote_code, local_files_only=True, **settings
    )
    with silence_transformers(), no_init_weights(), torch.device("meta"), meta_device_safe_creation_ops():
        model: PreTrainedModel = find_auto_class(head).from_config(
            config, trust_remote_code=trust_remote_code
        )
    return model


@contextlib.contextmanager
def silence_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and its report of missing weights off the terminal; raykd makes its own."""
    from transformers.utils import logging as theirs

    shown, level = theirs.is_progress_bar_enabled(), theirs.get_verbosity()
    theirs.disable_progress_bar()
    theirs.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if shown:
            theirs.enable_progress_bar()


def find_missing_weights(
    model: PreTrainedModel, stored: Mapping[str, StoredTensor]
) -> tuple[list[str], list[tuple[str, Shape, Shape]]]:
    """Find what transformers would find missing, or of another shape, where a checkpoint has these tensors.

    Args:
        model: The class that would load them, on the meta device.
        stored: The checkpoint's tensors.

    Returns:
        Names that are missing or have another shape, in order; of the latter also the stored and the wanted shape.
    """
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    empty: Any = model
    tensors = {name: torch.empty(tensor.shape, device="meta") for name, tensor in stored.items()}
    mapping: Any = get_model_conversion_mapping(model)
    with silence_transformers():
        how = LoadStateDictConfig(
            ignore_mismatched_sizes=True,
            weight_mapping=mapping,
            device_map={"": "meta"},
        )
        found, _ = convert_and_load_state_dict_in_model(model=model, state_dict=tensors, load_config=how)
        empty.tie_weights(missing_keys=found.missing_keys, recompute_mapping=False)
        drop_ignorable_keys(model, found)
    reshaped = sorted((name, tuple(has), tuple(wants)) for name, has, wants in found.mismatched_keys)
    return sorted({*found.missing_keys, *(name for name, _, _ in reshaped)}), reshaped


def _vocabulary(model: PreTrainedModel) -> int | None:
    """Rows of the table that token ids are looked up in."""
    try:
        table: object = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    rows = getattr(getattr(table, "weight", None), "shape", (None,))[0]
    return rows if isinstance(rows, int) else None


def _token_types(model: PreTrainedModel) -> int | None:
    tables = (module for name, module in model.named_modules() if name.endswith("token_type_embeddings"))
    shapes = (getattr(getattr(table, "weight", None), "shape", None) for table in tables)
    return next((int(shape[0]) for shape in shapes if shape), None)
