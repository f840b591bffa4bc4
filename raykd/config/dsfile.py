"""Read a DeepSpeed configuration: JSON, with comments as DeepSpeed allows them. Names any other format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from raykd.errors import ConfigError
from raykd.parse import check_path, parse_json, parse_yaml, read_text


def read_deepspeed(value: object, base_dir: Path) -> object:
    """Return the content of the file that `train.deepspeed` names. A mapping is returned unchanged.

    Raises:
        ConfigError: The file cannot be read or holds something else.
    """
    if not isinstance(value, str):
        return value
    check_path(value, "train.deepspeed")
    path = base_dir / value
    origin = f"train.deepspeed: {path}"
    text = read_text(path, "DeepSpeed configuration (train.deepspeed)")
    if not text.lstrip("\ufeff \t\r\n").startswith(("{", "[", "/", "#")):
        _refuse_other_format(text, origin)
    content = parse_json(text, origin, comments=True)
    if not isinstance(content, dict):
        raise ConfigError(f"{origin} is no mapping", got=type(content).__name__, wanted="a JSON object")
    return content


def _refuse_other_format(text: str, origin: str) -> None:
    """Refuse YAML, an accelerate configuration or an empty file by its name.

    Raises:
        ConfigError: The text is one of these. Other texts are left to the JSON parser.
    """
    try:
        tree = parse_yaml(text, origin)
    except ConfigError:
        return
    accelerate = isinstance(tree, dict) and {"distributed_type", "deepspeed_config"} & set(tree)
    raise ConfigError(
        f"{origin} is no DeepSpeed configuration",
        got="a configuration of accelerate"
        if accelerate
        else "YAML"
        if isinstance(tree, dict)
        else "no JSON object",
        wanted="a JSON object",
        next_step="name the file of its deepspeed_config_file, or write DeepSpeed's own keys: zero_optimization: "
        "{stage: 2}"
        if accelerate
        else "write its keys below train.deepspeed in the run file, which is YAML, or as JSON in a file",
    )


def check_switches(node: object, path: str) -> None:
    """Refuse yes, no, on and off in a DeepSpeed configuration: they are texts, and any text counts as true.

    Raises:
        ConfigError: Names the path of the first one.
    """
    if isinstance(node, Mapping):
        for key, value in node.items():
            check_switches(value, f"{path}.{key}")
    elif isinstance(node, str) and node.lower() in ("yes", "no", "on", "off"):
        raise ConfigError(f"{path} is a text, not true or false", got=node, wanted="true or false")
