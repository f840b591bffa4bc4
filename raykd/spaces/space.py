"""Define a search space: an overlay of RunConfig with domains as leaves.

Decision record: a sample is flat, `{path: scalar}`, because Tune, Optuna, a journal and a table can hold that. The tree
of the space turns it into an overlay, and RunConfig decides whether that is a run. A domain inside an option of a
choice has a conditional path, `objective.temperature[linear].start`. It is in a sample only if its option was chosen,
so no searcher learns from values without effect. A sample is a function of (seed, index) alone: every domain has its
own uniform number whether it is active or not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykd.config import Run, overlay
from raykd.config.loading import resolve_paths, validate_any_run
from raykd.config.smoke import shorten_run
from raykd.errors import ConfigError, RaykdError, show_value
from raykd.parse import JsonObject
from raykd.report.key_names import is_number_of_choice, shorten_names
from raykd.spaces.domains import (
    ChoiceDomain,
    Domain,
    GridDomain,
    IntegerDomain,
    Scalar,
    parse_domain,
    refuse_foreign,
)

TRIAL_MARK = ", the trial with "
"""Stands between a space's name and a trial's values in errors of `Space.build_run`."""

Sample = dict[str, Scalar]
"""The value of every active domain, by path, in the order of `Space.domains`."""

_OF_A_TASK = r"(task\.tasks\.[^.]+\.)?"
LAMBDA = re.compile(rf"{_OF_A_TASK}objective\.terms(\.\d+)?\.lambda_schedule(\.|$)")
ALPHA = re.compile(rf"{_OF_A_TASK}objective\.alpha(\.|$)")


@dataclass(frozen=True)
class Dimension:
    """One domain and its place.

    Attributes:
        path: Its name in samples. Options that must be chosen stand in it, in brackets.
        key: The key of RunConfig that it varies: the path without brackets.
        domain: Its values.
        condition: (path, label) of every choice above it; empty for a plain domain.
    """

    path: str
    key: str
    domain: Domain
    condition: tuple[tuple[str, Scalar], ...] = ()

    def is_active(self, sample: Mapping[str, Scalar]) -> bool:
        """Return whether the sample chose every option above this domain."""
        return all(path in sample and is_same_value(sample[path], label) for path, label in self.condition)


@dataclass(frozen=True)
class Slot:
    """A domain's place in the compiled tree. `options` are the compiled options of a choice."""

    path: str
    domain: Domain
    options: tuple[object, ...]


