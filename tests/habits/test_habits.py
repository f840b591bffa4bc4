"""Every neighbour is right or refused by name: none is late, wrong, or ends in a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.habit_parts.judging import FAULTS, judge_case
from benchmarks.habit_parts.running import copied, load_libraries
from benchmarks.habits import overrides
from tests.habits.descriptions import DESCRIPTIONS
from tests.habits.files import FILES
from tests.habits.neighbour import Neighbour
from tests.habits.padding import PADDING
from tests.habits.units import UNITS

NEIGHBOURS: dict[str, Neighbour] = {**PADDING, **DESCRIPTIONS, **FILES, **UNITS}

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="session", autouse=True)
def libraries() -> None:
    """Loaded once, for the forks in which commands run."""
    load_libraries()


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_neighbour_is_right_or_refused(name: str, tmp_path: Path) -> None:
    NEIGHBOURS[name].make(tmp_path)
    with copied(tmp_path) as folder:
        verdict = judge_case(NEIGHBOURS[name].case, folder, overrides=overrides())
    assert verdict.word not in FAULTS, f"{verdict.word}: {verdict.detail}"
