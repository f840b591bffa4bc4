"""Define the domains of a search space and parse them.

Decision record: a domain is a mapping with exactly one key, its kind. Every domain is drawn by its quantile function
(`value_at`). So a sample needs one uniform number per domain, and a test can compare a draw with a closed form.
Integers include both bounds (`randint: [1, 4]` gives 1, 2, 3 and 4), as people read an interval; Ray Tune's `randint`
excludes the upper one. A sample holds scalars only. An option of a choice that is a tree is represented by its label.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import yaml

from raykd.errors import ConfigError
from raykd.spaces.foreign import KINDS, suggest_domain, suggest_interval

Scalar = str | int | float | bool | None
"""A value in a sample: the value itself, or the label of an option that is a tree."""

LONGEST_LABEL = 48


@dataclass(frozen=True)
class UniformDomain:
    """A number between two bounds, all equally likely."""

    kind: ClassVar[str] = "uniform"
    low: float
    high: float

    def value_at(self, u: float) -> float:
        """Return the value at quantile u in [0, 1)."""
        return self.clip(self.low + (self.high - self.low) * u)

    def clip(self, value: float) -> float:
        """Return the nearest value of the domain."""
        return min(max(float(value), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class LogUniformDomain(UniformDomain):
    """A number between two bounds above 0, with a uniform logarithm."""

    kind: ClassVar[str] = "log_uniform"

    def value_at(self, u: float) -> float:
        return self.clip(self.low * (self.high / self.low) ** u)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} (log)"


@dataclass(frozen=True)
class IntegerDomain:
    """A whole number between two bounds, both included."""

    kind: ClassVar[str] = "randint"
    low: int
    high: int

    def value_at(self, u: float) -> int:
        """Return the value at quantile u in [0, 1)."""
        return self.clip(self.low + math.floor(u * (self.high - self.low + 1)))

    def clip(self, value: float) -> int:
        """Return the nearest value of the domain."""
        return min(max(round(value), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low} to {self.high} (whole)"


@dataclass(frozen=True)
class ChoiceDomain:
    """One of several options, all equally likely.

    Attributes:
        labels: Represent the options in samples: the option itself if it is a scalar, else a text. All different.
        options: The options as written, in the same order.
    """

    kind: ClassVar[str] = "choice"
    labels: tuple[Scalar, ...]
    options: tuple[object, ...]

    def value_at(self, u: float) -> Scalar:
        """Return the label at quantile u in [0, 1)."""
        return self.labels[math.floor(u * len(self.labels))]

    def index(self, label: Scalar) -> int | None:
        """Return the position of a label; None if there is no such option. 1, 1.0 and true are different labels."""
        texts = [json.dumps(one) for one in self.labels]
        text = json.dumps(label)
        return texts.index(text) if text in texts else None

    def __str__(self) -> str:
        return " | ".join(label if isinstance(label, str) else json.dumps(label) for label in self.labels)


@dataclass(frozen=True)
class GridDomain(ChoiceDomain):
    """Options that are all tried, in every combination with other grids."""

    kind: ClassVar[str] = "grid"


Domain = UniformDomain | LogUniformDomain | IntegerDomain | ChoiceDomain | GridDomain


def parse_domain(node: Mapping[str, object], path: str) -> Domain | None:
    """Parse a mapping as a domain; None if it is not one.

    Args:
        node: A mapping of the space.
        path: Its path below `space`, for errors.

    Raises:
        ConfigError: A domain has another key beside it or a wrong value, or is written as in another library.
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
        return _parse_options(kind, value, path)
    return _parse_interval(kind, value, path)


def refuse_foreign(node: object, path: str) -> None:
    """Refuse a domain written as in another library.

    Raises:
        ConfigError: Says what to write.
    """
    if (here := suggest_domain(node)) is not None:
        raise ConfigError(
            f"space.{path}: no domain is written so",
            got=node,
            wanted=f"one of {', '.join(KINDS)}",
            next_step=f"write {here}",
        )


def _parse_interval(kind: str, value: object, path: str) -> UniformDomain | LogUniformDomain | IntegerDomain:
    whole = kind == "randint"
    wanted = f"[low, high], two {'whole ' if whole else ''}numbers, low below high"
    wanted += ", both above 0" if kind == "log_uniform" else ""
    is_pair = (
        isinstance(value, list) and len(value) == 2 and all(_is_number(one, whole=whole) for one in value)
    )
    low, high = value if isinstance(value, list) and is_pair else (0, 0)
    if not low < high or (kind == "log_uniform" and low <= 0):
        meant = suggest_interval(kind, value)
        step = None if meant is None else f"write {meant}"
        raise ConfigError(f"space.{path}: wrong bounds of {kind}", got=value, wanted=wanted, next_step=step)
    if whole:
        return IntegerDomain(low, high)
    return (LogUniformDomain if kind == "log_uniform" else UniformDomain)(float(low), float(high))


def _is_number(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (not whole and isinstance(value, float) and math.isfinite(value))


def _parse_options(kind: str, value: object, path: str) -> ChoiceDomain:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"space.{path}: {kind} needs options", got=value, wanted="a list that is not empty")
    texts = [json.dumps(option, sort_keys=True, default=str) for option in value]
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise ConfigError(f"space.{path}: an option of {kind} stands twice", got=twice[0], wanted="each once")
    return (GridDomain if kind == "grid" else ChoiceDomain)(_make_labels(value), tuple(value))


def _make_labels(options: Sequence[object]) -> tuple[Scalar, ...]:
    """Return one label per option. A scalar is its own label; the short text of a tree is numbered if it is taken
    (``linear#2``).
    """
    taken = {option for option in options if isinstance(option, str)}
    labels: list[Scalar] = []
    for option in options:
        if option is None or isinstance(option, str | int | float):
            labels.append(option)
            continue
        text, number = _summarise(option), 1
        label = text
        while label in taken:
            number += 1
            label = f"{text}#{number}"
        taken.add(label)
        labels.append(label)
    return tuple(labels)


def _summarise(option: object) -> str:
    """Return a tree in a few words, without brackets, which delimit labels in paths."""
    if isinstance(option, Mapping):
        if isinstance(option.get("kind"), str):
            return str(option["kind"])
        if len(option) == 1 and next(iter(option)) in KINDS:
            return str(next(iter(option)))
    flow = yaml.safe_dump(option, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    text = " ".join("".join(c for c in flow if c not in "[]{}'\"#").split()) or "empty"
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 3] + "..."
