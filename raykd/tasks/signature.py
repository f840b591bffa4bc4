"""Describe what a saved student reads and answers with, as columns of a table: MLflow's signature without MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scalar = Literal["string", "long", "double"]
Cell = Scalar | Literal["doubles", "strings"]
"""What a cell holds: a scalar, or a list of numbers or texts."""


@dataclass(frozen=True)
class Column:
    """One column of a served model's input or output.

    Attributes:
        name: Its name in the frame.
        type: What a cell holds: a scalar, or by name the scalars of each object in a list.
        required: Whether a frame must have it.
    """

    name: str
    type: Cell | Mapping[str, Scalar]
    required: bool = True


@dataclass(frozen=True)
class Signature:
    """The columns of a task's inputs and outputs, in order."""

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]


TEXT = (Column("text", "string"),)
WRITTEN = Signature(TEXT, (Column("written", "string"),))
"""The signature of every task that writes text."""
LANGUAGE_COLUMNS = (Column("lang", "string", required=False), Column("src_lang", "string", required=False))
"""Columns of a task whose models read which language to write, and that of the source."""
TRANSLATED = Signature((*TEXT, *LANGUAGE_COLUMNS), WRITTEN.outputs)
"""The signature of a task whose models are told languages."""