class Space:
    """A compiled search space over a base run.

    Args:
        tree: The overlay, with domains as leaves.
        base: The tree of the run that every trial begins with.
        base_dir: What relative paths in the tree are relative to.
        origin: What errors call the space.

    Attributes:
        keys: Every key of RunConfig that the space mentions.
        searched: The keys that differ between samples.
        tree: The overlay with a `Slot` for each domain.
        domains: All domains, outer ones before those inside their options.
        grid_size: Number of points of all grids combined; 1 without a grid.
        size: Number of different samples; infinite if a number is drawn from an interval.

    Raises:
        ConfigError: A domain is written wrongly, or a grid stands inside a choice.
    """

    def __init__(
        self,
        tree: Mapping[str, object],
        base: Mapping[str, object] | None = None,
        base_dir: Path = Path(),
        origin: str = "space",
    ) -> None:
        self.base, self.base_dir, self.origin = dict(base or {}), base_dir, origin
        self.keys: set[str] = set()
        self.searched: set[str] = set()
        self._dimensions: list[Dimension] = []
        if not isinstance(tree, Mapping) or parse_domain(tree, "(root)") is not None:
            raise ConfigError(
                f"{origin}: the space is a mapping of a run's keys",
                got=tree,
                wanted="objective: {alpha: ...}",
            )
        self.tree = self._compile(tree, "", "", ())
        self.domains: tuple[Dimension, ...] = tuple(self._dimensions)
        self.grid_size = _grid_size(self.tree)
        self.size = _size(self.tree)

    def _compile(
        self, node: object, path: str, key: str, condition: tuple[tuple[str, Scalar], ...]
    ) -> object:
        if key:
            self.keys.add(key)
        if condition:
            self.searched.add(key)
        if isinstance(node, list):
            return [
                self._compile(item, f"{path}.{at}", f"{key}.{at}", condition) for at, item in enumerate(node)
            ]
        if not isinstance(node, Mapping):
            refuse_foreign(node, path)
            return node
        domain = parse_domain(node, path)
        if domain is None:
            dot = "." if path else ""
            _refuse_dots(node, f"{key}{dot}")
            return {
                str(name): self._compile(value, f"{path}{dot}{name}", f"{key}{dot}{name}", condition)
                for name, value in node.items()
            }
        self.searched.add(key)
        dimension = Dimension(path, key, domain, condition)
        if isinstance(domain, GridDomain):
            self._refuse_grid_in_choice(dimension)
        self._dimensions.append(dimension)
        if not isinstance(domain, ChoiceDomain):
            return Slot(path, domain, ())
        options = tuple(
            self._compile(option, f"{path}[{label}]", key, (*condition, (path, label)))
            for option, label in zip(domain.options, domain.labels, strict=True)
        )
        return Slot(path, domain, options)

    def _refuse_grid_in_choice(self, dimension: Dimension) -> None:
        above = {path for path, _ in dimension.condition}
        drawn = [
            one.path
            for one in self._dimensions
            if one.path in above and not isinstance(one.domain, GridDomain)
        ]
        if drawn:
            raise ConfigError(
                f"space.{dimension.path}: a grid cannot stand inside a choice, since not every trial has it",
                got=f"grid below the choice {drawn[0]}",
                wanted=f"a grid at {drawn[0]} too, or a choice at {dimension.path}",
            )

    def short_names(self) -> dict[str, str]:
        """Return a short name per path, for tables. A number that is an option of a choice has the choice's name."""
        paths = [one.path for one in self.domains]
        names = shorten_names([path for path in paths if not is_number_of_choice(path, paths)])
        return {path: names.get(path) or names[path[: path.rindex("[")]] for path in paths}

    def choose_values(self, choose: Callable[[Dimension], Scalar]) -> Sample:
        """Make a sample by calling ``choose`` for every active domain, outer ones first."""
        sample: Sample = {}
        for dimension in self.domains:
            if dimension.is_active(sample):
                sample[dimension.path] = choose(dimension)
        return sample

    def draw(
        self, seed: int, index: int, fixed: Mapping[str, Scalar] | None = None, attempt: int = 0
    ) -> Sample:
        """Draw sample ``index`` of the stream of ``seed``. Grids give their points in turn, again and again.

        Args:
            seed: Seed of the stream.
            index: Number of the sample, from 0.
            fixed: Values by path, taken in place of drawn ones.
            attempt: Draws another sample for the same index, from 1.
        """
        import numpy as np

        key = (index, attempt) if attempt else (index,)
        stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))
        quantiles = dict(
            zip([one.path for one in self.domains], stream.random(len(self.domains)).tolist(), strict=True)
        )
        given = {**self.grid_point(index % self.grid_size), **(fixed or {})}
        return self.choose_values(
            lambda one: given[one.path] if one.path in given else one.domain.value_at(quantiles[one.path])
        )

    def grid_point(self, index: int) -> Sample:
        """Return the values of the active grids at point ``index`` of ``grid_size``. The last grid changes fastest."""
        if not 0 <= index < self.grid_size:
            raise IndexError(f"point {index} of a grid of {self.grid_size}")
        return _grid_point(self.tree, index)

    def iterate_samples(self) -> Iterator[Sample]:
        """Yield every sample of a space of finite ``size``. The last domain changes fastest."""

        def below(at: int, sample: Sample) -> Iterator[Sample]:
            if at == len(self.domains):
                yield dict(sample)
                return
            one = self.domains[at]
            if not one.is_active(sample):
                yield from below(at + 1, sample)
                return
            for value in _values(one.domain):
                yield from below(at + 1, {**sample, one.path: value})

        yield from below(0, {})

    def build_overlay(self, sample: Mapping[str, Scalar]) -> JsonObject:
        """Build the overlay of the run for a sample.

        Raises:
            ConfigError: The sample lacks an active domain, has one that is not active, or an unknown label.
        """
        wanted = [one.path for one in self.domains if one.is_active(sample)]
        if set(wanted) != set(sample):
            raise ConfigError(
                f"{self.origin}: a sample of another space",
                got=format_sample(sample),
                wanted=", ".join(wanted),
            )
        return dict(_fill(self.tree, sample))

    def build_run(self, sample: Mapping[str, Scalar]) -> Run:
        """Build the run of a trial.

        Raises:
            ConfigError: The sample makes no valid run. The message names the sample.
        """
        where = f"{self.origin}{TRIAL_MARK}{format_sample(sample)}"
        try:
            tree = overlay(self.base, self.build_overlay(sample))
            if tree.get("smoke") is not None and tree["train"]["epochs"] is not None:
                # The trial sets epochs; the base, which is short, has steps.
                tree = overlay(tree, {"train": {"steps": None}})
            config = resolve_paths(validate_any_run(tree, where), self.base_dir)
            if config.smoke is not None:
                config = shorten_run(config, evaluations=None)
        except RaykdError as error:
            if error.what.startswith(where):
                raise
            raise ConfigError(
                f"{where}: {error.what}", got=error.got, wanted=error.wanted, next_step=error.next_step
            ) from None
        self._refuse_size_twice(config, where)
        return config

    def draw_covering(self, draws: int) -> list[Sample]:
        """Draw samples for a check: ``draws`` of them, and one more for each option of each choice."""
        samples = [self.draw(0, index) for index in range(draws)]
        for dimension in self.domains:
            if isinstance(dimension.domain, ChoiceDomain):
                samples += [
                    self.draw(0, len(samples), {**dict(dimension.condition), dimension.path: label})
                    for label in dimension.domain.labels
                ]
        return samples

    def _refuse_size_twice(self, config: Run, where: str) -> None:
        """Refuse to search two factors of one size: with alpha searched, a lambda schedule may only have a shape."""
        if not (any(map(ALPHA.match, self.searched)) and any(map(LAMBDA.match, self.searched))):
            return
        for member in config.members.values():
            terms = member.objective.terms
            if len(terms) == 1 and not math.isclose(peak := terms[0].lambda_schedule.bounds()[1], 1.0):
                raise ConfigError(
                    f"{where}: alpha is searched, so a single term's lambda_schedule is a shape with peak 1",
                    got=f"peak {peak:g}",
                    wanted="a schedule whose largest value is 1, or lambda searched instead of alpha",
                )


