"""Choose which layers of a student are compared with which of a teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raykd.distill.features.states import EncoderShape
from raykd.errors import ConfigError

LayerPair = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
LayerMap = Literal["uniform", "last"] | Annotated[tuple[LayerPair, ...], Field(min_length=1)]
"""`last` compares the last layers. `uniform` compares layer m of a student of L layers with layer m L_t / L of the
teacher's L_t, rounded (arXiv:1909.10351). Pairs are [student's, teacher's], counted from 1; 0 is the embeddings."""


def list_layer_pairs(
    layers: LayerMap, student: EncoderShape, teacher: EncoderShape, name: str
) -> tuple[tuple[int, int], ...]:
    """Return the pairs of layers that are compared.

    Raises:
        ConfigError: One of them has no such layer.
    """
    if layers == "last":
        return ((student.layers, teacher.layers),)
    if layers == "uniform":
        own = range(1, student.layers + 1)
        half = student.layers // 2
        return tuple((m, max(1, (m * teacher.layers + half) // student.layers)) for m in own)
    for who, at, most in (("the student", 0, student.layers), (f"teacher {name}", 1, teacher.layers)):
        if beyond := [pair[at] for pair in layers if pair[at] > most]:
            raise ConfigError(
                f"objective.features: {who} has no layer {beyond[0]}",
                got=f"layers {[list(pair) for pair in layers]}",
                wanted=f"layers up to {most}",
                next_step="correct the pairs of [student's layer, teacher's layer], or take uniform or last",
            )
    return tuple(layers)
