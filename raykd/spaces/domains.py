"""Domains: what a leaf of a search space may be, and how it is written.

Decision record: a domain is a mapping with exactly one key, its kind. Every domain is drawn by its quantile function
(`at`), so one uniform number a domain makes a sample, and a test can compare a draw with a closed form. Integers are
closed on both sides (`randint: [1, 4]` gives 1, 2, 3 and 4), as people read an interval; Ray Tune's own `randint`
leaves the upper end out. A sample holds scalars only: an option of a choice that is a tree goes by its label.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from raykd.errors import ConfigError
from raykd.spaces.foreign import KINDS, suggest_domain, suggest_interval

Scalar = str | int | float | bool | None
"""What a sample holds for a domain: the value itself, or the label of an option that is a tree."""

LONGEST_LABEL = 48


@dataclass(frozen=True)
class UniformDomain:
    """Any number between two, all equally likely."""

    kind: ClassVar[str] = "uniform"
    low: float
    high: float

    def value_at(self, u: float) -> float:
        """The value at quantile u, which lies in [0, 1)."""
        return self.clip(self.low + (self.high - self.low) * u)

    def clip(self, value: float) -> float:
        """The nearest value of the domain."""
        return min(max(float(value), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class LogUniformDomain(UniformDomain):
    """Any number between two above 0, with its logarithm uniform."""

    kind: ClassVar[str] = "log_uniform"

    def value_at(self, u: float) -> float:
        return self.clip(self.low * (self.high / self.low) ** u)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} (log)"


@dataclass(frozen=True)
class IntegerDomain:
    """Any whole number between two, both included."""

    kind: ClassVar[str] = "randint"
    low: int
    high: int

    def value_at(self, u: float) -> int:
        """The value at quantile u, which lies in [0, 1)."""
        return self.clip(self.low + math.floor(u * (self.high - self.low + 1)))

    def clip(self, value: float) -> int:
        """The nearest value of the domain."""
        return min(max(round(value), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low} to {self.high} (whole)"


@dataclass(frozen=True)
class ChoiceDomain:
    """One of several options, all equally likely.

    labels: what a sample holds for each option: the option itself if it is a scalar, else a text, all different.
    options: the trees as written, in the same order.
    """

    kind: ClassVar[str] = "choice"
    labels: tuple[Scalar, ...]
    options: tuple[Any, ...]

    def value_at(self, u: float) -> Scalar:
        """The label at quantile u, which lies in [0, 1)."""
        return self.labels[math.floor(u * len(self.labels))]

    def index(self, label: Scalar) -> int | None:
        """Position of the option with this label; 1, 1.0 and true are different labels."""
        texts = [json.dumps(one) for one in self.labels]
        text = json.dumps(label)
        return texts.index(text) if text in texts else None

    def __str__(self) -> str:
        return " | ".join(label if isinstance(label, str) else json.dumps(label) for label in self.labels)


@dataclass(frozen=True)
class GridDomain(ChoiceDomain):
    """Options that are all tried, crossed with every other grid."""

    kind: ClassVar[str] = "grid"


Domain = UniformDomain | LogUniformDomain | IntegerDomain | ChoiceDomain | GridDomain


def parse_domain(node: Mapping[str, object], path: str) -> Domain | None:
    """The domain that a mapping is, None for any other mapping.

    Raises:
        ConfigError: a domain with another key beside it, a wrong value, or a key that looks like a domain's name.
    """
    named = [key for key in node if key in KINDS]
    if not named:
        refuse_foreign(node, path)
        return None
    if len(node) > 1:
        raise ConfigError(
            f"space.{path}: a domain is a mapping with exactly one key",
            got=", ".join(map(str, node)),
            wanted=f"{named[0]} alone, or a mapping whose values are domains",
            next_step="a step is a choice of its values, a default a point of search.points_to_evaluate",
        )
    kind, value = named[0], node[named[0]]
    if kind in ("choice", "grid"):
        return _options(kind, value, path)
    return _interval(kind, value, path)


def refuse_foreign(node: object, path: str) -> None:
    """Refuses a domain as another library writes it.

    Raises:
        ConfigError: with what to write.
    """
    if (here := suggest_domain(node)) is not None:
        raise ConfigError(
            f"space.{path}: no domain is written so",
            got=node,
            wanted=f"one of {', '.join(KINDS)}",
            next_step=f"write {here}",
        )


def _interval(kind: str, value: Any, path: str) -> UniformDomain | LogUniformDomain | IntegerDomain:
    whole = kind == "randint"
    wanted = f"[low, high], two {'whole ' if whole else ''}numbers, low below high"
    wanted += ", both above 0" if kind == "log_uniform" else ""
    good = isinstance(value, list) and len(value) == 2 and all(_number(one, whole=whole) for one in value)
    if not good or not value[0] < value[1] or (kind == "log_uniform" and value[0] <= 0):
        meant = suggest_interval(kind, value)
        step = None if meant is None else f"write {meant}"
        raise ConfigError(f"space.{path}: wrong bounds of {kind}", got=value, wanted=wanted, next_step=step)
    low, high = value
    if whole:
        return IntegerDomain(low, high)
    return (LogUniformDomain if kind == "log_uniform" else UniformDomain)(float(low), float(high))


def _number(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (not whole and isinstance(value, float) and math.isfinite(value))


def _options(kind: str, value: object, path: str) -> ChoiceDomain:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"space.{path}: {kind} needs options", got=value, wanted="a list that is not empty")
    texts = [json.dumps(option, sort_keys=True, default=str) for option in value]
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise ConfigError(f"space.{path}: an option of {kind} stands twice", got=twice[0], wanted="each once")
    return (GridDomain if kind == "grid" else ChoiceDomain)(_labels(value), tuple(value))


def _labels(options: Sequence[object]) -> tuple[Scalar, ...]:
    """A label an option: scalars are their own; a tree's text counts up where it is taken (``linear#2``)."""
    taken = {option for option in options if isinstance(option, str)}
    labels: list[Scalar] = []
    for option in options:
        if option is None or isinstance(option, str | int | float):
            labels.append(option)
            continue
        text, number = _short(option), 1
        label = text
        while label in taken:
            number += 1
            label = f"{text}#{number}"
        taken.add(label)
        labels.append(label)
    return tuple(labels)


def _short(option: object) -> str:
    """A tree in a few words, without brackets: they delimit labels in paths."""
    if isinstance(option, Mapping):
        if isinstance(option.get("kind"), str):
            return str(option["kind"])
        if len(option) == 1 and next(iter(option)) in KINDS:
            return str(next(iter(option)))
    flow = yaml.safe_dump(option, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    text = " ".join("".join(c for c in flow if c not in "[]{}'\"#").split()) or "empty"
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 3] + "..."
