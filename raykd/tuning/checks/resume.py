"""Decide whether a sweep may be resumed with its present settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from raykd.config import Run
from raykd.config.home import SPACE
from raykd.errors import ConfigError
from raykd.folders.changes import ALWAYS_FREE, Change, Changes, compare_trees
from raykd.folders.earlier_start import add_model_changes, changed_settings_error, unreadable_settings_error
from raykd.parse import JsonObject
from raykd.tuning.config import Sweep, load_sweep
from raykd.tuning.journal import JOURNAL, Journal

FREE = re.compile(
    rf"base\.({ALWAYS_FREE})|(num_samples|max_concurrent_trials|time_budget_s|max_failures|checkpoint_s)$"
)
"""Matches the keys of a sweep that may change on a resume."""


def compare_sweep(plan: Sweep, path: Path, state: Mapping[str, object]) -> tuple[Changes, Run | None]:
    """Return the changed settings of a sweep; see `raykd.folders.earlier_start.compare_run`.

    Raises:
        ConfigError: The folder's settings cannot be read any more, and their fingerprint is another one.
    """
    try:
        before = load_sweep(path / SPACE, check=False)
    except ConfigError as error:
        if state.get("fingerprint") == plan.fingerprint():
            return Changes(), None
        raise unreadable_settings_error(path / SPACE, error) from None
    changes = compare_trees(_tree(before), _tree(plan), FREE, growing=())
    begun = Journal(path / JOURNAL).next_index
    if plan.trials < begun:
        now = f"{plan.config.num_samples}, fewer than the {begun} trials that were begun"
        fewer = Change("num_samples", str(before.config.num_samples), now)
        changes = replace(changes, refused=(*changes.refused, fewer))
    return add_model_changes(changes, before.base, plan.base, state, "base."), None


def _tree(plan: Sweep) -> JsonObject:
    tree = plan.config.model_dump(mode="json", exclude={"name", "base", "base_dir", "set"})
    return {"base": plan.base.model_dump(mode="json", exclude={"name", "output", "teacher_defaults"}), **tree}


def explain_sweep(path: Path, changes: Changes) -> ConfigError:
    """Return the error for changed settings. Trials are compared, so all must be trained alike."""
    return changed_settings_error(
        path,
        changes,
        file=SPACE,
        next_step=f"make another sweep that begins with what this one found: name={path.name}-2 "
        f"search.warm_start={path}",
    )
