"""Decide whether a confirmation may be resumed with its present settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.config import Run
from raykd.config.loading import load_any_run
from raykd.errors import ConfigError
from raykd.folders.changes import ALWAYS_FREE, Changes, compare_trees
from raykd.folders.earlier_start import changed_settings_error, unreadable_settings_error

if TYPE_CHECKING:
    from raykd.experiments.arms import Arms


def compare_arms(arms: Arms, path: Path, state: Mapping[str, object]) -> tuple[Changes, Run | None]:
    """Return the changed settings of winner and default. A sweep that was continued may have another winner.

    Raises:
        ConfigError: See `compare_sweep`.
    """
    found = []
    for name, run in (("winner", arms.winner), ("default", arms.default)):
        file = path / f"{name}.yaml"
        try:
            found.append(_compare_arm(name, load_any_run(file), run))
        except ConfigError as error:
            if state.get("fingerprint") == arms.fingerprint():
                return Changes(), None
            raise unreadable_settings_error(file, error) from None
    free, refused = ([c for changes in found for c in getattr(changes, kind)] for kind in ("free", "refused"))
    return Changes(free=tuple(free), refused=tuple(refused)), None


def _compare_arm(name: str, before: Run, now: Run) -> Changes:
    was, is_now = (
        {name: run.model_dump(mode="json", exclude={"name", "output", "teacher_defaults"})}
        for run in (before, now)
    )
    return compare_trees(was, is_now, re.compile(rf"{name}\.({ALWAYS_FREE})"), growing=())


explain_arm_changes = partial(
    changed_settings_error, file="winner.yaml", next_step="finish it before the sweep goes on"
)
"""Make the error for changed settings of a confirmation."""
