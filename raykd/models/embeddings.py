"""Keep chosen rows of a model's embedding table, and of everything else that has a row per token.

Decision record: the input table, a language model's output layer and its bias are known by their place in transformers'
interface. A model that has another tensor with as many rows is refused, because nobody says what they mean. Ids in the
configuration follow their tokens, so that the saved model needs nothing but transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.errors import ModelError
from raykd.pretrained import files
from raykd.pretrained.hub import resolve_small_files
from raykd.pretrained.jsonfile import read_json
from raykd.pretrained.starts import GENERATION

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

_BIASES = ("final_logits_bias", "predictions.bias", "lm_head.bias")
"""How the names end of output biases that are not, or not only, the output layer's own."""


def read_token_ids(path: str | Path, *, revision: str | None, trust_remote_code: bool) -> set[int]:
    """Read the token ids that a checkpoint's configuration names: padding, where a text ends, and the like."""
    folder = resolve_small_files(path, revision=revision, trust_remote_code=trust_remote_code)
    found: set[int] = set()
    for file in filter(Path.is_file, (folder / files.CONFIG, folder / GENERATION)):
        waiting: list[object] = [read_json(file)]
        while waiting:
            part = waiting.pop()
            for name, value in part.items() if isinstance(part, Mapping) else ():
                if isinstance(value, Mapping):
                    waiting.append(value)
                elif name.endswith("_token_id"):
                    ids = value if isinstance(value, list) else [value]
                    found.update(i for i in ids if isinstance(i, int))
    return found


def count_row_weights(model: PreTrainedModel, where: str) -> tuple[int, int]:
    """Count the rows of a model's embedding table, and the parameters that each row of the vocabulary has.

    Args:
        model: The model, which may be on torch's meta device.
        where: The checkpoint's place, for the message.

    Raises:
        ModelError: It has no such table, or one that is not understood.
    """
    tables = _find_tables(model, where)
    rows = _get_table(model, where).weight.shape[0]
    weights = {id(p): p for p in model.parameters()}
    return rows, sum(table.numel() // rows for table in tables if id(table) in weights)


def select_token_rows(model: PreTrainedModel, ids: Sequence[int | None], where: str) -> None:
    """Keep the rows of these tokens, in this order, and change the configuration's token ids accordingly.

    Args:
        model: The model.
        ids: The old id of each new token; None is a token that the model never had, whose row is drawn.
        where: The checkpoint's place, for the message.

    Raises:
        ModelError: The model has a table that is not understood, or no row for a token; or the positions of its tokens
            depend on the padding's id, which would change.
    """
    import torch

    count = _get_table(model, where).weight.shape[0]
    _find_tables(model, where)
    if beyond := [i for i in ids if i is not None and i >= count]:
        raise ModelError(
            f"the tokenizer of {where} has tokens that its model has no row for",
            got=f"{len(beyond)} tokens from {min(beyond)} on, {count} rows",
            next_step="take the tokenizer that the model was trained with",
        )
    numbers = {old: new for new, old in enumerate(ids) if old is not None}
    _check_padding(model, numbers, where)
    if fresh := sum(i is None for i in ids):
        model.resize_token_embeddings(count + fresh)
    drawn = iter(range(count, count + fresh))
    rows = torch.tensor([next(drawn) if i is None else i for i in ids])
    with torch.no_grad():
        for table in _find_tables(model, where):
            part = table if table.shape[0] != 1 else table[0]  # BART's bias has a dimension in front
            part[: len(rows)] = part[rows]
    model.resize_token_embeddings(len(rows))
    _renumber_config(model, numbers)
    kept = _get_table(model, where)
    if kept.padding_idx is not None or count > len(rows):  # transformers forgets an id beyond the last row
        kept.padding_idx = getattr(model.config.get_text_config(decoder=True), "pad_token_id", None)


def _get_table(model: PreTrainedModel, where: str) -> nn.Embedding:
    from torch import nn

    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        table = None
    if not isinstance(table, nn.Embedding):
        raise _unknown_table_error(where, "no table of token embeddings" if table is None else repr(table))
    return table


def _find_tables(model: PreTrainedModel, where: str) -> list[torch.Tensor]:
    """Return the tensors with a row per token; tied ones once."""
    table = _get_table(model, where).weight
    head = model.get_output_embeddings()
    known = [table, getattr(head, "weight", None), getattr(head, "bias", None)]
    tables: dict[int, torch.Tensor] = {}
    for name, tensor in _named_tensors(model):
        is_bias = name.endswith(_BIASES) and tensor.shape[-1] == table.shape[0]
        if is_bias or any(tensor is one for one in known):
            tables[id(tensor)] = tensor
        elif tensor.dim() and tensor.shape[0] == table.shape[0] and tensor.shape[0] > max(table.shape[1:]):
            raise _unknown_table_error(where, f"{name} {tuple(tensor.shape)}")
    return list(tables.values())


def _named_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _unknown_table_error(where: str, got: str) -> ModelError:
    return ModelError(
        f"the vocabulary of {where} cannot be trimmed: its model has tables that are not understood",
        got=got,
        wanted="an embedding table, and at most one output layer over the vocabulary",
        next_step="leave student.vocabulary out, or name another checkpoint",
    )


def _check_padding(model: PreTrainedModel, numbers: Mapping[int, int], where: str) -> None:
    """Refuse a model that numbers positions from the padding's id on (RoBERTa), if that id would change."""
    pad = getattr(model.config.get_text_config(decoder=True), "pad_token_id", None)
    if pad is None or numbers.get(pad, pad) == pad:
        return
    table = _get_table(model, where)
    users = [
        name
        for name, module in model.named_modules()
        if getattr(module, "padding_idx", None) == pad and getattr(module, "weight", None) is not table.weight
    ]
    if users:
        raise ModelError(
            f"the vocabulary of {where} cannot be trimmed: the padding's id would change, and positions depend on it",
            got=f"{pad} becomes {numbers[pad]}; {', '.join(users[:4])}",
            next_step="leave student.vocabulary out, or name another checkpoint",
        )


def _renumber_config(model: PreTrainedModel, numbers: Mapping[int, int]) -> None:
    """Change the token ids of a model's configurations; ids of tokens that the model does not have become None."""
    for config in filter(None, (model.config, getattr(model, "generation_config", None))):
        parts = [config, *(getattr(config, name) for name in getattr(config, "sub_configs", ()))]
        for part in filter(None, parts):
            for name, value in list(vars(part).items()):
                if name.endswith("_token_id") and isinstance(value, int):
                    setattr(part, name, numbers.get(value))
                elif name.endswith(("_token_id", "_tokens")) and isinstance(value, list):
                    kept = [numbers[i] for i in value if isinstance(i, int) and i in numbers]
                    setattr(part, name, kept or None)
