"""Compare a checkpoint with the class that would load it, without reading weights.

Decision record: only transformers knows which names a checkpoint may have and which of them it renames, fills in or
ignores (prefixes, gamma and beta, tied heads, merged experts). So the class is built on torch's meta device, which has
shapes and no memory, and transformers' own loading code gets tensors with the shapes of the safetensors headers. It
then reports the missing weights that loading would report. Some of the names used here may change
(`convert_and_load_state_dict_in_model`, `get_model_conversion_mapping`, `LoadStateDictConfig`,
`meta_device_safe_creation_ops`: transformers 5.23); a test compares the result with `from_pretrained`.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.compat.transformers_private import drop_ignorable_keys
from raykd.head import Head
from raykd.networks.heads import find_auto_class
from raykd.pretrained.positions import Positions, count_positions
from raykd.pretrained.weights import StoredTensor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Shape = tuple[int, ...]
_LAYER = re.compile(r"\.\d+\.")
"""In the name of a weight of a numbered layer."""
_COMPUTED = ("attn.bias", "attn.masked_bias", "inv_freq", "position_ids", "relative_position_index")
"""How names end of what old checkpoints hold and transformers computes."""


@dataclass(frozen=True)
class Structure:
    """The weights that a model class wants, compared with a checkpoint. Made by `compare_structure`.

    Attributes:
        missing: Weights that the checkpoint lacks or has in another shape, in order.
        reshaped: The ones in another shape: name, stored shape, wanted shape.
        unread: Stored weights of the encoder's layers that the class has no place for, in order.
        encoder: The missing ones that belong to the encoder and not to the head.
        names: Number of weights of the class.
        labels: Outputs of a classifying head, by its configuration; None for another head.
        positions: Where its positions end.
        vocabulary: Rows of its table of tokens; None if it has none.
        token_types: Rows of its table of token types; None if it has none.
    """

    missing: tuple[str, ...]
    reshaped: tuple[tuple[str, Shape, Shape], ...]
    unread: tuple[str, ...]
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
    **settings: object,
) -> Structure:
    """Compare a checkpoint's stored tensors with the class that loads it.

    Args:
        folder: The folder of its config.json.
        head: What its head has to serve.
        stored: Its tensors, from `raykd.pretrained.weights`.
        trust_remote_code: Whether the class may be one that comes with the model.
        **settings: Changes to its configuration.

    Raises:
        Exception: Whatever building the class raises, which loading would raise too.
    """
    model = build_empty(folder, head, trust_remote_code=trust_remote_code, **settings)
    missing, reshaped, unexpected = find_missing_weights(model, stored)
    return Structure(
        missing=tuple(missing),
        reshaped=tuple(reshaped),
        unread=tuple(name for name in unexpected if _LAYER.search(name) and not name.endswith(_COMPUTED)),
        encoder=tuple(name for name in missing if is_in_encoder(model, name)),
        names=len(model.state_dict()),
        labels=getattr(model.config, "num_labels", None),
        positions=count_positions(model),
        vocabulary=_vocabulary(model),
        token_types=_token_types(model),
    )


def build_empty(
    folder: Path, head: Head, *, trust_remote_code: bool = False, **settings: object
) -> PreTrainedModel:
    """Build the class of a directory's config.json on torch's meta device: shapes, and no memory."""
    import torch
    from transformers.initialization import meta_device_safe_creation_ops, no_init_weights

    config = read_auto_config(folder, trust_remote_code=trust_remote_code, **settings)
    with silence_transformers(), no_init_weights(), torch.device("meta"), meta_device_safe_creation_ops():
        return find_auto_class(head).from_config(config, trust_remote_code=trust_remote_code)


def read_auto_config(
    folder: Path, *, trust_remote_code: bool = False, **settings: object
) -> PreTrainedConfig:
    """Read a directory's config.json as transformers' configuration, with some settings changed."""
    from transformers import AutoConfig

    config: PreTrainedConfig = AutoConfig.from_pretrained(
        str(folder), trust_remote_code=trust_remote_code, local_files_only=True, **settings
    )
    return config


def is_in_encoder(model: PreTrainedModel, name: str) -> bool:
    """Return whether a weight or module belongs to the encoder; the rest is the head."""
    if model.base_model_prefix:
        if model.base_model is model:  # the bare encoder
            return True
        return name.startswith(f"{model.base_model_prefix}.")
    return name.partition(".")[0] in getattr(model, "trunk", ())  # raykd's own networks


@contextlib.contextmanager
def silence_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and its report of missing weights off the terminal; raykd has its own."""
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
) -> tuple[list[str], list[tuple[str, Shape, Shape]], list[str]]:
    """Find the weights that transformers would miss in a checkpoint with these tensors, or leave unread.

    Args:
        model: The model that would load them, on the meta device.
        stored: The checkpoint's tensors.

    Returns:
        Sorted names of weights that are missing or have another shape. Then the latter with stored and wanted shape.
        Then sorted names of stored weights for which there is no place.
    """
    import torch
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    tensors = {name: torch.empty(tensor.shape, device="meta") for name, tensor in stored.items()}
    settings = LoadStateDictConfig(
        ignore_mismatched_sizes=True,
        weight_mapping=get_model_conversion_mapping(model),  # type: ignore[arg-type]
        device_map={"": "meta"},
    )
    with silence_transformers():
        found, _ = convert_and_load_state_dict_in_model(model, tensors, settings)
        model.tie_weights(missing_keys=found.missing_keys, recompute_mapping=False)
        drop_ignorable_keys(model, found)
    reshaped = sorted((name, tuple(has), tuple(wants)) for name, has, wants in found.mismatched_keys)
    missing = sorted({*found.missing_keys, *(name for name, _, _ in reshaped)})
    return missing, reshaped, sorted(found.unexpected_keys)


def _vocabulary(model: PreTrainedModel) -> int | None:
    """Return the rows of the table that token ids are looked up in."""
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
