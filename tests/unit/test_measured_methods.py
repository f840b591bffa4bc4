"""Docs/figures.md has a row for each kind of method that a run file can name, measured or called not measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from raykd.distill.adapting.learned import Factor, Temperature
from raykd.distill.features.terms import Feature
from raykd.distill.losses import Divergence
from raykd.distill.schedules import Schedule
from raykd.distill.weighting import Weighting
from raykd.models.students import Student

FIGURES = (Path(__file__).parents[2] / "docs" / "figures.md").read_text(encoding="utf-8")


def list_kinds(union: Any) -> set[str]:
    return {str(member.model_fields["kind"].default) for member in get_args(get_args(union)[0])}


METHODS = {
    "Divergences": list_kinds(Divergence),
    "Weightings": list_kinds(Weighting),
    "Schedules": list_kinds(Schedule),
    "Learned values": (list_kinds(Temperature) | list_kinds(Factor)) - list_kinds(Schedule),
    "Feature terms": list_kinds(Feature),
    "Kinds of student": list_kinds(Student),
}
"""A heading below "Methods", and the kinds that its tables list in their first column."""


@pytest.mark.parametrize("heading", METHODS)
def test_each_kind_of_method_has_a_row_with_a_figure(heading: str) -> None:
    section = (
        FIGURES.split("\n## Methods\n")[1].split("\n## ")[0].split(f"\n### {heading}\n")[1].split("\n### ")[0]
    )
    rows = re.findall(r"^\| `(?!kind`)(\w+)`(.*)\|$", section, re.MULTILINE)
    assert {kind for kind, _ in rows} == METHODS[heading]
    without = [kind for kind, cells in rows if not re.search(r"\d|not measured", cells)]
    assert without == []
    if any("not measured" in cells for _, cells in rows):
        assert "not measured" in re.sub(r"^\|.*$", "", section, flags=re.MULTILINE).lower(), (
            "a sentence says why"
        )
