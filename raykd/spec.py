"""`Spec`: the base of everything that can stand in a YAML.

Frozen, no unknown keys, no silent conversion of what a user wrote: a number stays the number, and neither a
string nor a truth value is read as one.
"""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


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

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic's own strictness would also refuse a YAML list where a tuple stands, so only this is strict."""
        if isinstance(value, (str, bool)) and _numeric(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"{value!r} is not a number")
        return value


def _numeric(annotation: Any) -> bool:
    """Whether an annotation takes numbers (and None) only."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return bool(parts) and all(_numeric(part) for part in parts)
    return annotation in (int, float)
