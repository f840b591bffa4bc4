"""Base configurations that ship with the package; the default needs no network."""

from __future__ import annotations

from pathlib import Path


def preset(name: str) -> Path:
    """The path of a shipped run file."""
    return Path(__file__).parent / f"{name}.yaml"
