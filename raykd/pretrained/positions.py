"""Count the tokens that a model has positions for, from its modules.

Decision record: a token beyond the last row of a table of positions is an index error in the middle of a run. Families
differ in how many rows tokens can use (RoBERTa's begin at padding_idx + 1, BART's have an offset of 2, Nystromformer
has two more than it uses), so rows are counted at the module and not by the family's name. Rotary, relative and growing
sinusoidal positions have no last row; there the configuration only says for how many tokens the model was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TABLES = frozenset(
    {"position_embeddings", "char_position_embeddings", "embed_positions", "wpe", "positions_embed"}
    | {"pos_encoding"}
)


@dataclass(frozen=True)
class Positions:
    """Where a model's positions end.

    Attributes:
        source: Most tokens of an input, in an encoder-decoder of a source; None if no table ends.
        target: Most tokens that a decoder reads; the same as `source` if there is no encoder.
        made_for: Tokens that it was made for, by its configuration; None if that does not say.
    """

    source: int | None = None
    target: int | None = None
    made_for: int | None = None


def count_positions(model: PreTrainedModel) -> Positions:
    """Count the positions of a model, which may be on torch's meta device."""
    config: object = model.config.get_text_config(decoder=True)
    made_for = getattr(config, "max_position_embeddings", None)
    made_for = made_for if isinstance(made_for, int) and made_for > 0 else None
    pairs = bool(getattr(model.config, "is_encoder_decoder", False))
    source: list[int] = []
    target: list[int] = []
    for name, table in [*model.named_modules(), *model.named_buffers()]:
        path, _, last = name.rpartition(".")
        if last not in _TABLES or (rows := _count_rows(table, made_for)) is None:
            continue
        (target if pairs and "decoder" in path.split(".") else source).append(rows)
    found = min(source, default=None)
    return Positions(found, min(target, default=None) if pairs else found, made_for)


def _count_rows(table: object, made_for: int | None) -> int | None:
    """Count the rows of a table that tokens can use; None if it grows with the text."""
    shape = getattr(getattr(table, "weight", table), "shape", None)
    if shape is None:
        # Reformer's table is a product of factors and has the rows that its configuration says. Tables that grow have
        # no weight either; their class names say that they are sinusoidal.
        grows = "Sinusoidal" in type(table).__name__
        return None if grows else made_for
    if len(shape) != 2:
        return None
    rows = int(shape[0])
    if isinstance(offset := getattr(table, "offset", None), int):
        rows -= offset
    elif isinstance(padding := getattr(table, "padding_idx", None), int):
        rows -= padding + 1
    return rows if made_for is None else min(rows, made_for)
