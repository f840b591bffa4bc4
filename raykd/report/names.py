"""Short names for the long paths of searched keys, the same in tables, pictures and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

_BARE = ("kind", "start", "end", "value", "name", "steps")
"""Last parts of a path that say nothing without their parent."""


def short_names(keys: Sequence[str]) -> dict[str, str]:
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
