"""Check names of folders, and lay one tree over another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


def check_name(value: str) -> str:
    """Return a name that is safe as a folder and as an identity.

    Raises:
        ValueError: It is not safe.
    """
    if not NAME.match(value):
        raise ValueError(
            "a name starts with a letter or digit and holds only letters, digits, '.', '_', '-' (100 at most)"
        )
    return value


def overlay(base: object, top: object) -> Any:
    """Lay ``top`` over ``base``. Mappings merge key by key; any other value replaces.

    A mapping whose ``kind`` differs from the base's replaces it, since another kind has other keys. A mapping over a
    list changes the items of these names (``teachers: {large: {path: ...}}``).
    """
    if isinstance(base, list) and isinstance(top, Mapping):
        names = [item.get("name") if isinstance(item, Mapping) else None for item in base]
        if top and set(top) <= set(names):
            return [
                overlay(item, top[name]) if name in top else item
                for item, name in zip(base, names, strict=True)
            ]
    if not (isinstance(base, Mapping) and isinstance(top, Mapping)):
        return top
    if "kind" in top and top["kind"] != base.get("kind", top["kind"]):
        return dict(top)
    merged = dict(base)
    for key, value in top.items():
        merged[key] = overlay(merged[key], value) if key in merged else value
    return merged
