"""Write docs/configuration.md: every key of run files, search spaces and experiments, from the models that read them.

    python -m tools.configuration_page            # prints the page
    python -m tools.configuration_page --write    # writes docs/configuration.md (make reference)

The page is made and not written by hand, so a key cannot be missing and a default cannot be old. What a key means is
the docstring under its field, what a kind does is the docstring of its class.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raykd.config import RunConfig
from raykd.config.multi import MultiRun
from raykd.experiments.config import ExperimentConfig
from raykd.spec import KindUnion
from raykd.tuning.config import SweepConfig

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
FILES: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("run", "A run file", RunConfig),
    ("run of several tasks", "A run file of several tasks", MultiRun),
    ("space", "A search space", SweepConfig),
    ("experiment", "An experiment", ExperimentConfig),
)
"""What each kind of file is called in the page, the heading of its part, and the model that reads it."""

HEAD = """# Configuration

One YAML is one run. Each key of it stands here with its type, its default and what it means. `raykd check` answers a
wrong key with the allowed ones. Any key can be changed on the command line: `raykd train RUN.yaml objective.alpha=0.3`.

A part with several forms has a `kind`. A key that is `required` has no default. `list of` and `map of` are YAML lists
and mappings. A path is relative to the file that holds it. In keys of this page `[]` stands for an item of a list and
`NAME` for a name that you choose. On the command line a teacher goes by its name: `teachers.en.actor.replicas=2`.

This page is made from the code by `make reference`; a test compares the two. What may stand in a search space is in
[sweeps.md](sweeps.md), what an experiment does in [experiments.md](experiments.md).
"""

Group = tuple[type[BaseModel], ...]
"""The models that may stand at one key: one, or the members of a union."""


def page() -> str:
    """Return the whole page."""
    done: dict[Group, str] = {}
    parts = [HEAD]
    for _, title, model in FILES:
        parts += [f"## {title}\n", *_part(model, done)]
    return "\n".join(parts)


def _part(root: type[BaseModel], done: dict[Group, str]) -> Iterator[str]:
    """Yield the sections of one kind of file; groups that an earlier file described are linked.

    Args:
        root: The model that reads the file.
        done: The key at which each group is described. Extended here.
    """
    found = _shortest_paths(root)
    fresh = {group: path for group, path in found.items() if group not in done}
    done |= fresh
    for group, path in sorted(fresh.items(), key=lambda item: _order(item[1], root)):
        if path:
            others = [f"`{one}`" for one in _places(root)[group] if one != path]
            yield (
                f"### `{path}`\n\n{_sources(group)}"
                + (f" Also at {', '.join(others)}." if others else "")
                + "\n"
            )
        for model in group:
            yield _model(model, done, alone=len(group) == 1)


def _shortest_paths(root: type[BaseModel]) -> dict[Group, str]:
    """Return every group below a model with the shortest key that leads to it, breadth first."""
    found: dict[Group, str] = {(root,): ""}
    waiting = [((root,), "")]
    for group, path in waiting:
        for model in group:
            for key, field in model.model_fields.items():
                below = _group_in(field.annotation)
                if below and below not in found:
                    found[below] = f"{path}.{key}{_brackets(field.annotation)}".lstrip(".")
                    waiting.append((below, found[below]))
    return found


def _places(root: type[BaseModel]) -> dict[Group, list[str]]:
    """Return every group below a model with all keys at which it stands, each owner counted once."""
    places: dict[Group, list[str]] = {}
    for group, path in _shortest_paths(root).items():
        for model in group:
            for key, field in model.model_fields.items():
                below = _group_in(field.annotation)
                place = f"{path}.{key}{_brackets(field.annotation)}".lstrip(".")
                if below and place not in places.setdefault(below, []):
                    places[below].append(place)
    return places


def _sources(group: Group) -> str:
    """Return links to the files that hold these models."""
    files = dict.fromkeys(f"{model.__module__.replace('.', '/')}.py" for model in group)
    return "Code: " + ", ".join(f"[{file}](../{file})" for file in files) + "."


def _order(path: str, root: type[BaseModel]) -> tuple[Any, ...]:
    """Return a key that sorts sections as their first keys stand in the file, the nested ones behind their owner."""
    first, _, rest = path.partition(".")
    keys = list(root.model_fields)
    name = first.removesuffix("[]").removesuffix(".NAME")
    return (keys.index(name) if name in keys else -1, rest.count("."), rest)


def _group_in(annotation: Any) -> Group:
    """Return the models that an annotation may be, looking into lists, maps and unions; empty for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    for part in get_args(annotation):
        if isinstance(part, KindUnion):  # without the kinds that tests or other packages add
            return tuple(c for c in part.classes.values() if c.__module__.startswith("raykd."))
    found: list[type[BaseModel]] = []
    for part in get_args(annotation):
        found += [model for model in _group_in(part) if model not in found]
    return tuple(found)


