"""Read YAML and JSON written by a person, safely and within bounds.

Decision record: a file of a few lines can fill the memory (aliases of aliases), exhaust the stack (a thousand brackets)
or take minutes (PyYAML reads about 30,000 nodes per second). So size, depth and number of nodes are bounded, and
aliases are refused. A duplicate key is an error, since YAML would silently keep the last one. Tags make only plain
values. Strings that no file name and no UTF-8 file can hold (NUL, halves of surrogate pairs) are refused here, because
each later use would fail in its own way.

Plain values follow YAML 1.2 (core schema), not 1.1: no, yes, on, off, y and n are texts, 010 is ten, 1:30 and
2020-01-02 are texts, 1e-3 is a number. A number remembers how it was written if Python would write it differently
(`raykd.spec.format_as_written`), so that a field of texts can take 010 or 1.10 literally.
"""

from __future__ import annotations

import json
import numbers
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import BaseModel

from raykd.errors import ConfigError
from raykd.spec import WrittenFloat, WrittenInt

JsonObject: TypeAlias = dict[str, Any]
"""A mapping read from YAML or JSON that no schema has validated yet: a configuration tree, a manifest."""
MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NODES = 20_000
LONGEST_PART, LONGEST_PATH = 255, 4095
"""Most bytes of one part of a path, and of a whole path, on Linux."""
_PYTHON = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError)
"""Errors that PyYAML does not wrap, for example for an empty number or a date in month 13."""
_ADVICE = {
    "stands twice": "leave one of the two out",
    "aliases (": "write the value out where it is used",
    "character '\\t' that cannot start": "begin the line with blanks, not with tabs",
    "unknown escape character": "a backslash in double quotes is written twice; single quotes take it as it is",
    "found another document": "leave the line --- and all behind it out: a file is one run",
}
"""The next step for a YAML error, by a part of its message."""
_JSON_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|#[^\n]*|/\*.*?\*/', re.DOTALL)
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


class _Loader(yaml.SafeLoader):
    """The safe loader, without aliases and duplicate keys, and with bounded depth and size."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = self.nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases (*name) are not allowed, line {line}")
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH} levels, line {line}")
        if self.nodes > MAX_NODES:
            raise yaml.YAMLError(f"more than {MAX_NODES:,} values, line {line}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node)
    return _remember(WrittenInt(int(text, 0 if text[:2] in ("0x", "0o") else 10)), text)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node)
    return _remember(WrittenFloat(text.lower().replace(".inf", "inf").replace(".nan", "nan")), text)


def _remember(number: WrittenInt | WrittenFloat, text: str) -> float:
    """Return a number that knows its text, or a plain one if Python writes it the same way."""
    if str(number) == text:
        return number.real
    number.written = text
    return number


# The core schema of YAML 1.2: https://yaml.org/spec/1.2.2/#103-core-schema
_CORE = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
_Loader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _CORE.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})\Z"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
yaml.SafeDumper.add_representer(WrittenInt, yaml.SafeDumper.represent_int)
yaml.SafeDumper.add_representer(WrittenFloat, yaml.SafeDumper.represent_float)


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[str, object]:
    """Construct a mapping whose keys are texts, also where they look like numbers or truth values."""
    found: dict[str, object] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.YAMLError(f"a key that is a list or a mapping, line {line}")
        if key_node.value in found:
            raise yaml.YAMLError(f"key {key_node.value!r} stands twice, line {line}")
        found[key_node.value] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def parse_override(text: str, origin: str) -> object:
    """Read the value of ``key.path=value``: YAML of one value, in which # begins no comment.

    A shell takes the quotes from ``data.columns.text="a #b"``, so that what was quoted arrives without them.

    Raises:
        ConfigError: See `parse_yaml`.
    """
    mark = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in text)
    return _without(parse_yaml(text.replace("#", f"{mark}#"), origin), mark)


def _without(tree: object, mark: str) -> object:
    """Remove the mark from all texts of a tree."""
    if isinstance(tree, dict):
        return {_without(key, mark): _without(value, mark) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without(value, mark) for value in tree]
    return tree.replace(mark, "") if isinstance(tree, str) else tree


def parse_yaml(text: str, origin: str) -> object:
    """Read YAML safely.

    Raises:
        ConfigError: Broken syntax, a key given twice, an alias, a value of no plain kind, too large or too deep.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ConfigError(
            f"{origin} is too large for a run file", got=f"{len(text)} characters", wanted="under 1 MB"
        )
    try:
        tree = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, *_PYTHON) as error:
        # A malformed number or a tag that does not fit its value ends in an error of Python itself.
        raise ConfigError(
            f"{origin} is not valid YAML",
            got=" ".join(str(error).split())[:500],
            wanted="mappings, lists, texts and numbers",
            next_step=next(
                (advice for sign, advice in _ADVICE.items() if sign in str(error)),
                "correct the line; a text that holds : # [ ] { } , & * ! | > @ or a quote goes into quotes",
            ),
        ) from None
    _check_values(tree, origin)
    return tree


