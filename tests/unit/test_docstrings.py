"""Docstrings are read by tools: Google style, every argument or none, one a line."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import griffe
import pytest

ROOT = Path(__file__).resolve().parents[2]
SEVERAL = re.compile(r"\. \w+: ")
"""A second argument described on the line of the first."""


@pytest.fixture(scope="module")
def package() -> griffe.Module:
    """The package as a documentation tool sees it, not imported."""
    found = griffe.load("raykd", search_paths=[ROOT], docstring_parser="google", resolve_aliases=False)
    assert isinstance(found, griffe.Module)
    return found


def documented(parent: griffe.Object) -> Iterator[griffe.Object]:
    """The object and all below it that are defined here and have a docstring."""
    if parent.docstring is not None:
        yield parent
    for member in parent.members.values():
        if isinstance(member, griffe.Object):
            yield from documented(member)


def test_every_docstring_is_parsed_without_a_warning(
    package: griffe.Module, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        count = sum(len(one.docstring.parsed) > 0 for one in documented(package) if one.docstring)
    assert count > 3_000
    assert [record.getMessage() for record in caplog.records] == []


def test_a_function_describes_each_of_its_arguments_or_none(package: griffe.Module) -> None:
    partly = {}
    for one in documented(package):
        if not isinstance(one, griffe.Function) or one.docstring is None:
            continue
        described = {
            argument.name.lstrip("*")
            for section in one.docstring.parsed
            if section.kind is griffe.DocstringSectionKind.parameters
            for argument in section.value
        }
        taken = {p.name.lstrip("*") for p in one.parameters} - {"self", "cls"}
        if described and taken - described:
            partly[one.path] = sorted(taken - described)
    assert partly == {}


def test_an_argument_has_a_line_of_its_own(package: griffe.Module) -> None:
    kinds = {griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes}
    together = [
        f"{one.path}: {entry.description}"
        for one in documented(package)
        if one.docstring is not None
        for section in one.docstring.parsed
        if section.kind in kinds
        for entry in section.value
        if SEVERAL.search(entry.description)
    ]
    assert together == []