def _refuse_dots(node: Mapping[str, object], above: str) -> None:
    """Refuse a key with dots, which only overrides have."""
    for name in node:
        if "." in str(name):
            *outer, last = str(name).split(".")
            nested = "".join(f"{one}: {{" for one in outer) + f"{last}: ..." + "}" * len(outer)
            raise ConfigError(f"space.{above}{name}: keys are nested, not dotted", got=name, wanted=nested)


def is_same_value(a: Scalar, b: Scalar) -> bool:
    """Return whether two values of a sample are the same. 1, 1.0 and true all differ."""
    return json.dumps(a) == json.dumps(b)


def format_sample(sample: Mapping[str, Scalar]) -> str:
    """Return a sample as text, for messages."""
    return ", ".join(
        f"{path}={value:.4g}" if isinstance(value, float) else f"{path}={show_value(value)}"
        for path, value in sample.items()
    )


def _children(node: object) -> list[object]:
    return list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []


def encode_sample(sample: Mapping[str, Scalar]) -> str:
    """Return a text that is equal for equal samples only."""
    return json.dumps(sample, sort_keys=True)


def _values(domain: Domain) -> Sequence[Scalar]:
    if isinstance(domain, ChoiceDomain):
        return domain.labels
    assert isinstance(domain, IntegerDomain), "an interval has no last value"
    return range(domain.low, domain.high + 1)


def _size(node: object) -> float:
    if not isinstance(node, Slot):
        return math.prod(map(_size, _children(node)))
    if isinstance(node.domain, ChoiceDomain):
        return sum(map(_size, node.options))
    return node.domain.high - node.domain.low + 1 if isinstance(node.domain, IntegerDomain) else math.inf


def _grid_size(node: object) -> int:
    if isinstance(node, Slot):
        return sum(map(_grid_size, node.options)) if isinstance(node.domain, GridDomain) else 1
    return math.prod(map(_grid_size, _children(node)))


def _grid_point(node: object, index: int) -> Sample:
    if isinstance(node, Slot):
        if not isinstance(node.domain, GridDomain):
            return {}
        for label, option in zip(node.domain.labels, node.options, strict=True):
            if index < (size := _grid_size(option)):
                return {node.path: label, **_grid_point(option, index)}
            index -= size
    point: Sample = {}
    for child in reversed(_children(node)):
        index, rest = divmod(index, _grid_size(child))
        point = {**_grid_point(child, rest), **point}
    return point


def _fill(node: object, sample: Mapping[str, Scalar]) -> Any:
    if isinstance(node, dict):
        return {key: _fill(value, sample) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(item, sample) for item in node]
    if not isinstance(node, Slot):
        return node
    value = sample[node.path]
    if not isinstance(node.domain, ChoiceDomain):
        return value
    position = node.domain.index(value)
    if position is None:
        raise ConfigError(f"space.{node.path} has no such option", got=value, wanted=str(node.domain))
    return _fill(node.options[position], sample)
