"""Read JSON files of models, with a size limit and errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path

from raykd.errors import ModelError

_LARGEST_JSON = 64 * 2**20
POINTER = "version https://git-lfs"
"""How the files begin that git-lfs puts in place of large ones."""


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        ModelError: The file is missing or very large, or holds something else.
    """
    value = parse_file(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path} cannot be read", got=type(value).__name__, wanted="a JSON object")
    return value


def parse_file(path: Path) -> object:
    """Read any JSON value.

    Raises:
        ModelError: The file is missing or very large, or holds no JSON.
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
    """Return the error for a file that is only git-lfs's pointer to the real one."""
    return ModelError(
        f"{path} is a pointer of git-lfs, not the file itself",
        got="a text of a few lines",
        wanted="the file that it points to",
        next_step="git lfs pull, or download the directory again",
    )
