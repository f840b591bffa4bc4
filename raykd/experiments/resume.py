"""Whether a confirmation may go on with the settings that it is given now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.config import Run
from raykd.config.loading import load_any_run
from raykd.errors import ConfigError
from raykd.folders.changes import ALWAYS_FREE, Changes, compare_trees
from raykd.folders.earlier_start import changed_settings_error, unreadable_settings_error

if TYPE_CHECKING:
    from raykd.experiments.arms import Arms


def compare_arms(arms: Arms, path: Path, state: Mapping[str, Any]) -> tuple[Changes, Run | None]:
    """The changed settings of a confirmation: of the winner, which a sweep that went on may have changed, and default.

    Raises:
        ConfigError: As `compare_sweep`.
    """
    found = []
    for name, run in (("winner", arms.winner), ("default", arms.default)):
        file = path / f"{name}.yaml"
        try:
            found.append(_of_arm(name, load_any_run(file), run))
        except ConfigError as error:
            if state.get("fingerprint") == arms.fingerprint():
                return Changes(), None
            raise unreadable_settings_error(file, error) from None
    free, refused = ([c for changes in found for c in getattr(changes, kind)] for kind in ("free", "refused"))
    return Changes(free=tuple(free), refused=tuple(refused)), None


def _of_arm(name: str, before: Run, now: Run) -> Changes:
    was, is_now = (
        {name: run.model_dump(mode="json", exclude={"name", "output", "teacher_defaults"})}
        for run in (before, now)
    )
    return compare_trees(was, is_now, re.compile(rf"{name}\.({ALWAYS_FREE})"), growing=())


explain_arm_changes = partial(
    changed_settings_error, file="winner.yaml", next_step="finish it before the sweep goes on"
)
"""Says which settings of a confirmation stop its resume."""
