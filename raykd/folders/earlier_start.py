"""What an earlier start left in a folder, and whether a resume may go on from it.

Decision record: settings are compared with the resolved file in the folder (`raykd.folders.changes`), models and rows
by what they hold. A folder that was moved keeps its MLflow run. A copy beside its original has the original's run
recorded, and two drivers must not write one run: it gets a run of its own, and that is said.
"""

from __future__ import annotations

import contextlib
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
from raykd.folders.changes import Change, Changes, compare_trees, list_changes
from raykd.folders.contents import digest_models, list_model_paths
from raykd.tracking import resolve_tracking_uri

log = logging.getLogger("raykd.runs")
RECORDED = ("mlflow_run_id", "children", "ended", "teachers_scored_in")
"""What a state says of MLflow."""
WAITING = ("mlflow_spool.jsonl", "mlflow_later.jsonl", "mlflow", "spool")
"""What waits in a folder to be sent to its MLflow run."""


@dataclass(frozen=True)
class EarlierStart:
    """What is there of an earlier start. state: its `run.json`, empty without one. changes: of its settings.

    Attributes:
        config: Its settings, where the folder is a run's.
    """

    state: dict[str, Any] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    config: Run | None = None


def read_state(path: Path) -> dict[str, Any]:
    """Return the state of an earlier start.

    Raises:
        ConfigError: The folder is not one of ours, so nothing in it may be removed or reused; or its state is
            cut off.
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


def compare_run(config: Run, path: Path, state: Mapping[str, Any]) -> tuple[Changes, Run | None]:
    """Return the changed settings of a run, and the settings that it had.

    Raises:
        ConfigError: What it was made with cannot be read any more, and is not what is asked for.
    """
    try:
        before = load_any_run(path / RUN)
    except ConfigError as error:
        if state.get("fingerprint") == config.fingerprint():
            return Changes(), None
        raise unreadable_settings_error(path / RUN, error) from None
    was, now = (
        run.model_dump(mode="json", exclude={"name", "output", "teacher_defaults"})
        for run in (before, config)
    )
    changes = compare_trees(was, now)
    return add_model_changes(changes, before, config, state), before


def unreadable_settings_error(file: Path, error: ConfigError) -> ConfigError:
    """Return what to say where the settings of an earlier start cannot be compared."""
    return ConfigError(
        f"cannot resume {file.parent}: the settings that it was made with cannot be read",
        got=f"{file}: {error.what.splitlines()[-1].strip()}",
        wanted="a file that this version of raykd reads",
        next_step="put the file back; or start anew with another name (name=...) or --overwrite",
    )


def add_model_changes(
    changes: Changes, before: Run, now: Run, state: Mapping[str, Any], prefix: str = ""
) -> Changes:
    """Return the changes, those of model folders judged by what lies in them.

    Args:
        state: Holds digests of the models that the folder began with, unless it is of an earlier version.
    """
    known, here = dict(state.get("models", {})), digest_models(now)
    were, found = list_model_paths(before), []
    for key, path in list_model_paths(now).items():
        if key not in were:
            continue
        if key in known and key in here:
            if known[key] != here[key]:
                found.append(Change(prefix + key, were[key], f"{path} (its files are other ones)"))
        elif path != were[key] and not _only_moved(were[key], path):
            found.append(Change(prefix + key, were[key], path))
    return replace(changes, refused=(*changes.refused, *found))


def _only_moved(before: str, now: str) -> bool:
    """Return whether a folder of this name has gone there, and lies here."""
    gone = os.path.isabs(before) and not os.path.exists(before)
    return gone and os.path.isdir(now) and Path(before).name == Path(now).name


def changed_settings_error(
    path: Path, changes: Changes, *, file: str = RUN, next_step: str = ""
) -> ConfigError:
    """Return what to say of settings that do not go together with a resume.

    Args:
        file: In the folder, with the old ones.
        next_step: What can be done beside that, where it is no run.
    """
    other = f"{path.name}-2"
    begin = (
        f"begin with its student: name={other} student='{{kind: pretrained, path: {path / 'student'}}}'"
        if (path / "student").is_dir()
        else f"make another run: name={other}"
    )
    return ConfigError(
        f"cannot resume {path}: settings have changed since it began",
        got="; ".join(f"{c.key} {c.now} (was {c.before})" for c in changes.refused),
        wanted=f"{list_changes(changes.refused, 'before')}, as in {path / file}",
        next_step=f"resume with the old values; or {next_step or begin}; or start anew: --overwrite",
    )


def find_original(path: Path, state: Mapping[str, Any], tracking: TrackingConfig) -> Path | None:
    """The folder that this one is a copy of, where both are recorded as one MLflow run in one place; else None."""
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


def detach_copy(path: Path, state: dict[str, Any]) -> None:
    """Take what belongs to the original's MLflow run out of a copy and its state."""
    for key in RECORDED:
        state.pop(key, None)
    for name in WAITING:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()


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
    """Write a file so that it is never seen half written, whatever ends the process or the power.

    Raises:
        ResourceError: It cannot be written; what it held before stays.
    """
    fresh = file.with_name(f"{file.name}.tmp")
    try:
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut may leave the new name with nothing in it
        os.replace(fresh, file)
    except OSError as error:
        raise ResourceError(
            f"{file} cannot be written",
            got=error.strerror or str(error),
            wanted="a disk with room, in a folder that you may write",
            next_step="make room, then the same command with --resume",
        ) from None
