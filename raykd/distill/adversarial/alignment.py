"""Align a student's features over languages or domains: a discriminator whose gradient reaches the student reversed.

Decision record: domain-adversarial training (Ganin et al., arXiv:1505.07818). The discriminator learns at the full rate
whatever the weight, so that what the student hears from it is worth something from the start of a ramp. It is told the
language or domain of each row and no gold label, so rows without labels take part as all others.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raykd.distill.schedules import Linear, Schedule
from raykd.spec import Spec

DISCRIMINATOR = "alignment_discriminator"
"""Name of the discriminator among the modules of a student that is trained."""


class Alignment(Spec):
    """Makes a student's features alike over the values of a column, by a discriminator that they shall mislead."""

    column: Literal["language", "group"] = "language"
    """What the discriminator tells apart: languages, or the values of `data.columns.group`."""
    weight: Schedule = Linear(start=0.0, end=0.1)
    """Factor of the reversed gradient on its way into the student."""
    hidden: int = Field(64, ge=1)
    """Width of the discriminator's hidden layer."""
