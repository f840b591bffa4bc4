"""YAML in, RunConfig out: read, overlay, resolve paths.

Decision record: errors name the key's path, what was got and what is allowed, all wrong keys at once. How YAML is
read safely stands in `raykd.parse`. Paths that can be none are refused here by their key, before anything tries them.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from raykd.config import MultiRun, Run, RunConfig, overlay
from raykd.config.dsfile import check_switches, read_deepspeed
from raykd.errors import ConfigError
from raykd.parse import MAX_DEPTH, check_path, parse_override, parse_yaml, read_text
from raykd.redaction import credentials_in, names_a_secret, redact
from raykd.spec import NotANumber

_INDEX = re.compile(r"^[0-9]{1,9}\Z")
R = TypeVar("R", RunConfig, MultiRun)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    tree = parse_yaml(read_text(path, "run file"), str(path))
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} is not a run file",
            got=type(tree).__name__,
            wanted="keys such as data, student, teachers",
        )
    return tree


def set_path(tree: Any, assignment: str) -> Any:
    """Applies ``key.path=value`` (the value is YAML; a number in the path is an index) and returns the new tree."""
    path, equals, value = assignment.partition("=")
    if not equals or not path:
        raise ConfigError(
            f"cannot read the override {assignment[:80]!r}", got=assignment[:80], wanted="key.path=value"
        )
    if path.count(".") > MAX_DEPTH:
        raise ConfigError("an override's key is too deep", got=path[:80], wanted=f"at most {MAX_DEPTH} dots")
    return _set(tree, path.split("."), parse_override(value, f"the override {path}"), path)


def _set(tree: Any, keys: list[str], value: Any, path: str) -> Any:
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


def validate(tree: Mapping[str, Any], origin: str) -> RunConfig:
    """RunConfig from a plain tree; all errors at once.

    Raises:
        ConfigError: also for a run of several tasks, which not every command takes.
    """
    if several_tasks(tree):
        raise ConfigError(
            f"{origin} is a run of several tasks, which is not offered here",
            got="task.kind: multi",
            wanted="a run of one task",
            next_step="raykd train and raykd check take it; give its tasks runs of their own for the rest",
        )
    return _validated(RunConfig, tree, origin)


def several_tasks(tree: Mapping[str, Any]) -> bool:
    """Whether a run's tree is one of several tasks."""
    task = tree.get("task")
    return isinstance(task, Mapping) and task.get("kind") == "multi"


def refuse_credentials(tree: Any, origin: str) -> None:
    """A run file is copied to its folder and its keys to MLflow, so no secret may stand in it.

    Raises:
        ConfigError: a URI with ``user:password@``, or a DeepSpeed key that names a secret; the value is not repeated.
    """
    waiting = [("", tree)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, Mapping):
            waiting += [(f"{path}.{key}" if path else str(key), value) for key, value in node.items()]
        elif isinstance(node, (list, tuple)):
            waiting += [(f"{path}.{at}", value) for at, value in enumerate(node)]
        elif isinstance(node, str) and (
            credentials_in(node) or (node and ".deepspeed." in path and names_a_secret(path))
        ):
            raise ConfigError(
                f"{origin}: {path or 'the text'} holds a secret, which would show in run.yaml and in MLflow",
                got=redact(node) if credentials_in(node) else "***",
                wanted="no secret in a run file",
                next_step="give it by the environment: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or "
                "_TOKEN), HF_TOKEN",
            )


def _validated(model: type[R], tree: Mapping[str, Any], origin: str) -> R:
    refuse_credentials(tree, origin)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, origin, model))) from None


