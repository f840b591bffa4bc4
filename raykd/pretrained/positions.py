"""How many tokens a model has positions for, read from the model's own modules.

Decision record: a table of positions ends: a token beyond its last row is an index error in the middle of a run. How
many rows are free for tokens differs by family (RoBERTa's begin at padding_idx + 1, BART's have an offset of 2,
Nystromformer has two more than it uses), so they are counted at the module and not by the name of the family. Rotary,
relative and growing sinusoidal positions have no last row; there a configuration only says with how many the model
was made.
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
        source: Most tokens of an input (of an encoder-decoder: of a source); None where no table ends.
        target: Most tokens that a decoder reads; the same as `source` where there is no encoder.
        made_for: What the configuration says it was made for; None where it says nothing.
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
        if last not in _TABLES or (rows := _rows(table, made_for)) is None:
            continue
        (target if pairs and "decoder" in path.split(".") else source).append(rows)
    found = min(source, default=None)
    return Positions(found, min(target, default=None) if pairs else found, made_for)


def _rows(table: object, made_for: int | None) -> int | None:
    """Rows of a table that tokens can have; None where it grows with the text."""
    shape = getattr(getattr(table, "weight", table), "shape", None)
    if shape is None:
        # Reformer's factors, for example: their product is what the configuration says. Tables that grow have no
        # weight, and their names say that they are sines.
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
