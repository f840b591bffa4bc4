"""Find the numbers of answers in the columns of a file and read them by label; `shards` holds the decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raykd.config import FileTeacher
from raykd.errors import ModelError
from raykd.tasks import Task
from raykd.teachers.backends.given_numbers import NumberForm

if TYPE_CHECKING:
    import pyarrow as pa

NUMBERS: tuple[NumberForm, ...] = ("probabilities", "logits")
"""Columns of which one holds the numbers of all labels."""
VALUE = "value"
"""Column of the numbers of a regression."""
TEXTS = ("id", "text", "text_pair", "tokens")
"""Columns that say which row of a run is answered."""
Shape = dict[str, tuple[str, ...] | None]
"""The columns of a file, with the labels that those name which hold tables by label; None for others."""


@dataclass(frozen=True)
class NumberColumns:
    """Where the numbers of a row stand.

    Attributes:
        columns: The column of all labels, or a column per label.
        output: What the numbers are.
        labels: Their labels, in order.
        named: Whether the one column names the labels; else it holds lists.
        nested: Whether a row holds a list of such numbers, one item a word.
    """

    columns: tuple[str, ...]
    output: NumberForm
    labels: tuple[str, ...]
    named: bool
    nested: bool

    @property
    def arrow_type(self) -> pa.DataType:
        """The type of the one column, for values that come from JSON."""
        import pyarrow as pa

        unit = (
            pa.struct([(label, pa.float64()) for label in self.labels])
            if self.named
            else pa.list_(pa.float64())
        )
        return pa.list_(unit) if self.nested else unit


def find_number_columns(
    shape: Shape, teacher: FileTeacher, labels: Sequence[str], task: Task, who: str
) -> NumberColumns:
    """Return where the numbers stand, from the columns of the first file.

    Args:
        shape: The columns.
        teacher: The teacher.
        labels: The run's: with the keys of the label map the names of columns that may hold numbers.
        task: The run's: a row of tags holds a list of numbers for each word, one of a regression a value.
        who: The teacher, for messages.

    Raises:
        ModelError: It has no numbers, or its labels are not known.
    """
    output, nested = teacher.output, task.form == "words"
    if task.has_scale:
        if VALUE not in shape:
            raise ModelError(
                f"{who}: its rows hold no value",
                got=f"columns {', '.join(shape)}",
                wanted=f"a column {VALUE}",
                next_step="rename one (df.rename(columns={...}))",
            )
        return NumberColumns((VALUE,), "logits", (VALUE,), named=True, nested=False)
    found = [name for name in NUMBERS if name in shape]
    if output is not None and output in found:
        found = [output]
    if len(found) > 1:
        raise ModelError(
            f"{who}: its rows hold both {' and '.join(found)}",
            got=f"columns {', '.join(shape)}",
            wanted="one of them",
            next_step=f"teachers.{teacher.name}.output: logits takes one of them",
        )
    if found:
        keys = shape[found[0]]
        if keys is None and not teacher.labels:
            raise ModelError(
                f"{who}: its {found[0]} are plain lists, which do not say their labels",
                got="no key labels",
                wanted="the labels in the order of the numbers",
                next_step=f"write teachers.{teacher.name}.labels: [...]",
            )
        own = teacher.labels or keys or ()
        return NumberColumns((found[0],), output or found[0], own, keys is not None, nested)
    wanted = teacher.labels or tuple(dict.fromkeys((*teacher.label_map, *labels)))
    columns = tuple(name for name in shape if name in wanted and name not in TEXTS)
    if not columns or nested or set(teacher.labels) - set(columns):
        raise ModelError(
            f"{who}: its rows hold no numbers of {'all words' if nested else 'the labels'}",
            got=f"columns {', '.join(shape)}",
            wanted="a column probabilities or logits"
            + ("" if nested else f", or a column for each of {list(wanted)}"),
            next_step="rename its columns (df.rename(columns={...})), or map its labels with label_map",
        )
    return NumberColumns(columns, output or "probabilities", columns, named=True, nested=False)


def is_list(kind: pa.DataType) -> bool:
    """Return whether an Arrow type is a list."""
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


@dataclass(frozen=True)
class GivenNumbers:
    """The numbers of a batch of rows.

    Attributes:
        values_NC: float64, one row per unit; NaN where null.
        null_NC: bool, where nothing is given.
        counts_B: int64, units of each row; 0 where it has none.
    """

    values_NC: NDArray[np.float64]
    null_NC: NDArray[np.bool_]
    counts_B: NDArray[np.int64]


def read_cells(columns: dict[str, pa.Array], numbers: NumberColumns, who: str) -> GivenNumbers:
    """Return the numbers of a batch of rows, by label in the order of `numbers.labels`.

    Args:
        columns: Of `read_batches`.
        numbers: Where they stand.
        who: Teacher and place, for messages.

    Raises:
        ModelError: They are no numbers, or lists of another length.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if numbers.columns[0] not in NUMBERS:
        parts = [columns[name] for name in numbers.columns]
        return _stack(parts, np.ones(len(parts[0]), dtype=np.int64), who)
    cells = columns[numbers.columns[0]]
    counts_B = np.ones(len(cells), dtype=np.int64)
    if numbers.nested:
        if not is_list(cells.type):
            raise _build_type_error(who, cells.type, "a list for each row, one item a word")
        counts_B = (
            pc.fill_null(pc.list_value_length(cells), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        )
        cells = cells.flatten()
    if numbers.named:
        if not pa.types.is_struct(cells.type):
            raise _build_type_error(who, cells.type, f"a number for each of {list(numbers.labels)}")
        by_label = dict(zip([part.name for part in cells.type], cells.flatten(), strict=True))
        if strange := sorted(set(by_label) - set(numbers.labels)):
            raise _build_type_error(who, f"also {', '.join(strange)}", f"labels among {list(numbers.labels)}")
        empty = pa.nulls(len(cells), pa.float64())
        return _stack([by_label.get(label, empty) for label in numbers.labels], counts_B, who)
    return _stack_lists(cells, len(numbers.labels), counts_B, who)


def _stack(parts: Sequence[pa.Array], counts_B: NDArray[np.int64], who: str) -> GivenNumbers:
    import pyarrow as pa

    for part in parts:
        _refuse_no_numbers(part.type, who)
    null_NC = np.stack([np.asarray(part.is_null()) for part in parts], axis=1)
    values = [part.cast(pa.float64()).to_numpy(zero_copy_only=False) for part in parts]
    return GivenNumbers(np.stack(values, axis=1).astype(np.float64), null_NC, counts_B)


def _stack_lists(cells: pa.Array, width: int, counts_B: NDArray[np.int64], who: str) -> GivenNumbers:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not is_list(cells.type):
        raise _build_type_error(who, cells.type, f"a list of {width} numbers")
    _refuse_no_numbers(cells.type.value_type, who)
    there_N = ~np.asarray(cells.is_null())
    lengths = pc.list_value_length(cells).drop_null().to_numpy(zero_copy_only=False)
    if (lengths != width).any():
        raise _build_type_error(
            who, f"a list of {lengths[lengths != width][0]} numbers", f"{width}, one for each of its labels"
        )
    flat = cells.drop_null().flatten()
    values_NC = np.full((len(cells), width), np.nan)
    null_NC = np.ones((len(cells), width), dtype=np.bool_)
    values_NC[there_N] = flat.cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(-1, width)
    null_NC[there_N] = np.asarray(flat.is_null()).reshape(-1, width)
    return GivenNumbers(values_NC, null_NC, counts_B)


def _refuse_no_numbers(kind: pa.DataType, who: str) -> None:
    from pyarrow import types

    if not (
        types.is_floating(kind) or types.is_integer(kind) or types.is_decimal(kind) or types.is_null(kind)
    ):
        raise _build_type_error(who, kind, "numbers")


def _build_type_error(who: str, got: object, wanted: str) -> ModelError:
    return ModelError(
        f"{who} gave something else than asked for",
        got=str(got),
        wanted=wanted,
        next_step="docs/teachers.md shows the form of a file of answers",
    )