def explain(error: ValidationError, origin: str, model: type[BaseModel] = RunConfig) -> Iterable[str]:
    """What is wrong, key by key: the sentence first, what stands there last and shortened."""
    problems = _without_echoes(error.errors(include_url=False))
    yield f"{origin}: {len(problems)} {'key is' if len(problems) == 1 else 'keys are'} wrong"
    for problem in problems:
        where = _key(model, problem["loc"])
        if problem["type"] == "extra_forbidden":
            allowed = _allowed_keys(model, problem["loc"][:-1])
            wrong = str(problem["loc"][-1])
            other = _ALSO_CALLED.get(wrong)
            near = [other] if other in allowed else difflib.get_close_matches(wrong, allowed, n=1, cutoff=0.5)
            yield f"  {where}"
            yield f"    got:     an unknown key {wrong!r}"
            yield f"    allowed: {', '.join(allowed) if allowed else 'no such key'}"
            if near:
                yield f"    next:    did you mean {near[0]!r}?"
            continue
        if problem["type"] == "missing":
            yield f"  {where}: this key is missing"
            continue
        value = problem["input"]
        if problem["type"] != "value_error":
            yield f"  {where}"
            yield f"    wanted:  {_wanted(problem, _kinds(model, problem['loc']))}"
            yield f"    got:     {_shown(value)}"
            continue
        first, *rest = problem["msg"].removeprefix("Value error, ").splitlines()
        yield f"  {where}: {first}" if where and not first.startswith(where) else f"  {first}"
        yield from (f"  {line}" for line in rest)
        if not isinstance(value, Mapping | BaseModel):  # of a combination of keys it would be all of them
            yield f"    got:     {_shown(value)}"


