"""Decide whether an experiment may be resumed with its present settings: seeds and arms may be added."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from raykd.config import Run
from raykd.config.home import ARMS
from raykd.config.loading import read_yaml_mapping, resolve_paths, validate_any_run
from raykd.errors import ConfigError
from raykd.folders.changes import ALWAYS_FREE, Change, Changes, compare_trees
from raykd.folders.earlier_start import changed_settings_error, unreadable_settings_error
from raykd.parse import JsonObject

if TYPE_CHECKING:
    from raykd.experiments.arms import ExperimentPlan

SHARED = ("equal", "resample_labelled", "tuning_seed")
"""Keys of an experiment that hold for all arms."""


def dump_arms(experiment: ExperimentPlan) -> str:
    """Return the runs of all arms as YAML, for `compare_arms`."""
    tree: JsonObject = {key: getattr(experiment, key) for key in SHARED}
    tree["arms"] = {name: run.model_dump(mode="json") for name, run in list_runs(experiment).items()}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def list_runs(experiment: ExperimentPlan) -> dict[str, Run]:
    """Return the runs of all arms by name, and those of their trials (`base.trial0`)."""
    found: dict[str, Run] = {}
    for arm in experiment.arms:
        found[arm.name] = arm.run
        found |= {f"{arm.name}.trial{number}": run for number, run in enumerate(arm.trials)}
    return found


def compare_arms(
    experiment: ExperimentPlan, path: Path, state: Mapping[str, object]
) -> tuple[Changes, Run | None]:
    """Return the changed settings of an experiment's arms. A sweep that was continued may have another winner.

    Args:
        experiment: The experiment that is asked for.
        path: The folder of the earlier start.
        state: Its state.

    Raises:
        ConfigError: The folder's settings cannot be read any more, and their fingerprint is another one.
    """
    file = path / ARMS
    try:
        tree = read_yaml_mapping(file)
        before = {
            name: resolve_paths(validate_any_run(run, str(file)), path) for name, run in tree["arms"].items()
        }
        shared = {key: tree[key] for key in SHARED}
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        if state.get("fingerprint") == experiment.fingerprint():
            return Changes(), None
        known = error if isinstance(error, ConfigError) else ConfigError(f"it holds no arms ({error})")
        raise unreadable_settings_error(file, known) from None
    now = list_runs(experiment)
    free: list[Change] = []
    refused = [
        Change(key, str(value), str(getattr(experiment, key)))
        for key, value in shared.items()
        if value != getattr(experiment, key)
    ]
    refused += [Change(name, "an arm", "not there") for name in before if name not in now]
    for name, run in before.items():
        if name in now:
            changes = _compare_arm(name, run, now[name])
            free += changes.free
            refused += changes.refused
    return Changes(free=tuple(free), refused=tuple(refused)), None


def _compare_arm(name: str, before: Run, now: Run) -> Changes:
    # Other arms may bring further teachers: an arm is the same while those that it selects are.
    was, is_now = (
        {
            name: {
                **run.model_dump(
                    mode="json", exclude={"name", "output", "teacher_defaults", "teachers", "select_teachers"}
                ),
                "teachers": [teacher.model_dump(mode="json") for teacher in run.active_teachers],
            }
        }
        for run in (before, now)
    )
    return compare_trees(was, is_now, re.compile(rf"{re.escape(name)}\.({ALWAYS_FREE})"), growing=())


def explain_arm_changes(path: Path, changes: Changes) -> ConfigError:
    """Return the error for changed settings: finished trainings would be compared with others."""
    return changed_settings_error(
        path,
        changes,
        file=ARMS,
        next_step=f"make another experiment: name={path.name}-2",
    )