def _brackets(annotation: Any) -> str:
    """Return what stands behind a key whose values are lists or maps of models."""
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is tuple:
            return "[]"
        if get_origin(part) is dict:
            return ".NAME"
    return ""


def _model(model: type[BaseModel], done: dict[Group, str], *, alone: bool) -> str:
    """Return one model's description and its table of keys; keys of a described parent are left out."""
    fields = {key: field for key, field in model.model_fields.items() if key != "kind"}
    parent = next((base for base in model.__mro__[1:] if (base,) in done), None)
    if parent is not None:
        fields = {key: field for key, field in fields.items() if key not in parent.model_fields}
    kind = model.model_fields.get("kind")
    lines = [
        f"**`kind: {kind.default}`**" if kind and not (alone and kind.is_required()) else "",
        _text(model),
    ]
    if parent is not None:
        lines.append(f"It has all keys of [`{done[(parent,)]}`](#{_anchor(done[(parent,)])}), and:")
    head = " ".join(line for line in lines if line)
    table = ["", "| key | type | default | meaning |", "|---|---|---|---|"]
    table += [_row(key, field, done) for key, field in fields.items()]
    return "\n".join([head, *(table if fields else []), ""])


def _text(model: type[BaseModel]) -> str:
    """Return the docstring of a model up to its arguments."""
    text = inspect.cleandoc(model.__doc__ or "")
    return _plain(re.split(r"\n\s*(?:Args|Raises|Returns|Attributes):", text)[0].strip())


def _plain(text: str) -> str:
    """Return a docstring's text as Markdown that speaks of YAML: one backtick, `null` for None."""
    return re.sub(r"\bNone\b", "`null`", re.sub(r"``(.+?)``", r"`\1`", text))


def _row(key: str, field: FieldInfo, done: dict[Group, str]) -> str:
    """Return one line of a table."""
    group = _group_in(field.annotation)
    meaning = _plain(" ".join((field.description or "").split()))
    if done.get(group):
        link = f"see [`{done[group]}`](#{_anchor(done[group])})"
        meaning = f"{meaning} ({link})" if meaning else link
    cells = [f"`{key}`", _type(field), _default(field), meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading of a key."""
    return re.sub(r"[^\w-]", "", heading.lower())


def _type(field: FieldInfo) -> str:
    """Return the type of a field in words, with its bounds."""
    bounds = [text for part in field.metadata for text in _bounds(part)]
    short = "number or " if any(isinstance(part, BeforeValidator) for part in field.metadata) else ""
    return ", ".join([short + _name(field.annotation), *bounds])


def _bounds(part: Any) -> Iterator[str]:
    for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if getattr(part, name, None) is not None:
            yield f"{sign} {_yaml(getattr(part, name))}"
    if getattr(part, "min_length", None):
        yield "not empty"


def _name(annotation: Any) -> str:
    """Return an annotation in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _name(args[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_name(part) for part in args))
    if origin is Literal:
        return " or ".join(f"`{_yaml(value)}`" for value in args)
    if origin is tuple:
        if args[-1:] != (Ellipsis,):
            return f"list of {len(args)} {_name(args[0])}s"
        return "list of mappings" if _name(args[0]) == "mapping" else f"list of {_name(args[0])}"
    if origin is dict:
        return f"map of {_name(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    names = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        NoneType: "null",
        Any: "anything",
    }
    return names.get(annotation, "mapping" if annotation is dict else str(annotation))


def _default(field: FieldInfo) -> str:
    """Return the default of a field as it would stand in a YAML."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value is PydanticUndefined else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """Return a value in YAML's flow style; of a model only what differs from its own defaults, and its kind."""
    if isinstance(value, BaseModel):
        tree = {"kind": value.kind} if hasattr(value, "kind") else {}
        return _yaml(tree | {key: getattr(value, key) for key in value.model_dump(exclude_defaults=True)})
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_yaml(inner) for inner in value) + "]"
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./-]+", value) else json.dumps(value)
    return json.dumps(value)


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page())
