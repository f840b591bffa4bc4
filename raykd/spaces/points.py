"""Read known settings back into a space: points of the user, the base, trials of an earlier sweep.

Decision record: a sample is what a searcher knows, a tree is what people and run files have. `read_point` is the way
back from a tree to a sample. A point that a user writes names some keys, and the rest is drawn; a whole run
(`read_run_sample`) has all keys in the form in which runs are written out, and must come back from its sample
unchanged.
What lies outside the space is refused by its key, never moved to the nearest value.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from raykd.config import Run
from raykd.config.loading import flatten_run
from raykd.errors import ConfigError
from raykd.spaces.domains import ChoiceDomain, IntegerDomain, Scalar
from raykd.spaces.space import Sample, Slot, Space, is_same_value

MAX_KEYS_SHOWN = 3
"""Most keys that a message names."""


def read_point(space: Space, point: Mapping[str, object], where: str) -> Sample:
    """Read a point that a user wrote, as a sample that may lack domains.

    Args:
        space: The searched space.
        point: A tree of a run's keys (``{train: {learning_rate: 0.05}}``), the same with dots
            (``{train.learning_rate: 0.05}``), or the values of a trial as ``trials.csv`` names them.
        where: What errors call the point.

    Raises:
        ConfigError: A key is not searched, or a value is outside its domain.
    """
    paths = {one.path: one for one in space.domains}
    sample: Sample = {}
    tree: dict[str, object] = {}
    for key, value in sorted(point.items(), key=lambda item: item[0].count(".")):
        if "[" in key and key in paths:
            sample |= {
                **dict(paths[key].condition),
                **_read(_find_slot(space.tree, key), value, key, where, True),
            }
        elif "[" in key:
            raise _unknown_error(key, where, list(paths))
        else:
            _set_key(tree, key, value, where)
    found = _read(space.tree, tree, "", where, True)
    for path, value in {**found, **sample}.items():
        if path in found and not is_same_value(found[path], value):
            raise _twice_error(path, found[path], value, where)
    return {
        one.path: {**found, **sample}[one.path] for one in space.domains if one.path in {**found, **sample}
    }


def read_run_sample(space: Space, run: Run, where: str) -> Sample:
    """Read the sample of a run. Keys outside the space may have any value.

    Raises:
        ConfigError: A searched key has a value outside the space.
    """
    return _read(space.tree, run.model_dump(mode="json"), "", where, False)


def list_differing_keys(one: Run, other: Run, ignored: Sequence[str] = ()) -> list[str]:
    """Return the keys in which two runs differ, with both values.

    Args:
        one: A run.
        other: Another run.
        ignored: Beginnings of keys that are not compared.
    """
    a, b = flatten_run(one), flatten_run(other)
    keys = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    return [f"{key} {a.get(key)} and {b.get(key)}" for key in keys if not key.startswith(tuple(ignored))]


def _set_key(tree: dict[str, object], key: str, value: object, where: str) -> None:
    """Set a dotted key in a tree that has all shorter keys already.

    Raises:
        ConfigError: A shorter key was given as a whole value, or the key has another value.
    """
    *above, last = key.split(".")
    for at, name in enumerate(above, 1):
        below = tree.setdefault(name, {})
        if not isinstance(below, dict):
            outer = ".".join(above[:at])
            raise ConfigError(
                f"{where}: {outer} is given as a whole, so {key} has no place in it",
                got=f"{outer} {_short(below)}",
                wanted="one of the two",
                next_step=f"write all of it as {outer}: {{...}}, or a key of an option as {outer}[OPTION].KEY",
            )
        tree = below
    if last in tree and tree[last] != value:
        raise _twice_error(key, tree[last], value, where)
    tree[last] = copy.deepcopy(value)  # a mapping may get more keys, and the user's must not


def _twice_error(key: str, one: object, other: object, where: str) -> ConfigError:
    return ConfigError(
        f"{where}: {key} is given twice", got=f"{_short(one)}, {_short(other)}", wanted="one value"
    )


def _find_slot(node: object, path: str) -> object:
    """Find the slot of a path; None if there is none."""
    if isinstance(node, Slot):
        if node.path == path:
            return node
        return next((found for option in node.options if (found := _find_slot(option, path))), None)
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
    return next((found for child in children if (found := _find_slot(child, path))), None)


def _read(node: object, value: object, key: str, where: str, is_point: bool) -> Sample:
    """Read the sample of a value.

    Args:
        node: The node of the compiled space that the value belongs to.
        value: The value, a part of a point or of a run.
        key: Its key path, for errors.
        where: What errors call the point.
        is_point: True for a point, which may lack keys of the space; False for a run, which may have more.
    """
    if isinstance(node, Slot):
        read = _read_choice if isinstance(node.domain, ChoiceDomain) else _read_number
        return read(node, value, key, where, is_point)
    if isinstance(node, Mapping):
        return _read_mapping(node, value, key, where, is_point)
    if (
        isinstance(node, list) and isinstance(value, Mapping) and is_point
    ):  # objective.terms.0.lambda_schedule
        value = [value.get(str(at), {}) for at in range(len(node))]
    if isinstance(node, list):
        if not isinstance(value, list | tuple) or len(value) != len(node):
            raise _outside_error(key, where, value, f"a list of {len(node)}")
        return {
            path: found
            for at, (item, part) in enumerate(zip(node, value, strict=True))
            for path, found in _read(item, part, f"{key}.{at}", where, is_point).items()
        }
    if not _equal(node, value):
        raise _outside_error(key, where, value, f"{node}, which the space sets")
    return {}


def _read_mapping(node: Mapping[str, object], value: object, key: str, where: str, is_point: bool) -> Sample:
    if not isinstance(value, Mapping):
        raise _outside_error(key, where, value, f"keys of {', '.join(node)}")
    dot = f"{key}." if key else ""
    if is_point:
        for name in value:
            if name not in node:
                raise _unknown_error(f"{dot}{name}", where, [f"{dot}{one}" for one in node])
    found: Sample = {}
    for name, below in node.items():
        if name in value:
            found |= _read(below, value[name], f"{dot}{name}", where, is_point)
        elif not is_point:
            raise _outside_error(f"{dot}{name}", where, "no such key", str(below))
    return found


def _read_number(node: Slot, value: object, key: str, where: str, is_point: bool) -> Sample:
    domain, number = node.domain, _plain(value)
    assert not isinstance(domain, ChoiceDomain)
    whole = isinstance(domain, IntegerDomain)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not domain.low <= number <= domain.high or (whole and number != int(number)):
        raise _outside_error(key, where, value, str(domain))
    return {node.path: int(number) if whole else float(number)}


def _read_choice(node: Slot, value: object, key: str, where: str, is_point: bool) -> Sample:
    domain = node.domain
    assert isinstance(domain, ChoiceDomain)
    fitting: list[tuple[int, Scalar, Sample]] = []
    for label, option in zip(domain.labels, node.options, strict=True):
        try:
            below = _read(option, value, key, where, is_point)
        except ConfigError:
            # A table names an option by its label.
            if not (is_point and isinstance(value, str) and value == label):
                continue
            below = {}
        fitting.append((_likeness(option, value), label, {node.path: label, **below}))
    best = max((likeness for likeness, _, _ in fitting), default=0)
    chosen = [(label, sample) for likeness, label, sample in fitting if likeness == best]
    if not chosen:
        raise _outside_error(key, where, value, f"one of {domain}")
    if len(chosen) > 1:
        raise ConfigError(
            f"{where}: {key} fits several options of the space",
            got=_short(value),
            wanted=f"one of {', '.join(str(label) for label, _ in chosen)}",
            next_step="name the keys in which they differ, or the option's label",
        )
    return chosen[0][1]


def _likeness(option: object, value: object) -> int:
    """Return how many parts of an option a value names."""
    if isinstance(option, Mapping) and isinstance(value, Mapping):
        return sum(1 + _likeness(below, value[name]) for name, below in option.items() if name in value)
    return 0 if isinstance(option, Slot) else 1  # 0.1 is the option 0.1 rather than a number in an interval


def _plain(value: object) -> Any:
    """Return the number of a constant schedule, and any other value unchanged."""
    if isinstance(value, Mapping) and value.get("kind") == "constant" and "value" in value:
        return value["value"]
    return value


def _equal(a: object, b: object) -> bool:
    a, b = _plain(a), _plain(b)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b)


def _outside_error(key: str, where: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(
        f"{where}: {key or 'the point'} is outside the space", got=_short(value), wanted=wanted
    )


def _unknown_error(key: str, where: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"{where}: {key} is not searched", got=key, wanted=f"keys of the space: {', '.join(known)}"
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
