"""Compare the settings that a folder was made with and those that are asked for now, key by key.

Decision record: a resume is judged by the resolved file that lies in the folder, not by a hash of it, so that every
changed key is named with both its values, and a folder of an earlier version, which lacks keys of today, is filled
up with their defaults. Keys are of three kinds. *Free* keys say where, with what and how often something is done, and
never change what is learnt. *Growing* keys make a run longer; a larger value trains on, a smaller one is refused.
All others are refused. Where files lie is free: what they hold is compared (`raykd.folders.contents`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raykd.redaction import redact_value

ABSENT = "not there"
"""What is said of a key that one of two settings lacks."""
_LONGEST = 100
_TEACHER = r"teachers\.[^.]+\."
_TRAIN = rf"({_TEACHER}training\.)?train\."
ALWAYS_FREE = (
    r"(ray|tracking|workers)(\.|$)|serving\.(?!dtype$)"
    rf"|{_TEACHER}(actor\.|on_poor$|training\.workers(\.|$))"
    rf"|{_TRAIN}(max_skipped_steps|max_failures)$"
    # What files hold is compared, not where they lie and how they are read.
    r"|(task\.tasks\.[^.]+\.)?data\.(((train|validation|test|unlabeled)\.)?columns"
    r"|(train|validation|test|unlabeled)\.(paths|delimiter|quoting)|on_bad_row|max_bad_rows)(\.|$)"
    rf"|{_TEACHER}(path|training\.model\.path)$|student\.path$"
)
"""Matches keys of a run that may change on a resume because nothing that is learnt depends on them."""
FREE = re.compile(rf"{ALWAYS_FREE}|baseline$|train\.evaluations$")
"""The same, and those that may change in a run, whose scores no other run is compared with on the way."""
GROWING = ("train.steps", "train.epochs", "train.patience")
"""Keys that make a run longer."""


@dataclass(frozen=True)
class Change:
    """One key whose value is not what it was. key: dotted, as in an override. before, now: as YAML writes them."""

    key: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.key} {self.before} -> {self.now}"


@dataclass(frozen=True)
class Changes:
    """Changed keys by what a resume does with them."""

    free: tuple[Change, ...] = ()
    growing: tuple[Change, ...] = ()
    refused: tuple[Change, ...] = ()

    @property
    def allowed(self) -> tuple[Change, ...]:
        """All that do not stop a resume."""
        return (*self.growing, *self.free)


def compare_trees(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    free: re.Pattern[str] = FREE,
    growing: Sequence[str] = GROWING,
) -> Changes:
    """Compare two resolved trees of settings.

    Args:
        before: What the folder was made with.
        now: What is asked for.
        free: Matches keys that may change.
        growing: Keys that may grow.
    """
    found = list(_find_differences("", _simplify(before), _simplify(now)))
    kinds: dict[str, list[Change]] = {"free": [], "growing": [], "refused": []}
    for change in found:
        kind = "free" if free.match(change.key) else "growing" if change.key in growing else "refused"
        kinds[kind].append(change)
    return Changes(**{kind: tuple(changes) for kind, changes in kinds.items()})


def list_changes(changes: Sequence[Change], which: str) -> str:
    """Return the keys with their values ``before`` or ``now``, for a message."""
    return ", ".join(f"{change.key} {getattr(change, which)}" for change in changes)


def _simplify(node: Any) -> Any:
    """Return a tree as people write it: a constant schedule is its number, a list of named things goes by names."""
    if isinstance(node, Mapping):
        if set(node) == {"kind", "value"} and node["kind"] == "constant":
            return node["value"]
        return {str(key): _simplify(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        items = [_simplify(item) for item in node]
        names = [item.get("name") if isinstance(item, Mapping) else None for item in items]
        if items and all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
            return dict(zip(names, items, strict=True))
        return items
    return node


_NOTHING = object()


def _find_differences(key: str, before: Any, now: Any) -> list[Change]:
    """Return the changed leaves below a key; where a part is of another kind, the part as a whole."""
    if before == now and type(before) is type(now):
        return []
    if isinstance(before, Mapping) and isinstance(now, Mapping) and before.get("kind") == now.get("kind"):
        found = []
        for name in [*before, *(name for name in now if name not in before)]:
            at = f"{key}.{name}" if key else name
            found += _find_differences(at, before.get(name, _NOTHING), now.get(name, _NOTHING))
        return found
    if _is_equal_number(before, now):
        return []
    return [Change(key, _format_value(key, before), _format_value(key, now))]


def _is_equal_number(before: Any, now: Any) -> bool:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (before, now))
    return numbers and before == now


def _format_value(key: str, value: Any) -> str:
    """Return a value as YAML writes it in one line, without secrets."""
    if value is _NOTHING:
        return ABSENT
    text = redact_value(key, _format_yaml(value))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _format_yaml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_format_yaml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_format_yaml(inner) for inner in value) + "]"
    return value if isinstance(value, str) and value else json.dumps(value)
