"""JSON files of models, read with a limit and with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path

from raykd.errors import ModelError

_LARGEST_JSON = 64 * 2**20
POINTER = "version https://git-lfs"
"""How a file begins that git-lfs puts in the place of a large one."""


def read_json(path: Path) -> dict[str, object]:
    """A JSON object.

    Raises:
        ModelError: the file is missing, very large, or holds anything else.
    """
    value = parse_file(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path} cannot be read", got=type(value).__name__, wanted="a JSON object")
    return value


def parse_file(path: Path) -> object:
    """Any JSON value.

    Raises:
        ModelError: the file is missing, very large, or holds no JSON.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ModelError(
                f"{path} is larger than a configuration can be", got=f"{path.stat().st_size} bytes"
            )
        text = path.read_text(encoding="utf-8")
        if text.startswith(POINTER):
            raise pointer_file_error(path)
        return json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read", got=str(error)[:300], wanted="a JSON object") from None


def pointer_file_error(path: Path) -> ModelError:
    """Return the error of a file that only points to the one that is meant."""
    return ModelError(
        f"{path} is a pointer of git-lfs, not the file itself",
        got="a text of a few lines",
        wanted="the file that it points to",
        next_step="git lfs pull, or download the directory again",
    )
