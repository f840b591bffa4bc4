"""Whether a sweep or a confirmation may go on with the settings that it is given now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.config import Run, RunConfig
from raykd.errors import ConfigError
from raykd.home import SPACE
from raykd.load import load_run
from raykd.runs.changes import ALWAYS_FREE, Change, Changes, compare
from raykd.runs.earlier import refuse, unreadable, with_models
from raykd.sweep.config import Sweep, load_sweep
from raykd.sweep.journal import FILE, Journal

if TYPE_CHECKING:
    from raykd.sweep.confirm import Arms

FREE = re.compile(
    rf"base\.({ALWAYS_FREE})|(num_samples|max_concurrent_trials|time_budget_s|max_failures|checkpoint_s)$"
)
"""Matches keys of a sweep that may change on a resume."""


def compare_sweep(plan: Sweep, path: Path, state: Mapping[str, Any]) -> tuple[Changes, Run | None]:
    """The changed settings of a sweep; see `raykd.runs.earlier.compare_run`.

    Raises:
        ConfigError: what it was made with cannot be read any more, and is not what is asked for.
    """
    try:
        before = load_sweep(path / SPACE, check=False)
    except ConfigError as error:
        if state.get("fingerprint") == plan.fingerprint():
            return Changes(), None
        raise unreadable(path / SPACE, error) from None
    changes = compare(_tree(before), _tree(plan), FREE, growing=())
    begun = Journal(path / FILE).next_index
    if plan.trials < begun:
        now = f"{plan.config.num_samples}, fewer than the {begun} trials that were begun"
        fewer = Change("num_samples", str(before.config.num_samples), now)
        changes = replace(changes, refused=(*changes.refused, fewer))
    return with_models(changes, before.base, plan.base, state, "base."), None


def _tree(plan: Sweep) -> dict[str, Any]:
    tree = plan.config.model_dump(mode="json", exclude={"name", "base", "base_dir", "set"})
    return {"base": plan.base.model_dump(mode="json", exclude={"name", "output", "teacher_defaults"}), **tree}


def explain_sweep(path: Path, changes: Changes) -> ConfigError:
    """What to say of settings that stop a sweep's resume: its trials are compared, so all are trained alike."""
    return refuse(
        path,
        changes,
        file=SPACE,
        next_step=f"make another sweep that begins with what this one found: name={path.name}-2 "
        f"search.warm_start={path}",
    )


def compare_arms(arms: Arms, path: Path, state: Mapping[str, Any]) -> tuple[Changes, Run | None]:
    """The changed settings of a confirmation: of the winner, which a sweep that went on may have changed, and default.

    Raises:
        ConfigError: as `compare_sweep`.
    """
    found = []
    for name, run in (("winner", arms.winner), ("default", arms.default)):
        file = path / f"{name}.yaml"
        try:
            found.append(_of_arm(name, load_run(file), run))
        except ConfigError as error:
            if state.get("fingerprint") == arms.fingerprint():
                return Changes(), None
            raise unreadable(file, error) from None
    free, refused = ([c for changes in found for c in getattr(changes, kind)] for kind in ("free", "refused"))
    return Changes(free=tuple(free), refused=tuple(refused)), None


def _of_arm(name: str, before: RunConfig, now: RunConfig) -> Changes:
    was, is_now = (
        {name: run.model_dump(mode="json", exclude={"name", "output", "teacher_defaults"})}
        for run in (before, now)
    )
    return compare(was, is_now, re.compile(rf"{name}\.({ALWAYS_FREE})"), growing=())


explain_arms = partial(refuse, file="winner.yaml", next_step="finish it before the sweep goes on")
"""Says which settings of a confirmation stop its resume."""
