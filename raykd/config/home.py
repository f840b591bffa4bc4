"""The folder that a run, a sweep or a confirmation has made: is a folder one, where was it, what lies in it now.

Decision record: a folder that is named is the folder that is used. A YAML that lies in such a folder belongs to it,
from whatever working directory it is read, under whatever name the folder goes now. Paths in it stay absolute, so
that a copy of the file alone works elsewhere too; `run.json` keeps where the folder lay when they were written, and
where it lies elsewhere now, what lay beside it is looked for beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raykd.config.overlay import check_name
from raykd.errors import ConfigError
from raykd.parse import check_path

STATE = "run.json"
SPACE = "space.yaml"
RUN = "run.yaml"


def is_raykd_folder(folder: Path) -> bool:
    """Whether raykd made this folder, for a run, a sweep or a confirmation."""
    return read_folder_state(folder) is not None


def read_folder_state(folder: Path) -> dict[str, object] | None:
    """What a folder's `run.json` holds; None where there is none of ours that can be read."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) and "status" in state else None


def check_state(folder: Path) -> None:
    """Raises ConfigError where a folder of ours has a `run.json` that is cut off, so that nothing begins anew in it."""
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
    """The folder of all runs that a folder lies in; a confirmation lies in its sweep's."""
    above = folder.parent
    return above.parent if (above / SPACE).is_file() and is_raykd_folder(above) else above


def find_folder(path: Path, output: Path = Path("runs")) -> Path:
    """The folder that is meant by a path, or by the name of a folder below `output`; the path where there is none."""
    check_path(str(path), "the name of the folder")
    path, output = (Path(os.path.expanduser(one)) for one in (path, output))
    for folder in (path, output / path):
        check_state(folder)
    return next((folder for folder in (path, output / path) if is_raykd_folder(folder)), path)


def find_student(path: Path) -> Path:
    """The folder of the student where a run is named; a model's folder is itself."""
    folder = find_folder(path)
    return folder / "student" if is_raykd_folder(folder) and not (path / "config.json").is_file() else path


def find_config_file(path: Path) -> Path:
    """The file that is meant where a folder of ours is named: that of its sweep, else that of its run."""
    check_path(str(path), "the path of the run file")
    if not path.is_dir():
        return path
    check_state(path)
    if not is_raykd_folder(path):
        return path
    return next((path / name for name in (SPACE, RUN) if (path / name).is_file()), path)


def relocate_tree(tree: dict[str, Any], path: Path) -> dict[str, object]:
    """The tree of a YAML as it stands for the folder that it lies in; unchanged where that is none of ours.

    Args:
        path: of the YAML.
    Raises:
        ConfigError: the folder was given a name that none can have, or its state is cut off.
    """
    folder = Path(os.path.realpath(path)).parent
    check_state(folder)
    state = read_folder_state(folder)
    if state is None:
        return tree
    if (before := state.get("folder")) is not None:
        tree = relocate_paths(tree, Path(str(before)), folder)
    output = str(find_output(folder))
    if path.name == SPACE:
        base = tree.get("base")
        own = {"base": {**base, "output": output}} if isinstance(base, Mapping) else {}
        return {**tree, "name": _checked(folder), **own}
    if path.name != RUN or (folder / SPACE).is_file() or (folder / "winner.yaml").is_file():
        return {**tree, "output": output}  # a run that the folder is not of, such as the best of a sweep
    return {**tree, "output": output, "name": _checked(folder)}


def refuse_folder_beside(file: Path, output: str, name: str, command: str) -> None:
    """Raises ConfigError where a resume would begin anew in the working directory, and a file's folder lies beside it.

    Args:
        file: the YAML that was named. output, name: where its folder was looked for. command: goes on with a folder.
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
    """The tree with every path that lay beside a folder as it lies beside it now.

    Args:
        before: where the folder lay when the tree was written. now: where it lies.
    """
    if before == now:
        return tree
    if isinstance(tree, Mapping):
        return {key: relocate_paths(value, before, now) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [relocate_paths(value, before, now) for value in tree]
    return _moved(tree, before, now) if isinstance(tree, str) and tree.startswith(os.sep) else tree


def _moved(path: str, before: Path, now: Path) -> str:
    """What lay in the project goes with it; anything else is looked for beside the folder only where it is gone."""
    project = before.parent.parent
    inside = project != Path(os.sep) and Path(path).is_relative_to(project)
    try:
        there = os.path.normpath(now / os.path.relpath(path, before))
        return there if (inside or not os.path.exists(path)) and os.path.exists(there) else path
    except (OSError, ValueError):
        return path


def _checked(folder: Path) -> str:
    try:
        return check_name(folder.name)
    except ValueError as error:
        raise ConfigError(
            f"the folder {folder} has a name that no run can have",
            got=folder.name,
            wanted=str(error),
            next_step="rename the folder",
        ) from None