def make_plain_tree(value: object, origin: str) -> object:
    """Convert values of a Python program to plain ones, as `parse_yaml` gives them.

    Args:
        value: Mappings, lists, tuples, texts, numbers (also NumPy's), paths, pydantic models, or None.
        origin: What the value is, for messages.

    Raises:
        ConfigError: A value of another kind, a key that is not a text, or a tree that is too deep.
    """
    tree = _plain(value, origin, 0)
    _check_values(tree, origin)
    return tree


def _plain(value: object, origin: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ConfigError(f"{origin} is nested too deep", wanted=f"at most {MAX_DEPTH} levels")
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise ConfigError(f"{origin}: a key is not a text", got=repr(wrong)[:80], wanted="texts as keys")
        return {key: _plain(item, origin, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, origin, depth + 1) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ConfigError(
        f"{origin} holds a value that no configuration has",
        got=f"{type(value).__name__} {str(value)[:80]}",
        wanted="mappings, lists, texts, numbers, truth values, paths, None",
    )


def parse_json(text: str, origin: str, *, comments: bool = False) -> object:
    """Read JSON within the same bounds.

    Args:
        text: The JSON.
        origin: What errors call it.
        comments: Whether to skip // and # to the end of a line, and /* */, as DeepSpeed does.

    Raises:
        ConfigError: It is not JSON, a key stands twice, or it is too large or too deep.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{origin} is too large", got=f"{len(text)} characters", wanted="under 1 MB")
    text = text.removeprefix("\ufeff")
    if comments:
        text = _JSON_COMMENT.sub(_blanked, text)
    try:
        tree = json.loads(text, object_pairs_hook=refuse_duplicate_keys)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{origin} is not valid JSON", got=str(error)[:500], wanted="a JSON file") from None
    _check_values(tree, origin)
    return tree


def _blanked(found: re.Match[str]) -> str:
    """Keep a string, and turn a comment into blanks, so that lines and columns stay."""
    return found.group() if found.group().startswith('"') else re.sub(r"[^\n]", " ", found.group())


def refuse_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a JSON object from its keys and values. For ``object_pairs_hook`` of `json.loads`.

    Raises:
        ValueError: A key stands twice.
    """
    made = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key!r} stands twice")
        made[key] = value
    return made


def read_text(path: Path, what: str) -> str:
    """Read a small UTF-8 file.

    Args:
        path: The file.
        what: What errors call it, for example "run file".

    Raises:
        ConfigError: It is missing, too large, no regular file or not UTF-8.
    """
    check_path(str(path), f"the path of the {what}")
    try:
        if path.exists() and not path.is_file():
            got = "a folder" if path.is_dir() else "a device, socket or pipe"
            raise ConfigError(f"{path} is no {what}", got=got, wanted="a file", next_step="check the path")
        if path.is_file() and (size := path.stat().st_size) > MAX_BYTES:
            raise ConfigError(f"{path} is too large for a {what}", got=f"{size:,} bytes", wanted="under 1 MB")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {what} {path}",
            got=str(path),
            wanted="a file that exists",
            next_step="check the path",
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read the {what} {path}", got=str(error)[:500], wanted="a UTF-8 file that you may read"
        ) from None


def check_path(path: str, key: str) -> None:
    """Refuse a text that cannot be a path, before anything opens it.

    Raises:
        ConfigError: It is empty, holds a NUL, or is longer than the file system allows.
    """
    wrong = None
    data = os.fsencode(path) if not _UNUSABLE.search(path) else b""
    if not path.strip():
        wrong = "an empty text"
    elif not data:
        wrong = repr(path[:80])
    elif len(data) > LONGEST_PATH or any(len(part) > LONGEST_PART for part in data.split(b"/")):
        wrong = f"{len(data)} bytes: {path[:40]}..."
    if wrong is not None:
        raise ConfigError(
            f"{key} is no path",
            got=wrong,
            wanted=f"a path of at most {LONGEST_PART} bytes a part, without NUL",
            next_step="correct it",
        )


def _check_values(tree: object, origin: str) -> None:
    """Refuse values and texts that no configuration has. Iterative, since JSON may be very deep."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += [*node.keys(), *node.values()]
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, str):
            if found := _UNUSABLE.search(node):
                raise ConfigError(
                    f"{origin} holds a sign that no file and no name can hold",
                    got=f"U+{ord(found.group()):04X} in {node[:60]!r}",
                    wanted="texts without NUL and without halves of surrogate pairs",
                    next_step="take it out",
                )
        elif node is not None and not isinstance(node, (bool, int, float)):
            raise ConfigError(
                f"{origin} holds a value of a kind that has no place here",
                got=f"{type(node).__name__} {node!s:.80}",
                wanted="mappings, lists, texts and numbers",
                next_step="leave the tag (!!...) out",
            )
