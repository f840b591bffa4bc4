"""The bundle for a GPU machine: its wheels are those of constraints.txt, less what is left out for a reason."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tools.gpu_wheels import BUILT, LEFT_OUT, normalise, select_pins

ROOT = Path(__file__).parents[2]
CONSTRAINTS = (ROOT / "constraints.txt").read_text().splitlines()


def test_the_wheels_are_what_a_run_imports_in_the_pinned_versions() -> None:
    published, built = select_pins(CONSTRAINTS)
    names = {normalise(pin.partition("==")[0]) for pin in published}
    needed = "alembic databricks-sdk datasets jsonschema mlflow nltk optuna pydantic-core ray sqlalchemy tensorboardx"
    assert set(needed.split()) <= names and not names & {"torch", "numpy", "pytest", "flask", "ruff"}
    assert set(published) <= set(CONSTRAINTS)
    assert {normalise(pin.partition("==")[0]) for pin in built} == {normalise(name) for name in BUILT}
    assert 30 <= len(published) <= 60


def test_each_pin_is_taken_or_left_out_for_one_reason() -> None:
    published, built = select_pins(CONSTRAINTS)
    left_out = [normalise(name) for names in LEFT_OUT.values() for name in names.split()]
    assert len(left_out) == len(set(left_out))
    assert len(published) + len(built) + len(left_out) == sum("==" in line for line in CONSTRAINTS)


def test_a_new_dependency_is_taken_and_a_stale_name_is_said() -> None:
    published, _ = select_pins([*CONSTRAINTS, "# a comment", "Brand_New.Thing==1.2"])
    assert "Brand_New.Thing==1.2" in published
    with pytest.raises(ValueError, match=r"no pin of .*numpy"):
        select_pins([line for line in CONSTRAINTS if not line.startswith("numpy==")])


def test_the_script_reads_well_and_names_no_machine_and_no_registry() -> None:
    script = ROOT / "tools" / "gpu_bundle.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert script.stat().st_mode & 0o111
    assert not re.search(r"https?://|index-url|/home/|/root/", script.read_text())


def test_every_dependency_is_pinned_but_what_benchmarks_alone_compare_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(x for name, extra in project["optional-dependencies"].items() if name != "bench" for x in extra),
    ]
    names = {normalise(re.split(r"[\[<>=!~; ]", one, maxsplit=1)[0]) for one in wanted} - {"raykd"}
    assert names <= {normalise(line.partition("==")[0]) for line in CONSTRAINTS}, names