_ALSO_CALLED = {"sep": "delimiter", "separator": "delimiter", "data_files": "paths", "files": "paths"}
"""Keys as other libraries name them."""
_PLAINLY = {
    "string_type": "a text",
    "tuple_type": "a list, such as [a, b]",
    "dict_type": "keys with values, such as {a: b}",
    "model_type": "keys with values, such as {a: b}",
    "model_attributes_type": "keys with values, such as {a: b}",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
"""pydantic's names of what is wanted, for people."""


def _wanted(problem: Mapping[str, Any], kinds: Sequence[str]) -> str:
    kind = problem["type"]
    wanted = _PLAINLY.get(kind, problem["msg"])
    if kind == "string_type" and problem["input"] is None:
        return f'{wanted}; the word null is one in quotes: "null"'
    if kinds and kind in ("model_attributes_type", "union_tag_not_found"):
        return f"keys with values, among them kind: {' | '.join(kinds)}"
    return f"kind: {' | '.join(kinds)}" if kinds and kind == "union_tag_invalid" else wanted


def _without_echoes(problems: Sequence[Any]) -> list[Any]:
    """The problems but a list that is too short only because its items are wrong."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or not any(
            len(at) > len(problem["loc"]) and at[: len(problem["loc"])] == problem["loc"] for at in places
        )
    ]


def _shown(value: Any) -> str:
    got = json.dumps(value.value if isinstance(value, NotANumber) else value, default=str, ensure_ascii=False)
    return got if len(got) <= 120 else got[:117] + "..."


def _allowed_keys(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """Keys of the model at a location of a validation error (which passes through lists and union kinds)."""
    found = [model]
    for part in loc:
        found = _below(found, part) or [c for c in found if _kind(c) is None]
    return sorted({key for candidate in found for key in candidate.model_fields})


def _below(found: Sequence[type[BaseModel]], part: Any) -> list[type[BaseModel]]:
    """The models that a part of a location leads to; none where it leads to a plain value."""
    following: list[type[BaseModel]] = []
    for candidate in found:
        if isinstance(part, str) and part in candidate.model_fields:
            following += _models_in(candidate.model_fields[part].annotation)
        elif isinstance(part, int) or _kind(candidate) == part:
            following.append(candidate)
    return following


def _key(model: type[BaseModel], loc: Sequence[Any]) -> str:
    """A location as it is written in a run file and in overrides: without the kinds of unions."""
    found, kept = [model], []
    for part in loc:
        if any(part in c.model_fields for c in found) or not any(_kind(c) == part for c in found):
            kept.append(str(part))
        found = _below(found, part)
    return ".".join(kept)


def _kinds(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """The kinds of the union at a location; none where there is none."""
    found = [model]
    for part in loc:
        found = _below(found, part)
    return sorted({str(kind) for candidate in found if (kind := _kind(candidate)) is not None})


def _kind(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("kind")
    return field.default if field is not None else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def resolve(config: RunConfig, base_dir: Path) -> RunConfig:
    """Paths made absolute (relative ones are relative to the YAML), a DeepSpeed file replaced by its content."""
    return RunConfig.model_validate(_resolved(config.model_dump(mode="json"), base_dir))


def _resolved(tree: dict[str, Any], base_dir: Path) -> dict[str, Any]:
    tree["output"] = _output(tree["output"])
    if tree["serving"]["store"] is not None:
        check_path(tree["serving"]["store"], "serving.store")
    trained = [t["training"] for t in tree["teachers"] if t["training"] is not None]
    members = tree["task"]["tasks"].values() if several_tasks(tree) else [tree]
    for part in [*(member["data"] for member in members), *(training["data"] for training in trained)]:
        for source in part.values():
            if isinstance(source, dict) and isinstance(source.get("paths"), list):
                source["paths"] = [_absolute(path, base_dir, "data.*.paths") for path in source["paths"]]
    for teacher in tree["teachers"]:
        if teacher["path"] is not None:
            teacher["path"] = _local(teacher["path"], base_dir, f"teachers.{teacher['name']}.path")
    for model in [tree["student"], *(training["model"] for training in trained)]:
        if model["kind"] == "pretrained":
            model["path"] = _local(model["path"], base_dir, "student.path")
    for train in [tree["train"], *(training["train"] for training in trained)]:
        train["deepspeed"] = read_deepspeed(train["deepspeed"], base_dir)
        check_switches(train["deepspeed"], "train.deepspeed")
    return tree


def _output(path: str) -> str:
    """The folder of runs as it was written, relative to the working directory; ~ is the user's home."""
    check_path(path, "output")
    _absolute(path, Path(), "output")
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _local(path: str, base_dir: Path, key: str) -> str:
    """An absolute path if it is one here or can be nothing else; otherwise it may be a name of the hub."""
    absolute = _absolute(path, base_dir, key)
    return absolute if os.path.exists(absolute) or path.startswith((".", "~")) else path


def _absolute(path: Any, base_dir: Path, key: str) -> str:
    """Raises ConfigError for what can be no path: a loop of links, a home of nobody, no text."""
    check_path(str(path), key)
    try:
        return str((base_dir / Path(path).expanduser()).resolve())
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"{key} leads nowhere", got=f"{path} ({error})", wanted="a path", next_step="correct it"
        ) from None


def load_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run of a YAML file with ``key.path=value`` overrides on top.

    Raises:
        ConfigError: with the path, what was got and what is allowed, for all wrong keys at once; a run of several
            tasks, which `load_any` reads.
    """
    tree = _read(path, overrides)
    return resolve(validate(tree, str(path)), path.resolve().parent)


def load_any(path: Path, overrides: Sequence[str] = ()) -> Run:
    """As `load_run`, and also runs of several tasks."""
    tree = _read(path, overrides)
    if not several_tasks(tree):
        return resolve(validate(tree, str(path)), path.resolve().parent)
    run = _validated(MultiRun, tree, str(path))
    resolved = _resolved(run.model_dump(mode="json"), path.resolve().parent)
    return _validated(MultiRun, resolved, str(path))


def _read(path: Path, overrides: Sequence[str]) -> Any:
    tree: Any = read_yaml(path)
    for assignment in overrides:
        tree = set_path(tree, assignment)
    return tree


def dump(config: Run) -> str:
    """The resolved run as YAML that `load_run` takes again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flatten(config: Run) -> dict[str, str]:
    """Every leaf as ``key.path: value``; an item of a list of named things goes by its name."""
    flat: dict[str, str] = {}

    def walk(prefix: str, node: Any) -> None:
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
