"""Read a configuration: YAML in, RunConfig out. Applies overrides and resolves paths.

Decision record: errors name all wrong keys at once (`raykd.config.explain`). `raykd.parse` reads YAML safely.
Impossible paths are refused here by their key, before anything opens them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from raykd.config import MultiRun, Run, RunConfig, overlay
from raykd.config.dsfile import check_switches, read_deepspeed
from raykd.config.explain import KindFinder, explain_errors
from raykd.config.home import find_config_file, relocate_tree
from raykd.config.rewriting.continuing import continue_run, find_earlier_run
from raykd.errors import ConfigError
from raykd.parse import (
    MAX_DEPTH,
    JsonObject,
    check_path,
    make_plain_tree,
    parse_override,
    parse_yaml,
    read_text,
)
from raykd.redaction import has_credentials, is_secret_key, redact
from raykd.spec import Spec

_INDEX = re.compile(r"^[0-9]{1,9}\Z")
R = TypeVar("R", bound=Spec)
Override = str | tuple[str, Any]
"""``key.path=value`` as on the command line, or a key path and its value."""
ConfigSource = str | os.PathLike[str] | Mapping[str, object] | BaseModel
"""A configuration: the path of a YAML file or of the folder of a run, a tree, or a model."""
IN_MEMORY = Path("the configuration")
"""Stands for the file of a configuration from memory, whose relative paths begin at the working directory."""


def read_yaml_mapping(path: Path) -> JsonObject:
    """Read the mapping in a YAML file.

    Raises:
        ConfigError: The file cannot be read or holds something else.
    """
    tree = parse_yaml(read_text(path, "run file"), str(path))
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} is not a run file",
            got=type(tree).__name__,
            wanted="keys such as data, student, teachers",
        )
    return tree


def set_path(tree: JsonObject, override: Override) -> JsonObject:
    """Set one key of a tree.

    Args:
        tree: The tree; it is not modified.
        override: ``key.path=value``, whose value is YAML, or a pair of a key path and a Python value. A number in the
            path is an index; an item of a list is also found by its ``name``. A mapping is laid over what is there.

    Returns:
        The new tree.

    Raises:
        ConfigError: The override cannot be read, or names no item of a list.
    """
    path, value = _read_override(override) if isinstance(override, str) else override
    if path.count(".") > MAX_DEPTH:
        raise ConfigError("an override's key is too deep", got=path[:80], wanted=f"at most {MAX_DEPTH} dots")
    if not isinstance(override, str):
        value = make_plain_tree(value, f"the override {path}")
    return dict(_set(tree, path.split("."), value, path))


def _read_override(assignment: str) -> tuple[str, object]:
    path, equals, value = assignment.partition("=")
    if not equals or not path:
        raise ConfigError(
            f"cannot read the override {assignment[:80]!r}", got=assignment[:80], wanted="key.path=value"
        )
    return path, parse_override(value, f"the override {path}")


def _set(tree: object, keys: list[str], value: object, path: str) -> Any:
    if not keys:
        return overlay(tree, value) if isinstance(value, Mapping) else value
    head, *rest = keys
    if isinstance(tree, list):
        names = [str(item.get("name")) if isinstance(item, Mapping) else "" for item in tree]
        index = names.index(head) if head in names else int(head) if _INDEX.match(head) else -1
        if not 0 <= index < len(tree):
            raise ConfigError(
                f"the override {path} names no item of the list",
                got=head,
                wanted=f"0 to {len(tree) - 1} or one of {names}",
            )
        return [_set(item, rest, value, path) if at == index else item for at, item in enumerate(tree)]
    branch = dict(tree) if isinstance(tree, Mapping) else {}
    branch[head] = _set(branch.get(head, {} if rest else None), rest, value, path)
    return branch


def validate_run(tree: JsonObject, origin: str) -> RunConfig:
    """Validate a plain tree as a run of one task.

    Raises:
        ConfigError: Some keys are wrong; or it is a run of several tasks, which not every command takes.
    """
    if has_several_tasks(tree):
        raise ConfigError(
            f"{origin} is a run of several tasks, which is not offered here",
            got="task.kind: multi",
            wanted="a run of one task",
            next_step="raykd train and raykd check take it; give its tasks runs of their own for the rest",
        )
    return validate_model(RunConfig, _complete(tree), origin)


def validate_any_run(tree: JsonObject, origin: str) -> Run:
    """Validate a plain tree as a run of one task or of several."""
    return (
        validate_model(MultiRun, tree, origin)
        if has_several_tasks(tree)
        else validate_model(RunConfig, _complete(tree), origin)
    )


def _complete(tree: JsonObject) -> JsonObject:
    """Return the tree; that of a run which goes on from another one with all that this means."""
    if tree.get("from_run") is None:
        return tree
    folder = find_earlier_run(str(tree["from_run"]))
    earlier = load_run(folder)
    students, origin = [earlier.student], earlier
    while origin.from_run is not None and os.path.isdir(origin.from_run):  # how it was when it was new
        origin = load_run(origin.from_run)
        students.append(origin.student)
    return continue_run(tree, earlier, folder, students)


def is_sweep(tree: Mapping[str, object]) -> bool:
    """Return whether a file's tree is a sweep and not a run."""
    return bool({"space", "base"} & set(tree))


