"""A run of each task and a sweep give what they gave before the refactoring: see `tests.golden.record`."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.golden import record

RENAMED = yaml.safe_load((record.FOLDER / "renamed.yaml").read_text(encoding="utf-8"))
ALWAYS = ("classification", "seq2seq", record.SWEEP)
"""Runs of every change; those of the other tasks are nightly, for their length."""
TOLERANCE = 1e-4
"""Relative; two builds of torch differ by less."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in ALWAYS else pytest.mark.nightly) for name in record.trees()
    ],
)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the run of this name gave before, and what it gives now."""
    name, folder = request.param, tmp_path_factory.mktemp("golden")
    record.perform(name, folder)
    before = json.loads((record.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return before, record.read(name, folder)


def test_curves_are_those_of_before(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, now = pair
    assert before["curves"].keys() == now["curves"].keys()
    for job, curves in before["curves"].items():
        for key, points in curves.items():
            found = now["curves"][job][renamed("metrics", key)]
            assert [step for step, _ in found] == [step for step, _ in points], (job, key)
            assert [v for _, v in found] == pytest.approx([v for _, v in points], rel=TOLERANCE, abs=1e-6), (
                job,
                key,
            )


def test_the_table_is_that_of_before(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, now = pair
    assert len(now["table"]) == len(before["table"])
    for old, new in zip(before["table"], now["table"], strict=True):
        for column, value in old.items():
            found = new[renamed("columns", column)]
            assert close(number(found), number(value)), (old, column, found)


def test_no_name_of_a_file_or_a_record_is_lost(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    before, now = pair
    assert {renamed("files", name) for name in before["files"]} - {None} <= set(now["files"])
    for role, names in before["mlflow"].items():
        for what, old in names.items():
            assert {renamed(what, name) for name in old} - {None} <= set(now["mlflow"][role][what]), (
                role,
                what,
            )


def renamed(what: str, name: str) -> str | None:
    """The name of today; None for one that is gone, with its reason in ``renamed.yaml``."""
    known: dict[str, Any] = RENAMED.get(what) or {}
    for old, new in known.items():
        if name == old:
            return None if isinstance(new, dict) else str(new)
        if old.endswith("*") and name.startswith(old[:-1]):
            return None if isinstance(new, dict) else str(new).removesuffix("*") + name[len(old) - 1 :]
    return name


def close(found: Any, value: Any) -> bool:
    """Whether two cells are equal, numbers up to the tolerance."""
    if isinstance(value, float):
        return isinstance(found, float) and found == pytest.approx(value, rel=TOLERANCE, abs=1e-6)
    return bool(found == value)


def number(value: Any) -> Any:
    """A number that a CSV file holds as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
