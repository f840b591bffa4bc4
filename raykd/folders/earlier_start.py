"""Read what an earlier start left in a folder, and decide whether a resume may go on from it.

Decision record: settings are compared with the resolved file in the folder (`raykd.folders.changes`), models and rows
by their contents. A folder that was moved keeps its MLflow run. A copy whose original still exists gets a new MLflow
run, with a note, since two drivers must not write one run.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raykd.config import Run
from raykd.config.home import RUN, STATE, check_state, find_output, read_folder_state, relocate_paths
from raykd.config.loading import load_any_run
from raykd.config.run import TrackingConfig
from raykd.errors import ConfigError, ResourceError
from raykd.folders.changes import Change, Changes, compare_trees
from raykd.folders.contents import digest_models, list_model_paths
from raykd.parse import JsonObject
from raykd.pretrained.hub import is_commit
from raykd.tracking import resolve_tracking_uri

log = logging.getLogger("raykd.runs")
RECORDED = ("mlflow_run_id", "children", "ended", "teachers_scored_in")
"""Keys of a state that belong to one MLflow run."""
WAITING = ("mlflow_spool.jsonl", "mlflow_later.jsonl", "mlflow", "spool")
"""Files and folders with records that wait to be sent to the MLflow run."""


@dataclass(frozen=True)
class EarlierStart:
    """What an earlier start left; empty if there was none.

    Attributes:
        state: Content of its `run.json`.
        changes: Settings that have changed since.
        config: Its settings, if the folder is a run's.
    """

    state: JsonObject = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    config: Run | None = None


def read_state(path: Path) -> JsonObject:
    """Return the state of an earlier start.

    Raises:
        ConfigError: The folder was not made by raykd, so nothing in it may be removed or reused; or its state file
            is damaged.
    """
    state = read_folder_state(path)
    if state is not None:
        return state
    check_state(path)
    raise ConfigError(
        f"{path} exists and is not a run folder",
        got=f"no readable {STATE}",
        wanted="a folder that raykd made",
        next_step="choose another name or output",
    )


def compare_run(config: Run, path: Path, state: JsonObject) -> tuple[Changes, Run | None]:
    """Return the changed settings of a run, and its old settings.

    Old settings that cannot be read any more do no harm if the fingerprint shows that nothing has changed.

    Args:
        config: The settings that are asked for.
        path: The run's folder.
        state: Its state.

    Raises:
        ConfigError: The old settings cannot be read, and they have changed.
    """
    try:
        before = load_any_run(path / RUN)
    except ConfigError as error:
        if state.get("fingerprint") == config.fingerprint():
            return Changes(), None
        raise unreadable_settings_error(path / RUN, error) from None
    # A folder may be moved or renamed, and `teacher_defaults` are part of each teacher already.
    was, now = (
        run.model_dump(mode="json", exclude={"name", "output", "teacher_defaults"})
        for run in (before, config)
    )
    changes = compare_trees(was, now)
    return add_model_changes(changes, before, config, state), before


def unreadable_settings_error(file: Path, error: ConfigError) -> ConfigError:
    """Return the error of a resume whose old settings cannot be read.

    Args:
        file: The file with the old settings.
        error: Why it cannot be read.
    """
    return ConfigError(
        f"cannot resume {file.parent}: the settings that it was made with cannot be read",
        got=f"{file}: {error.what.splitlines()[-1].strip()}",
        wanted="a file that this version of raykd reads",
        next_step="put the file back; or start anew with another name (name=...) or --overwrite",
    )


def add_model_changes(
    changes: Changes, before: Run, now: Run, state: Mapping[str, Any], prefix: str = ""
) -> Changes:
    """Return the changes with those of the run's models, compared by the contents of their folders.

    Args:
        changes: Changes of the settings.
        before: The old settings.
        now: The settings that are asked for.
        state: The state of the folder, with digests of its models unless an earlier version wrote it.
        prefix: Put before the keys of models, for a sweep.
    """
    known, here = dict(state.get("models", {})), digest_models(now)
    old_paths, found = list_model_paths(before), []
    for key, path in list_model_paths(now).items():
        if key not in old_paths:
            continue
        if key in known and key in here:
            if known[key] != here[key]:
                change = Change(prefix + key, old_paths[key], f"{path} (its files are other ones)")
                if is_commit(here[key]):
                    change = Change(prefix + key, f"commit {known[key]}", f"commit {here[key]} of {path}")
                found.append(change)
        elif path != old_paths[key] and not _only_moved(old_paths[key], path):
            found.append(Change(prefix + key, old_paths[key], path))
    return replace(changes, refused=(*changes.refused, *found))


def _only_moved(before: str, now: str) -> bool:
    """Return whether a folder has been moved: gone from the old place, and one of the same name is at the new one."""
    gone = os.path.isabs(before) and not os.path.exists(before)
    return gone and os.path.isdir(now) and Path(before).name == Path(now).name


def changed_settings_error(
    path: Path, changes: Changes, *, file: str = RUN, next_step: str = ""
) -> ConfigError:
    """Return the error of a resume with settings that may not change.

    Args:
        path: The folder.
        changes: The changed settings.
        file: Name of the file in the folder that holds the old settings.
        next_step: What else the user can do; empty names what is right for a run.
    """
    other = f"{path.name}-2"
    begin = (
        f"begin with its student: name={other} student='{{kind: pretrained, path: {path / 'student'}}}'"
        if (path / "student").is_dir()
        else f"make another run: name={other}"
    )
    before = ", ".join(f"{c.key} {c.before}" for c in changes.refused)
    return ConfigError(
        f"cannot resume {path}: settings have changed since it began",
        got="; ".join(f"{c.key} {c.now} (was {c.before})" for c in changes.refused),
        wanted=f"{before}, as in {path / file}",
        next_step=f"resume with the old values; or {next_step or begin}; or start anew: --overwrite",
    )


def find_original(path: Path, state: JsonObject, tracking: TrackingConfig) -> Path | None:
    """Return the folder that this one is a copy of; None unless both are recorded as the same MLflow run."""
    before = state.get("folder")
    if before is None or str(before) == str(path) or "mlflow_run_id" not in state:
        return None
    other = Path(str(before))
    same = (read_folder_state(other) or {}).get("mlflow_run_id") == state["mlflow_run_id"]
    if not same or os.path.realpath(other) == os.path.realpath(path):
        return None
    return (
        other
        if resolve_tracking_uri(tracking, find_output(other))
        == resolve_tracking_uri(tracking, find_output(path))
        else None
    )


def detach_copy(path: Path, state: JsonObject) -> None:
    """Remove from a copy and its state what belongs to the MLflow run of the original."""
    for key in RECORDED:
        state.pop(key, None)
    for name in WAITING:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)


def rewrite_paths(path: Path, before: Path) -> None:
    """Rewrite the paths in the YAML files of a folder that was moved."""
    import yaml

    for file in sorted(path.glob("*.yaml")):
        try:
            tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            log.warning("the paths in %s stay as they are, since it cannot be read: %s", file, error)
            continue
        moved = relocate_paths(tree, before, path)
        if moved != tree:
            write_atomically(file, yaml.safe_dump(moved, sort_keys=False, allow_unicode=True))


def write_atomically(file: Path, text: str) -> None:
    """Write a file that is never seen half written, even after a killed process or a power cut.

    Raises:
        ResourceError: It cannot be written; what it held before stays.
    """
    fresh = file.with_name(f"{file.name}.tmp")
    try:
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut may leave an empty file under the new name
        os.replace(fresh, file)
    except OSError as error:
        raise ResourceError(
            f"{file} cannot be written",
            got=error.strerror or str(error),
            wanted="a disk with room, in a folder that you may write",
            next_step="make room, then the same command with --resume",
        ) from None
