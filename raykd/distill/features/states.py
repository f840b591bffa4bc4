"""Name the states of an encoder that feature terms compare, and hold them as tensors.

Decision record: all that a feature term compares follows from vectors per token: hidden states, and the queries, keys
and values that attention makes of them. Attention scores and relations are computed where the student is. So a teacher
sends one kind of thing, the number of relation heads is searched without asking it again, and no model has to give up
its fast attention for one that returns scores.

Shape legend beyond that of `raykd.distill.signals`: ``X`` what a position compares (rows, or units for `words`), ``D``
width of a state, ``A`` heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

Part = Literal["hidden", "query", "key", "value"]
"""What is read at a layer: its output, or what its attention makes of its input."""
Position = Literal["cls", "mean", "words", "sequence"]
"""Where a state is read.

- cls: a text's first token.
- mean: the mean over a text's tokens.
- words: the token at which a word is tagged.
- sequence: every token of a text; teacher and student must cut texts into the same ones.
"""


class State(NamedTuple):
    """One state of an encoder; layers count from 1, and hidden state 0 is the output of the embeddings."""

    part: Part
    layer: int


class Source(NamedTuple):
    """A state, and where it is read."""

    position: Position
    state: State


FeatureRequest = tuple[Source, ...]
"""What a teacher is asked for beside its answers, sorted, so that equal requests are equal."""


@dataclass(frozen=True)
class EncoderShape:
    """What feature terms must know of an encoder. Read from a configuration.

    Attributes:
        family: The model type of transformers.
        layers: Number of layers.
        width: Of its hidden states.
        heads: Attention heads of a layer.
    """

    family: str
    layers: int
    width: int
    heads: int


@dataclass(frozen=True)
class TeacherStates:
    """One teacher's states for a micro-batch, over the student's rows or units.

    Attributes:
        vectors: float32 ``[X, D]``, of `sequence` ``[B, L, D]`` with the student's L.
        covered: bool ``[X]`` by position: whether the teacher's state is there.
    """

    vectors: Mapping[Source, torch.Tensor]
    covered: Mapping[Position, torch.Tensor]
