"""Find and read the folder that a run, a sweep or an experiment has made.

Decision record: a folder that is named is the folder that is used. A YAML in such a folder belongs to it, whatever the
working directory and the folder's present name. Paths in the YAML are absolute, so that a copy of the file works
elsewhere. `run.json` holds where the folder was when they were written. If the folder has moved since, files that lay
beside it are looked for beside its new place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raykd.config.overlay import check_name
from raykd.errors import ConfigError
from raykd.parse import JsonObject, check_path

STATE = "run.json"
SPACE = "space.yaml"
RUN = "run.yaml"
EXPERIMENT = "experiment.yaml"
ARMS = "arms.yaml"
"""File in the folder of an experiment with the runs of all arms."""


def is_raykd_folder(folder: Path) -> bool:
    """Return whether raykd made this folder for a run, a sweep or an experiment."""
    return read_folder_state(folder) is not None


def read_folder_state(folder: Path) -> dict[str, object] | None:
    """Return the content of a folder's `run.json`; None if there is none that raykd wrote and that can be read."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) and "status" in state else None


def check_state(folder: Path) -> None:
    """Refuse a folder of raykd whose `run.json` is damaged, so that nothing starts anew in it.

    Raises:
        ConfigError: The file cannot be read.
    """
    file = folder / STATE
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        if any((folder / name).is_file() for name in ("log.txt", "curves.jsonl", "trials.jsonl")):
            raise ConfigError(
                f"{file} cannot be read, so it is not known how far the run came",
                got=f"{file.stat().st_size} bytes that are no state of a run",
                wanted="the file as raykd wrote it",
                next_step=f"put it back from a copy; or remove {folder} and start anew; or choose another name "
                "(name=...)",
            ) from None
    except OSError:
        return


def find_output(folder: Path) -> Path:
    """Return the folder of all runs that a run's folder lies in. A confirmation lies inside its sweep's folder."""
    above = folder.parent
    return above.parent if (above / SPACE).is_file() and is_raykd_folder(above) else above


def find_folder(path: Path, output: Path = Path("runs")) -> Path:
    """Return the folder with this path, or with this name below `output`; the path if there is neither."""
    check_path(str(path), "the name of the folder")
    path, output = (Path(os.path.expanduser(one)) for one in (path, output))
    for folder in (path, output / path):
        check_state(folder)
    return next((folder for folder in (path, output / path) if is_raykd_folder(folder)), path)


def find_student(path: Path) -> Path:
    """Return the student's folder if the path is a run's folder; otherwise the path, which is a model's folder."""
    folder = find_folder(path)
    return folder / "student" if is_raykd_folder(folder) and not (path / "config.json").is_file() else path


def find_config_file(path: Path) -> Path:
    """Return the YAML of the folder of a sweep, an experiment or a run; any other path unchanged."""
    check_path(str(path), "the path of the run file")
    if not path.is_dir():
        return path
    check_state(path)
    if not is_raykd_folder(path):
        return path
    return next((path / name for name in (SPACE, EXPERIMENT, RUN) if (path / name).is_file()), path)


def relocate_tree(tree: JsonObject, path: Path) -> JsonObject:
    """Adapt the tree of a YAML to the folder of raykd that it lies in; elsewhere it stays unchanged.

    Raises:
        ConfigError: The folder has a name that no run can have, or its state is damaged.
    """
    folder = Path(os.path.realpath(path)).parent
    check_state(folder)
    state = read_folder_state(folder)
    if state is None:
        return tree
    if (before := state.get("folder")) is not None:
        tree = relocate_paths(tree, Path(str(before)), folder)
    output = str(find_output(folder))
    if path.name in (SPACE, EXPERIMENT):
        base = tree.get("base")
        own = {"base": {**base, "output": output}} if isinstance(base, Mapping) else {}
        return {**tree, "name": _check_folder_name(folder), **own}
    if path.name != RUN or (folder / SPACE).is_file() or (folder / ARMS).is_file():
        return {**tree, "output": output}  # another run than the folder's own, such as the best of a sweep
    return {**tree, "output": output, "name": _check_folder_name(folder)}


def refuse_folder_beside(file: Path, output: str, name: str, command: str) -> None:
    """Refuse a resume that would start anew in the working directory although the run's folder lies beside its file.

    Args:
        file: The YAML that was named.
        output: Folder of all runs, where the run's folder was looked for.
        name: Name of the run.
        command: The command that continues a folder, with {} for the folder.

    Raises:
        ConfigError: There is such a folder.
    """
    beside = Path(os.path.realpath(file)).parent / output / name
    if not os.path.isabs(output) and is_raykd_folder(beside):
        raise ConfigError(
            f"there is no {Path(output) / name} in {Path.cwd()} to go on with, and there is one beside {file.name}",
            got=str(beside),
            wanted="the folder that is meant",
            next_step=f"{command.format(beside)}; or without an option to begin here",
        )


def relocate_paths(tree: object, before: Path, now: Path) -> Any:
    """Return a tree whose paths follow a folder that has moved.

    Args:
        tree: Plain values.
        before: Where the folder was when the tree was written.
        now: Where it is now.
    """
    if before == now:
        return tree
    if isinstance(tree, Mapping):
        return {key: relocate_paths(value, before, now) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [relocate_paths(value, before, now) for value in tree]
    return _relocate_path(tree, before, now) if isinstance(tree, str) and tree.startswith(os.sep) else tree


def _relocate_path(path: str, before: Path, now: Path) -> str:
    """Return where a path leads now. A path inside the project moves with it; any other only if it is gone."""
    project = before.parent.parent
    inside = project != Path(os.sep) and Path(path).is_relative_to(project)
    try:
        there = os.path.normpath(now / os.path.relpath(path, before))
        return there if (inside or not os.path.exists(path)) and os.path.exists(there) else path
    except (OSError, ValueError):
        return path


def _check_folder_name(folder: Path) -> str:
    try:
        return check_name(folder.name)
    except ValueError as error:
        raise ConfigError(
            f"the folder {folder} has a name that no run can have",
            got=folder.name,
            wanted=str(error),
            next_step="rename the folder",
        ) from None
