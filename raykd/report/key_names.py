"""Shorten the long paths of searched keys, the same way in tables, pictures and on the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_BARE = ("kind", "start", "end", "value", "name", "steps")
"""Last parts of a path that say nothing without their parent."""


def shorten_names(keys: Sequence[str]) -> dict[str, str]:
    """Return each key path's shortest end that no other key's path ends with and that says something."""
    paths = {key: key.split(".") for key in keys}
    names = {}
    for key, path in paths.items():
        for length in range(1, len(path) + 1):
            end = path[-length:]
            alone = sum(other[-length:] == end for other in paths.values()) == 1
            if alone and not end[0].isdigit() and end[0] not in _BARE:
                break
        names[key] = ".".join(end)
    return names


def is_number_of_choice(key: str, keys: Sequence[str]) -> bool:
    """Return whether a key is the number that one option of a choice stands for: ``alpha[uniform]`` of ``alpha``."""
    return key.endswith("]") and key[: key.rindex("[")] in keys


def fold_sample(sample: Mapping[str, object]) -> dict[str, object]:
    """Return a sample as people read it: an option of a choice that is a searched number is shown as that number.

    ``alpha: uniform`` with ``alpha[uniform]: 0.42`` becomes ``alpha: 0.42``. Other options keep their names.
    """
    numbers = {f"{key}[{value}]" for key, value in sample.items()}
    return {key: sample.get(f"{key}[{value}]", value) for key, value in sample.items() if key not in numbers}


def name_mlflow_params(sample: Mapping[str, object]) -> dict[str, object]:
    """Return a sample under names that MLflow takes as parameters, without brackets.

    ``objective.temperature[linear].start`` becomes ``objective.temperature.linear.start``. Two keys of one sample never
    become one, since a choice has one option there. Keys of two trials may: ``a[x.y].z`` and ``a[x].y.z``.
    """
    return {re.sub(r"\[([^\]]*)\]", r".\1", key): value for key, value in fold_sample(sample).items()}
