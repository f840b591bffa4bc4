"""Describe what a saved student reads and answers with, as columns of a table: MLflow's signature without MLflow.

Decision record: most of a small model's time goes into Python values of its answers, so they are made of whole arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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


def name_numbers(names: Sequence[str], numbers_BC: NDArray[np.floating]) -> list[dict[str, float]]:
    """Return for each row its numbers by name, rounded to six digits, as Python values."""
    # A copy has its places already, which a new dictionary makes room for one by one.
    empty = dict.fromkeys(names, 0.0)
    found = [empty.copy() for _ in numbers_BC]
    numbers = iter(numbers_BC.astype(np.float64).round(6).ravel().tolist())
    for own in found:
        own.update(zip(names, numbers))  # noqa: B905  (the names of a row end first)
    return found
