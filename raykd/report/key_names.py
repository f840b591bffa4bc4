"""Short names for the long paths of searched keys, the same in tables, pictures and on the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE = ("kind", "start", "end", "value", "name", "steps")
"""Last parts of a path that say nothing without their parent."""


def shorten_names(keys: Sequence[str]) -> dict[str, str]:
    """Key path to its shortest end that is not the end of another key's path, and says something."""
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
    """Whether a key is the number of a choice that is a plain number in one of its options: ``alpha[uniform]``."""
    return key.endswith("]") and key[: key.rindex("[")] in keys


def fold_sample(sample: Mapping[str, object]) -> dict[str, object]:
    """A sample as people read it: where an option of a choice is a number that is searched, the choice is that number.

    ``alpha: uniform`` with ``alpha[uniform]: 0.42`` is ``alpha: 0.42``; other options keep their names.
    """
    return {
        key: sample.get(f"{key}[{value}]", value)
        for key, value in sample.items()
        if not (
            is_number_of_choice(key, list(sample))
            and f"[{sample[key[: key.rindex('[')]]}]" == key[key.rindex("[") :]
        )
    }


def name_mlflow_params(sample: Mapping[str, object]) -> dict[str, Any]:
    """A sample as MLflow's parameters have it, which take no brackets.

    ``objective.temperature[linear].start`` is ``objective.temperature.linear.start``. Two keys of one sample never
    become one, since a choice has one option there; between trials ``a[x.y].z`` and ``a[x].y.z`` may.
    """
    return {re.sub(r"\[([^\]]*)\]", r".\1", key): value for key, value in fold_sample(sample).items()}
