"""Define `Spec`, the base of all configuration.

A Spec is frozen and has no unknown keys. Nothing that a user wrote is converted silently: a number stays the number,
and neither a string nor a truth value is read as one. A field of texts takes a number or a truth value as the text
that was written: ``labels: [0, 1]`` are the labels "0" and "1".
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema


class WrittenInt(int):
    """A whole number written differently from Python: 010, +5, 0x1f."""

    written: str


class WrittenFloat(float):
    """A fraction written differently from Python: 1.10, 1e-3."""

    written: str


def format_as_written(value: bool | int | float) -> str:
    """Return a truth value or number as the text that stood in the file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.written if isinstance(value, WrittenInt | WrittenFloat) else str(value)


class Spec(BaseModel):
    """A frozen pydantic model that refuses unknown keys. Base of the members of raykd's unions."""

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
    def _as_written(cls, data: object) -> object:
        """Keep texts from becoming numbers, and turn numbers into texts where texts are wanted.

        pydantic's own strict mode would also refuse a YAML list for a tuple, so only this is strict.
        """
        if not isinstance(data, Mapping):
            return data
        changed: dict[object, object] = {}
        for name, value in data.items():
            field = cls.model_fields.get(name) if isinstance(name, str) else None
            if field is None:
                continue
            if isinstance(value, (str, bool)):
                if _is_numeric(field.annotation):
                    changed[name] = NotANumber(value)
                elif isinstance(value, bool) and _takes_text(field.annotation):
                    changed[name] = format_as_written(value)
            elif isinstance(value, (int, float, list, tuple, Mapping)):
                changed[name] = _convert_to_texts(value, field.annotation)
        return {**data, **changed} if changed else data


class KindUnion:
    """Annotates a field that takes a model of any registered kind, told apart by its key ``kind``.

    Args:
        classes: The models by kind. What is added later counts once the model with the field is built again.
    """

    def __init__(self, classes: Mapping[str, type[BaseModel]]) -> None:
        self.classes = classes

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Build the union of the classes that are registered now."""
        union: Any = Union[tuple(self.classes.values())]  # noqa: UP007  (made of what is known at run time)
        return handler.generate_schema(Annotated[union, Field(discriminator="kind")])


class NotANumber:
    """Replaces a text or truth value where a number is wanted, so that the field itself refuses it."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def _is_numeric(annotation: object) -> bool:
    """Return whether an annotation takes only numbers and None."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return bool(parts) and all(_is_numeric(part) for part in parts)
    return annotation in (int, float)


def _convert_to_texts(value: object, annotation: object) -> object:
    """Turn numbers and truth values into texts wherever the annotation takes only texts."""
    if isinstance(value, bool | int | float):
        return format_as_written(value) if _takes_text(annotation) else value
    for part in _members(annotation):
        inner = get_args(part)
        if isinstance(value, list | tuple) and get_origin(part) in (tuple, list) and inner:
            return [_convert_to_texts(item, inner[0]) for item in value]
        if isinstance(value, Mapping) and get_origin(part) is dict:
            return {
                _convert_to_texts(key, inner[0]): _convert_to_texts(item, inner[1])
                for key, item in value.items()
            }
    return value


def _members(annotation: object) -> tuple[object, ...]:
    """Return the annotations in a union; of any other annotation, itself."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for part in get_args(annotation) for member in _members(part))
    return (annotation,)


def _takes_text(annotation: object) -> bool:
    """Return whether an annotation takes any text, and no other plain value."""
    members = [part for part in _members(annotation) if part is not type(None)]
    return str in members and all(
        part is str or get_origin(part) in (Literal, tuple, list, dict) for part in members
    )
