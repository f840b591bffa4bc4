"""Turn a searched key into an axis: numbers (perhaps logarithmic) or categories, and a place for inactive.

Decision record: a conditional key that is inactive has no value, and any place on the scale would be a lie. It has a
place of its own below the axis, with a dash for a tick. A key is logarithmic if the sweep says so or if its positive
values span more than two decades; the domain itself is not known here, the samples are. Booleans, texts and null are
categories: null first, then false and true, then texts in the order of the alphabet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from raykd.report.charts import choose_ticks
from raykd.report.formats import ABSENT, format_value
from raykd.report.key_names import is_number_of_choice, shorten_names
from raykd.report.sweeps.trials import SweepReport

INACTIVE = -0.13
"""Where an inactive key is drawn; the axis itself goes from 0 to 1."""
MOST_LABELS = 12
"""Categories that get a label of their own."""
LONGEST_LABEL = 18
"""Characters of a category's label."""


@dataclass(frozen=True)
class SearchAxis:
    """The scale of one searched key.

    Attributes:
        key: Its path.
        label: Its short name.
        log: Whether numbers are on a logarithmic scale.
        low, high: Least and greatest sampled value; 0 for categories.
        categories: Empty for numbers.
        inactive: Whether some trial has no value.
        flipped: Whether the least value lies at 1 instead of 0.
        numbers: Categories that stand for a number with an axis of its own.
    """

    key: str
    label: str
    log: bool = False
    low: float = 0.0
    high: float = 0.0
    categories: tuple[object, ...] = ()
    inactive: bool = False
    flipped: bool = False
    numbers: tuple[object, ...] = ()

    def place(self, sample: Mapping[str, object]) -> float:
        """Return where a sample lies on the axis: in [0, 1], or `INACTIVE`."""
        return self.place_value(sample[self.key]) if self.key in sample else INACTIVE

    def place_value(self, value: object) -> float:
        """Return where a value lies on the axis, in [0, 1]."""
        if not _is_number(value) or self.categories:
            at = [_distinguish(known) for known in self.categories].index(_distinguish(value))
            return _divide(at, len(self.categories) - 1)
        low, high, here = (math.log(x) if self.log else float(x) for x in (self.low, self.high, value))
        share = _divide(here - low, high - low)
        return 1 - share if self.flipped else share

    def ticks(self, most: int = 5) -> list[tuple[float, str]]:
        """Return (place, label) of the ticks, the dash of inactive among them.

        Args:
            most: Ticks of an axis of numbers.
        """
        found = [(INACTIVE, ABSENT)] if self.inactive else []
        if not self.categories:
            return found + [(self.place_value(v), format_value(v)) for v in self._round_values(most)]
        every = math.ceil(len(self.categories) / MOST_LABELS)
        return found + [
            (self.place_value(v), "constant" if v in self.numbers else _shorten(format_value(v)))
            for v in self.categories[::every]
        ]

    def _round_values(self, most: int) -> list[float]:
        """Round numbers inside the range; its ends where there are fewer than two."""
        if self.low == self.high:
            return [self.low]
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            ticks = [10.0**power for power in powers]
        else:
            ticks = choose_ticks(self.low, self.high, most)
        slack = 1e-9 * (self.high - self.low)  # a tick at the very end may miss it by rounding
        inside = [v for v in ticks if self.low - slack <= v <= self.high + slack]
        return inside if len(inside) > 1 else [self.low, self.high]


def build_search_axes(report: SweepReport) -> list[SearchAxis]:
    """Return an axis for each searched key that any trial has a value for."""
    names, axes = _name_axes(report.keys), []
    for key in report.keys:
        values = [t.sample[key] for t in report.trials if key in t.sample]
        inactive = len(values) < len(report.trials)
        if all(map(_is_number, values)):
            low, high = float(min(values)), float(max(values))
            log = low > 0 and (key in report.log_keys or high / low > 100)
            axes.append(SearchAxis(key, names[key], log, low, high, inactive=inactive))
        else:
            categories = _sort_categories(values)
            numbers = tuple(v for v in categories if f"{key}[{v}]" in report.keys)
            axes.append(
                SearchAxis(key, names[key], categories=categories, numbers=numbers, inactive=inactive)
            )
    return axes


def _name_axes(keys: Sequence[str]) -> dict[str, str]:
    """Name each axis. A choice and the number that is one of its options are two axes."""
    choice_of = {key: key[: key.rindex("[")] for key in keys if is_number_of_choice(key, keys)}
    names = shorten_names([key for key in keys if key not in choice_of])
    return {
        key: names[choice_of[key]] if key in choice_of else names[key] + " kind" * (key in choice_of.values())
        for key in keys
    }


def _sort_categories(values: Iterable[object]) -> tuple[object, ...]:
    distinct = {_distinguish(value): value for value in reversed(list(values))}
    return tuple(sorted(distinct.values(), key=_sorting_key))


def _sorting_key(value: object) -> tuple[bool, bool, float, str]:
    as_number = float(value) if _is_number(value) or isinstance(value, bool) else math.inf
    return value is not None, not isinstance(value, bool), as_number, str(value)


def _distinguish(value: object) -> tuple[bool, object]:
    """A key that tells true from 1, which Python takes for equal."""
    return isinstance(value, bool), value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def _divide(part: float, whole: float) -> float:
    """The share of a whole; the middle where all values are equal."""
    return part / whole if whole else 0.5


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else text[:8] + "…" + text[-8:]
