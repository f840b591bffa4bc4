"""`Spec`: the base of everything that can stand in a YAML.

Frozen, no unknown keys, no silent conversion of what a user wrote: a number stays the number, and a string
is never read as one.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


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
