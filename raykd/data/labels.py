"""Find the run's label that a cell of a file means.

Decision record: a label is a text. A number or truth value in a file is the text that a person means by it, if that can
be only one of the run's labels: pandas makes 1 to 1.0 where a row has no label, JSON has true where CSV has True. The
data's map is asked first, since the user wrote it for this file; a key `4..5` of it is a range of numbers, so that
scores become labels. -1 is no label, unless the run has one of that name: `datasets` and GLUE write it where gold is
held back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress

from raykd.config import DataConfig
from raykd.data.cells import BadRowError, parse_list, suggest_spelling
from raykd.data.files.textfiles import shorten_text, show_cell
from raykd.errors import show_value
from raykd.tasks.markers import BACKWARD, FORWARD

_INTEGRAL = re.compile(r"^([-+]?[0-9]+)\.0+\Z")
_RANGE = re.compile(r"([-+]?[0-9]+(?:\.[0-9]+)?)\.\.([-+]?[0-9]+(?:\.[0-9]+)?)\Z")
_BOOLEANS = {True: ("true", "True", "1"), False: ("false", "False", "0")}
MOST_SHOWN = 12
"""Labels that a message lists; a run may have hundreds."""


class NoLabelError(BadRowError):
    """The row has no gold label."""


class UnknownLabelError(BadRowError):
    """The label is not among the run's labels.

    Attributes:
        label: As the file has it.
    """

    def __init__(self, message: str, label: str) -> None:
        super().__init__(message)
        self.label = label


class ExcludedLabelError(Exception):
    """`data.label_map` maps the row's label to null, so the row is left out."""


def find_label_index(value: object, config: DataConfig, what: str = "label") -> int:
    """Return the place of a label in ``data.labels``.

    Args:
        value: The cell.
        config: The labels and the label map.
        what: The cell's name, for messages.

    Raises:
        NoLabelError: The cell is empty.
        ExcludedLabelError: The map leaves the label's rows out.
        UnknownLabelError: The label is not among the run's.
        BadRowError: The cell is no text, number or truth value, so that no map could name it.
    """
    known = (*config.labels, *config.label_map)
    texts = list_spellings(value)
    meant = [text for text in texts if text in known] or find_ranges(value, config.label_map)
    if is_missing(value) and not meant:
        raise NoLabelError(
            f"{what}: got {value!r}, wanted one of {join_names(config.labels)}; it is no gold label"
        )
    if not texts:
        alone = (
            "; write the label itself, without the list"
            if isinstance(value, list) and len(value) == 1
            else ""
        )
        raise BadRowError(
            f"{what}: got {show_cell(value)}, which is no text or number; wanted one of "
            f"{join_names(config.labels)}{alone}"
        )
    if not meant or (meant[0] != texts[0] and len(meant) > 1):
        doubt = f" (it could be {' or '.join(map(repr, meant))})" if meant else suggest_spelling(value, known)
        raise UnknownLabelError(
            f"{what}: got {show_cell(value)}, wanted one of {join_names(config.labels)}"
            + (f" or of data.label_map {join_names(tuple(config.label_map))}" if config.label_map else "")
            + doubt,
            shorten_text(show_value(value), 40),
        )
    name = config.label_map.get(meant[0], meant[0])
    if name is None:
        raise ExcludedLabelError(meant[0])
    return config.labels.index(name)


def find_ranges(value: object, names: Iterable[str]) -> list[str]:
    """Return the first name that is a range which holds a number, ``2..4`` with both ends; [] without one."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return []
    ranges = ((name, found) for name in names if (found := _RANGE.match(name)))
    return [name for name, found in ranges if float(found.group(1)) <= number <= float(found.group(2))][:1]


def add_direction(value: object, values: Mapping[str, object], names: Mapping[str, str]) -> object:
    """Return a label with the direction of its relation, where a column tells it.

    Args:
        value: The label's cell.
        values: The row.
        names: The columns by key; without `direction` the label is returned as it is.

    Raises:
        BadRowError: The direction is none of those that are known.
    """
    column = names.get("direction")
    told = None if column is None else values.get(column)
    if told is None or told == "" or not isinstance(value, str):
        return value
    endings = {"head-tail": FORWARD, "tail-head": BACKWARD, FORWARD: FORWARD, BACKWARD: BACKWARD}
    if not isinstance(told, str) or told not in endings:
        raise BadRowError(
            f"column {column!r}: got {show_cell(told)}, wanted one of {list(endings)}, or nothing"
        )
    return f"{value}{endings[told]}"


def parse_label_set(value: object, config: DataConfig, what: str) -> set[int]:
    """Return the places of a row's labels in ``data.labels``; none for an empty list.

    A list, the JSON of one, or names between one of ``|``, ``;`` and ``,`` (the first that occurs, in this order).
    A label that the map leads to null is left out of the row. Arguments as of `find_label_index`.

    Raises:
        NoLabelError: The cell is empty.
        BadRowError: It is something else, or a label is unknown.
    """
    if is_null(value):
        raise NoLabelError(
            f"{what}: got {value!r}, wanted a list of labels ([] for none); it is no gold label"
        )
    if isinstance(value, str):
        value = _split_labels(value, {*config.labels, *config.label_map}, what)
    if not isinstance(value, list):
        raise BadRowError(f"{what}: got {show_cell(value)}, wanted a list of labels")
    found = set()
    for label in value:
        if is_null(label):
            raise BadRowError(f"{what}: got a list with {label!r}, wanted labels alone")
        with suppress(ExcludedLabelError):
            found.add(find_label_index(label, config, what))
    return found


def _split_labels(text: str, known: set[str], what: str) -> list[object]:
    """Return the labels in a text; a text that is a label itself is not cut."""
    if text.strip() in known:
        return [text.strip()]
    if text.lstrip().startswith("["):
        return parse_list(text, what, flat=True)
    mark = next((sign for sign in "|;," if sign in text), None)
    return [text.strip()] if mark is None else [part.strip() for part in text.split(mark)]


def list_spellings(value: object) -> tuple[str, ...]:
    """Return the texts that a value can mean, its own first; () for anything but text, number and truth value."""
    if isinstance(value, bool):
        return _BOOLEANS[value]
    if isinstance(value, int):
        return str(value), f"{value}.0"
    if isinstance(value, float):
        return (str(value), str(int(value))) if value.is_integer() else (str(value),)
    if not isinstance(value, str):
        return ()
    if found := _INTEGRAL.match(value):
        return value, str(int(found.group(1)))
    if value.casefold() in ("true", "false"):
        return tuple(dict.fromkeys((value, *_BOOLEANS[value.casefold() == "true"])))
    return (value,)


def is_missing(value: object) -> bool:
    """Return whether a value says that there is no label: null, NaN, an empty text, -1."""
    return is_null(value) or value in ("-1", "-1.0", -1)


def is_null(value: object) -> bool:
    """Return whether a cell is empty: null, NaN or an empty text."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def join_names(names: tuple[str, ...]) -> str:
    """Return names for a message; only the first of many."""
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return f"{list(names[:MOST_SHOWN])}{more}"
