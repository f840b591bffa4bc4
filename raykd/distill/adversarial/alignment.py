"""Align a student's features over languages or domains: a discriminator whose gradient reaches the student reversed.

Decision record: domain-adversarial training (Ganin et al., arXiv:1505.07818). The discriminator learns at the full rate
whatever the weight, so that what the student hears from it is worth something from the start of a ramp. It is told the
language or domain of each row and no gold label, so rows without labels take part as all others.

What it reads is what the student's head reads, where a task reads the head: a tagger's words each, not their mean. Of
work on names across languages Keung et al. (arXiv:1909.00153) average a text's tokens, and AdvPicker (arXiv:2106.02300)
reads each token, as is done here: the head decides word by word, a mean can be alike where no word is, and a word's
vector does not change with what it is averaged with. Begins and ends of answers are read at the context's words,
rankings at each pair of query and candidate, and sentence vectors are compared themselves. Each row counts as much as
any other, whatever number of words it has.
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
