"""Read what people and killed processes wrote: YAML and JSON within bounds, and files of JSON lines."""

from raykd.parse.bounded import (
    MAX_DEPTH,
    MAX_NODES,
    JsonObject,
    check_path,
    make_plain_tree,
    parse_json,
    parse_override,
    parse_yaml,
    read_text,
    refuse_duplicate_keys,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_NODES",
    "JsonObject",
    "check_path",
    "make_plain_tree",
    "parse_json",
    "parse_override",
    "parse_yaml",
    "read_text",
    "refuse_duplicate_keys",
]