def has_several_tasks(tree: Mapping[str, object]) -> bool:
    """Return whether a run's tree has several tasks."""
    task = tree.get("task")
    return isinstance(task, Mapping) and task.get("kind") == "multi"


def refuse_credentials(tree: object, origin: str) -> None:
    """Refuse secrets in a run file, which is copied to the run's folder and to MLflow.

    Raises:
        ConfigError: A URI has ``user:password@``, or a DeepSpeed key names a secret. The value is not repeated.
    """
    waiting = [("", tree)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, Mapping):
            waiting += [(f"{path}.{key}" if path else str(key), value) for key, value in node.items()]
        elif isinstance(node, (list, tuple)):
            waiting += [(f"{path}.{at}", value) for at, value in enumerate(node)]
        elif isinstance(node, str) and (
            has_credentials(node) or (node and ".deepspeed." in path and is_secret_key(path))
        ):
            raise ConfigError(
                f"{origin}: {path or 'the text'} holds a secret, which would show in run.yaml and in MLflow",
                got=redact(node) if has_credentials(node) else "***",
                wanted="no secret in a run file",
                next_step="give it by the environment: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or "
                "_TOKEN), HF_TOKEN",
            )


def validate_model(
    model: type[R],
    tree: Mapping[str, object],
    origin: str,
    hints: Mapping[str, str] = MappingProxyType({}),
    nearest_kind: KindFinder | None = None,
) -> R:
    """Validate a tree as a model.

    Args:
        model: The model's class.
        tree: Plain values.
        origin: What errors call the tree.
        hints: What to write in place of unknown keys (see `explain_errors`).
        nearest_kind: Finds the kind that was meant (see `explain_errors`).

    Raises:
        ConfigError: Some keys are wrong, each explained; or the tree holds a secret.
    """
    refuse_credentials(tree, origin)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(explain_errors(error, origin, model, hints, nearest_kind))) from None


def resolve_paths(config: R, base_dir: Path) -> R:
    """Return the configuration with absolute paths and the content of its DeepSpeed file.

    Args:
        config: The configuration.
        base_dir: What relative paths are relative to: the folder of the YAML.

    Raises:
        ConfigError: A path leads nowhere, or the DeepSpeed file cannot be read.
    """
    return type(config).model_validate(_resolve(config.model_dump(mode="json"), base_dir))


def _resolve(tree: JsonObject, base_dir: Path) -> JsonObject:
    tree["output"] = _output(tree["output"])
    if tree["serving"]["store"] is not None:
        check_path(tree["serving"]["store"], "serving.store")
    own = tree.get("pretraining")
    teachers = [*tree["teachers"], *(own["teachers"] if own else ())]
    trained = [t["training"] for t in teachers if "training" in t]
    members = tree["task"]["tasks"].values() if has_several_tasks(tree) else [tree]
    stages = [*([own] if own else []), *(each["pretraining"] for each in trained if each["pretraining"])]
    for part in [*(m["data"] for m in members), *(training["data"] for training in trained), *stages]:
        _resolve_data(part, base_dir)
    for teacher in teachers:
        if "path" in teacher and "://" not in teacher["path"]:
            resolve = _absolute if teacher["kind"] == "file" else _local  # a pattern exists nowhere
            teacher["path"] = resolve(teacher["path"], base_dir, f"teachers.{teacher['name']}.path")
        if "function" in teacher:
            place, _, name = teacher["function"].rpartition(":")
            if place.endswith(".py"):
                key = f"teachers.{teacher['name']}.function"
                teacher["function"] = f"{_absolute(place, base_dir, key)}:{name}"
    peers = [tree["peer"]["student"]] if tree.get("peer") else []
    for model in [tree["student"], *peers, *(training["model"] for training in trained)]:
        if model["kind"] == "pretrained":
            model["path"] = _local(model["path"], base_dir, "student.path")
        if model.get("embedding_from") is not None:
            model["embedding_from"] = _local(model["embedding_from"], base_dir, "student.embedding_from")
    for train in [tree["train"], *(stage["train"] for stage in (*trained, *stages))]:
        train["deepspeed"] = read_deepspeed(train["deepspeed"], base_dir)
        check_switches(train["deepspeed"], "train.deepspeed")
    return tree


