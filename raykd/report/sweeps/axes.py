"""How a searched key becomes an axis: numbers (perhaps logarithmic) or categories, and a place for inactive.

Decision record: a conditional key that is inactive has no value, and any place on the scale would be a lie, so it has
a place of its own below the axis, with a dash for a tick. A key is logarithmic if the sweep says so or if its
positive values span more than two decades; the domain itself is not known here, the samples are. Booleans, texts
and null are categories, in the order of false, true or the alphabet, null first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raykd.report.key_names import is_number_of_choice, shorten_names
from raykd.report.sweeps.trial_table import format_value
from raykd.report.sweeps.trials import SweepReport
from raykd.report.table import ABSENT

INACTIVE = -0.13
"""Where an inactive key is drawn, if the axis goes from 0 to 1."""
MOST_LABELS = 12
"""Categories that get a label of their own."""


@dataclass(frozen=True)
class SearchAxis:
    """The scale of one searched key.

    key: its path. label: its short name. log: numbers on a logarithmic scale.
    low, high: least and greatest value, as sampled; 0 for categories. categories: empty for numbers.
    inactive: whether some trial has no value. flipped: the least value lies at 1.
    numbers: of the categories those that stand for a number with an axis of its own.
    """

    key: str
    label: str
    log: bool = False
    low: float = 0.0
    high: float = 0.0
    categories: tuple[Any, ...] = ()
    inactive: bool = False
    flipped: bool = False
    numbers: tuple[Any, ...] = ()

    def place(self, sample: Mapping[str, Any]) -> float:
        """Where a sample lies on the axis: in [0, 1], or `INACTIVE`."""
        if self.key not in sample:
            return INACTIVE
        value = sample[self.key]
        if self.categories:
            return self._share(self._index(value), len(self.categories) - 1)
        whole = self._scaled(self.high) - self._scaled(self.low)
        share = self._share(self._scaled(value) - self._scaled(self.low), whole)
        return 1 - share if self.flipped else share

    def ticks(self, most: int = 5) -> list[tuple[float, str]]:
        """(place, label) of the ticks, the dash of inactive among them."""
        found = [(INACTIVE, ABSENT)] if self.inactive else []
        if self.categories:
            every = math.ceil(len(self.categories) / MOST_LABELS)
            shown = list(enumerate(self.categories))[::every]
            last = len(self.categories) - 1
            names = [(at, "constant" if value in self.numbers else _short(value)) for at, value in shown]
            return found + [(self._share(at, last), name) for at, name in names]
        return found + [
            (self.place({self.key: value}), format_value(value)) for value in self._round_values(most)
        ]

    def _round_values(self, most: int) -> list[float]:
        """Round numbers inside the range; its ends where there are fewer than two."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        if self.low == self.high:
            return [self.low]
        locator = LogLocator(subs=(1.0,)) if self.log else MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])
        slack = 1e-9 * (self.high - self.low)
        inside = [float(v) for v in locator.tick_values(self.low, self.high)]
        inside = [v for v in inside if self.low - slack <= v <= self.high + slack]
        return inside if len(inside) > 1 else [self.low, self.high]

    def _index(self, value: object) -> int:
        return next(at for at, known in enumerate(self.categories) if _same(known, value))

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else float(value)

    @staticmethod
    def _share(part: float, whole: float) -> float:
        return part / whole if whole else 0.5


def build_search_axes(report: SweepReport) -> list[SearchAxis]:
    """An axis for each searched key that any trial has a value for."""
    names, found = _names(report.keys), []
    for key in report.keys:
        values = [t.sample[key] for t in report.trials if key in t.sample]
        inactive = len(values) < len(report.trials)
        if all(_is_number(v) for v in values):
            low, high = min(values), max(values)
            log = low > 0 and (key in report.log_keys or high / low > 100)
            found.append(SearchAxis(key, names[key], log, float(low), float(high), inactive=inactive))
        else:
            categories = _categories(values)
            numbers = tuple(v for v in categories if f"{key}[{v}]" in report.keys)
            found.append(
                SearchAxis(key, names[key], categories=categories, numbers=numbers, inactive=inactive)
            )
    return found


def _names(keys: Sequence[str]) -> dict[str, str]:
    """A name for each axis: a choice and the number that is one of its options are two axes."""
    constants = [key for key in keys if is_number_of_choice(key, keys)]
    choices = {key[: key.rindex("[")] for key in constants}
    names = shorten_names([key for key in keys if key not in constants])
    return {
        key: names[key[: key.rindex("[")]] if key in constants else names[key] + " kind" * (key in choices)
        for key in keys
    }


def _categories(values: Sequence[object]) -> tuple[object, ...]:
    distinct: list[object] = []
    for value in values:
        if not any(_same(known, value) for known in distinct):
            distinct.append(value)
    return tuple(sorted(distinct, key=lambda v: (v is not None, not isinstance(v, bool), _order(v))))


def _order(value: Any) -> tuple[float, str]:
    return (float(value), "") if _is_number(value) or isinstance(value, bool) else (math.inf, str(value))


def _same(one: object, other: object) -> bool:
    """Equal and of one kind: true is not 1."""
    return bool(isinstance(one, bool) == isinstance(other, bool) and one == other)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: object) -> str:
    text = format_value(value)
    return text if len(text) <= 18 else text[:8] + "…" + text[-8:]
