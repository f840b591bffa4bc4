"""YAML in, RunConfig out: read, overlay, resolve paths.

Decision record: errors name the key's path, what was got and what is allowed, all wrong keys at once. YAML is read
by a safe loader without aliases and without double keys, and numbers such as 1e-3 are numbers (YAML 1.1 reads
them as text).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from raykd.config import MultiRun, Run, RunConfig, overlay
from raykd.errors import ConfigError

MAX_YAML_BYTES = 1_000_000
R = TypeVar("R", RunConfig, MultiRun)


class _Loader(yaml.SafeLoader):
    """The safe loader, without aliases (a few lines of them can fill the memory) and without double keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(
                f"aliases (*name) are not allowed, line {self.peek_event().start_mark.line + 1}"
            )
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.YAMLError(f"key {key!r} stands twice, line {key_node.start_mark.line + 1}")
        seen.add(key)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def parse_yaml(text: str, origin: str) -> Any:
    """Reads YAML safely.

    Raises:
        ConfigError: broken syntax, a key given twice, an alias, or more than a megabyte.
    """
    if len(text.encode()) > MAX_YAML_BYTES:
        raise ConfigError(
            f"{origin} is too large for a run file", got=f"{len(text)} characters", wanted="under 1 MB"
        )
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{origin} is not valid YAML", got=" ".join(str(error).split()), next_step="correct the line"
        ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"there is no run file {path}", got=str(path), wanted="a YAML file", next_step="check the path"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the run file {path}", got=str(error), wanted="a UTF-8 file") from None
    tree = parse_yaml(text, str(path))
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
        raise ConfigError(f"cannot read the override {assignment!r}", got=assignment, wanted="key.path=value")
    return _set(tree, path.split("."), parse_yaml(value, f"the override {path}"), path)


def _set(tree: Any, keys: list[str], value: Any, path: str) -> Any:
    if not keys:
        return overlay(tree, value) if isinstance(value, Mapping) else value
    head, *rest = keys
    if isinstance(tree, list):
        names = [str(item.get("name")) if isinstance(item, Mapping) else "" for item in tree]
        index = names.index(head) if head in names else int(head) if head.isdigit() else -1
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


def _validated(model: type[R], tree: Mapping[str, Any], origin: str) -> R:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, origin, model))) from None


def _explain(error: ValidationError, origin: str, model: type[BaseModel] = RunConfig) -> Iterable[str]:
    problems = error.errors(include_url=False)
    yield f"{origin}: {len(problems)} {'key is' if len(problems) == 1 else 'keys are'} wrong"
    for problem in problems:
        where = ".".join(str(part) for part in problem["loc"]) or "(the whole file)"
        got = json.dumps(problem["input"], default=str, ensure_ascii=False)
        shown = got if len(got) <= 120 else got[:117] + "..."
        yield f"  {where}"
        if problem["type"] == "extra_forbidden":
            allowed = _allowed_keys(model, problem["loc"][:-1])
            wrong = str(problem["loc"][-1])
            near = difflib.get_close_matches(wrong, allowed, n=1, cutoff=0.5)
            yield f"    got:     an unknown key {wrong!r}"
            yield f"    allowed: {', '.join(allowed) if allowed else 'no such key'}"
            if near:
                yield f"    next:    did you mean {near[0]!r}?"
        else:
            yield f"    got:     {shown}"
            yield f"    wanted:  {problem['msg'].removeprefix('Value error, ')}"


def _allowed_keys(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """Keys of the model at a location of a validation error (which passes through lists and union kinds)."""
    found: list[type[BaseModel]] = [model]
    for part in loc:
        following: list[type[BaseModel]] = []
        for candidate in found:
            if isinstance(part, str) and part in candidate.model_fields:
                following += _models_in(candidate.model_fields[part].annotation)
            elif isinstance(part, int) or _kind(candidate) == part:
                following.append(candidate)
        found = following or [c for c in found if _kind(c) is None]
    return sorted({key for candidate in found for key in candidate.model_fields})


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
    trained = [t["training"] for t in tree["teachers"] if t["training"] is not None]
    members = tree["task"]["tasks"].values() if several_tasks(tree) else [tree]
    for part in [*(member["data"] for member in members), *(training["data"] for training in trained)]:
        for source in part.values():
            if isinstance(source, dict) and "paths" in source:
                source["paths"] = [str((base_dir / p).resolve()) for p in source["paths"]]
    for teacher in tree["teachers"]:
        if teacher["path"] is not None:
            teacher["path"] = _local(teacher["path"], base_dir)
    for model in [tree["student"], *(training["model"] for training in trained)]:
        if model["kind"] == "pretrained":
            model["path"] = _local(model["path"], base_dir)
    for train in [tree["train"], *(training["train"] for training in trained)]:
        train["deepspeed"] = _read_deepspeed(train["deepspeed"], base_dir)
    return tree


def _local(path: str, base_dir: Path) -> str:
    """An absolute path if it is one here or can be nothing else; otherwise it may be a name of the hub."""
    local = base_dir / Path(path).expanduser()
    return str(local.resolve()) if local.exists() or path.startswith((".", "~")) else path


def _read_deepspeed(value: Any, base_dir: Path) -> Any:
    if not isinstance(value, str):
        return value
    path = base_dir / value
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"train.deepspeed: cannot read {path}", got=str(error), wanted="a JSON file or a mapping"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"train.deepspeed: {path} is no mapping", got=type(content).__name__, wanted="a JSON object"
        )
    return content


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