def _resolve_data(data: JsonObject, base_dir: Path) -> None:
    for source in data.values():
        if isinstance(source, dict) and isinstance(source.get("paths"), list):
            source["paths"] = [
                path if "://" in path else _absolute(path, base_dir, "data.*.paths")
                for path in source["paths"]
            ]
    for change in data.get("augment", ()):
        for key in ("path", "back"):
            if change.get(key) is not None:
                change[key] = _local(change[key], base_dir, f"data.augment[].{key}")


def _output(path: str) -> str:
    """Return the folder of runs as written, relative to the working directory, with ~ expanded."""
    check_path(path, "output")
    _absolute(path, Path(), "output")
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _local(path: str, base_dir: Path, key: str) -> str:
    """Return the absolute path if it exists or begins with . or ~; otherwise the text, which may be a hub name."""
    absolute = _absolute(path, base_dir, key)
    return absolute if os.path.exists(absolute) or path.startswith((".", "~")) else path


def _absolute(path: str, base_dir: Path, key: str) -> str:
    """Return the absolute path.

    Raises:
        ConfigError: It is no path: a loop of links, the home of an unknown user, no text.
    """
    check_path(str(path), key)
    try:
        return str((base_dir / Path(path).expanduser()).resolve())
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"{key} leads nowhere", got=f"{path} ({error})", wanted="a path", next_step="correct it"
        ) from None


def load_run(source: ConfigSource, overrides: Sequence[Override] = ()) -> RunConfig:
    """Load a run of one task from a file, a tree or a model, with overrides on top.

    A file in the folder of a run belongs to that folder (see `raykd.config.home`), which may be named in its place.

    Raises:
        ConfigError: Some keys are wrong; or it is a run of several tasks (see `load_any_run`).
    """
    tree, path = read_source(source)
    return resolve_paths(validate_run(_apply_overrides(tree, overrides), str(path)), path.resolve().parent)


def load_any_run(source: ConfigSource, overrides: Sequence[Override] = ()) -> Run:
    """Load a run of one task or of several; see `load_run`."""
    tree, path = read_source(source)
    return resolve_paths(
        validate_any_run(_apply_overrides(tree, overrides), str(path)), path.resolve().parent
    )


def read_source(source: ConfigSource) -> tuple[JsonObject, Path]:
    """Read the tree of a configuration without validating it.

    Args:
        source: The path of a YAML file or of the folder of a run or sweep; a tree of plain values, models and paths;
            or a model.

    Returns:
        The tree, adapted to the folder that it lies in, and the file; `IN_MEMORY` if there is no file.

    Raises:
        ConfigError: There is no such file, or it is not a mapping of plain values.
    """
    if isinstance(source, str | os.PathLike):
        path = find_config_file(Path(source))
        return relocate_tree(read_yaml_mapping(path), path), path
    tree = make_plain_tree(source, str(IN_MEMORY))
    if not isinstance(tree, dict):
        raise ConfigError(
            "this is no configuration",
            got=type(source).__name__,
            wanted="the path of a YAML file, a mapping, or a RunConfig or SweepConfig",
        )
    return tree, IN_MEMORY


def _apply_overrides(tree: JsonObject, overrides: Sequence[Override]) -> JsonObject:
    for override in overrides:
        tree = set_path(tree, override)
    return tree


def dump_run(config: Run) -> str:
    """Return the resolved run as YAML for `load_run`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flatten_run(config: Run) -> dict[str, str]:
    """Return every leaf of a run by its key path. Items of a list with names are found by name."""
    flat: dict[str, str] = {}

    def walk(prefix: str, node: object) -> None:
        if isinstance(node, Mapping) and node:
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else str(key), value)
        elif isinstance(node, list) and node and all(isinstance(item, Mapping) for item in node):
            for index, item in enumerate(node):
                walk(f"{prefix}.{item.get('name', index)}", item)
        else:
            flat[prefix] = node if isinstance(node, str) else json.dumps(node, ensure_ascii=False)

    walk("", config.model_dump(mode="json"))
    return flat
