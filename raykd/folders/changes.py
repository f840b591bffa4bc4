"""Compare the settings that a folder was made with to those that are asked for now, key by key.

Decision record: a resume compares the resolved settings in the folder, not a hash of them. So an error names every
changed key with both values, and a folder of an earlier version gets defaults for keys that it lacks. There are three
kinds of keys:

- Free keys say where, with what and how often something is done. They never change what is learnt.
- Growing keys make a run longer. A larger value trains on; a smaller one is refused.
- All others are refused.

Paths are free, because the contents of the files are compared (`raykd.folders.contents`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raykd.parse import JsonObject
from raykd.redaction import redact_value

ABSENT = "not there"
"""Shown for a key that one of the two settings lacks."""
_LONGEST = 100
"""Characters of a value that a message shows."""
_TEACHER = r"(pretraining\.)?teachers\.[^.]+\."
_TRAIN = rf"({_TEACHER}training\.)?train\."
ALWAYS_FREE = (
    r"(ray|tracking|report|workers)(\.|$)|serving\.(?!dtype$)"
    rf"|{_TEACHER}(actor\.|on_poor$|price(\.|$)|training\.workers(\.|$))"
    rf"|{_TRAIN}(max_skipped_steps|max_failures)$"
    # What files hold is compared, not where they lie and how they are read.
    r"|(task\.tasks\.[^.]+\.)?data\.(((train|validation|test|unlabeled)\.)?columns"
    r"|(train|validation|test|unlabeled)\.(paths|delimiter|quoting)|on_bad_row|max_bad_rows)(\.|$)"
    rf"|({_TEACHER}training\.)?pretraining\.(texts|validation)\.(columns|paths|delimiter|quoting)(\.|$)"
    rf"|({_TEACHER}(training\.model\.)?|(peer\.)?student\.)(path|revision)$"
)
"""Matches keys that may change on a resume because nothing that is learnt depends on them."""
FREE = re.compile(rf"{ALWAYS_FREE}|baseline$|train\.evaluations$")
"""Matches the same keys and two more of a single run, whose scores on the way are compared with no other run's."""
GROWING = ("train.steps", "train.epochs", "train.patience")
"""Keys that make a run longer."""


@dataclass(frozen=True)
class Change:
    """A key whose value has changed.

    Attributes:
        key: Dotted, as in an override.
        before: The old value, as YAML writes it.
        now: The new value, as YAML writes it.
    """

    key: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.key} {self.before} -> {self.now}"


@dataclass(frozen=True)
class Changes:
    """Changed keys, by what a resume does with them."""

    free: tuple[Change, ...] = ()
    growing: tuple[Change, ...] = ()
    refused: tuple[Change, ...] = ()

    @property
    def allowed(self) -> tuple[Change, ...]:
        """The changes that do not stop a resume."""
        return (*self.growing, *self.free)


def compare_trees(
    before: JsonObject,
    now: JsonObject,
    free: re.Pattern[str] = FREE,
    growing: Sequence[str] = GROWING,
) -> Changes:
    """Compare two resolved trees of settings.

    Args:
        before: The settings that the folder was made with.
        now: The settings that are asked for.
        free: Matches keys that may change.
        growing: Keys that may grow.
    """
    kinds: dict[str, list[Change]] = {"free": [], "growing": [], "refused": []}
    for change in _find_differences("", _simplify(before), _simplify(now)):
        kind = "free" if free.match(change.key) else "growing" if change.key in growing else "refused"
        kinds[kind].append(change)
    return Changes(**{kind: tuple(changes) for kind, changes in kinds.items()})


def _simplify(node: object) -> object:
    """Return a tree as people write it: a constant schedule is a number, a list of named items a mapping by name."""
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


def _find_differences(key: str, before: object, now: object) -> list[Change]:
    """Return the changed leaves below a key. A part whose `kind` has changed counts as one leaf."""
    if before == now and type(before) is type(now):
        return []
    if isinstance(before, Mapping) and isinstance(now, Mapping) and before.get("kind") == now.get("kind"):
        found = []
        for name in dict.fromkeys([*before, *now]):
            at = f"{key}.{name}" if key else name
            found += _find_differences(at, before.get(name, _NOTHING), now.get(name, _NOTHING))
        return found
    if _is_equal_number(before, now):
        return []
    return [Change(key, _format_value(key, before), _format_value(key, now))]


def _is_equal_number(before: object, now: object) -> bool:
    """Return whether both are numbers of equal value, such as 1 and 1.0; True and 1 are not."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (before, now))
    return numbers and before == now


def _format_value(key: str, value: object) -> str:
    """Return a value in one line of YAML, without secrets."""
    if value is _NOTHING:
        return ABSENT
    text = redact_value(key, _format_yaml(value))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _format_yaml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_format_yaml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_format_yaml(inner) for inner in value) + "]"
    return value if isinstance(value, str) and value else json.dumps(value)
