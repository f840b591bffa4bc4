"""Keep what a page shows as JSON beside it, so that the page can be written again without a new run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic_core import to_jsonable_python

from raykd.errors import DataError
from raykd.parse import JsonObject

RUN, TASKS, SWEEP, ARMS = "report.json", "tasks.json", "sweep.json", "arms.json"
"""The report as data: of a run of one task, of several, of a sweep and of a comparison."""
Report = TypeVar("Report")


def write_record(path: Path, report: object) -> None:
    """Write a report as data.

    Args:
        path: The file, in the folder of the run, sweep or comparison.
        report: A dataclass, or plain data. NaN becomes the text NaN, and an array of yes and no a text of 1 and 0.
    """
    tree = _spell_numbers(to_jsonable_python(report, inf_nan_mode="constants", fallback=_unpack_array))
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(tree, ensure_ascii=False, indent=1, allow_nan=False)
    path.write_text(text, encoding="utf-8")


def _spell_numbers(tree: object) -> object:
    """Return plain data with texts for NaN and infinity, which JSON does not know."""
    if isinstance(tree, dict):
        return {key: _spell_numbers(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_spell_numbers(value) for value in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree


def _unpack_array(value: object) -> object:
    if isinstance(value, np.ndarray) and value.dtype == np.bool_:
        return "".join("1" if one else "0" for one in value.tolist())
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"a report holds {type(value).__name__}")


def read_record(path: Path, build: Callable[[JsonObject], Report]) -> Report:
    """Read a report.

    Args:
        path: The file.
        build: Makes the report of its plain data.

    Raises:
        DataError: There is none, or it is something else.
    """
    try:
        return build(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(
            f"{path.parent} has no report",
            got=f"no {path.name} in it",
            wanted="the folder of a finished run, sweep or comparison",
            next_step="continue what was cut off with --resume, which writes it",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read",
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            wanted="the report as this version of raykd writes it",
            next_step="continue the run with --resume, which writes it again",
        ) from None
