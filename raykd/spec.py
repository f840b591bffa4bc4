"""`Spec`: the base of everything that can stand in a YAML.

Frozen, no unknown keys, no silent conversion of what a user wrote: a number stays the number, and neither a
string nor a truth value is read as one.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, model_validator


class Spec(BaseModel):
    """A frozen pydantic model that refuses unknown keys; the members of raykd's unions derive from it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, data: Any) -> Any:
        """pydantic's own strictness would also refuse a YAML list where a tuple stands, so only this is strict."""
        if not isinstance(data, Mapping):
            return data
        fields = cls.model_fields
        wrong = {
            name: _NotANumber(value)
            for name, value in data.items()
            if isinstance(value, (str, bool)) and name in fields and _numeric(fields[name].annotation)
        }
        return {**data, **wrong} if wrong else data


class _NotANumber:
    """Takes the place of a text or truth value where a number stands, so that the field itself refuses it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def _numeric(annotation: Any) -> bool:
    """Whether an annotation takes numbers (and None) only."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return bool(parts) and all(_numeric(part) for part in parts)
    return annotation in (int, float)
