"""What the README shows is true: its run file validates, its commands, files and presets exist."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from typer.main import get_command

from raykd.cli import app
from raykd.config.loading import validate
from raykd.tuning.config import load_sweep

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_run_and_the_search_of_the_readme_are_valid(tmp_path: Path) -> None:
    run, search = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert validate(yaml.safe_load(run), "README").teachers
    (tmp_path / "space.yaml").write_text(search, encoding="utf-8")
    assert load_sweep(tmp_path / "space.yaml").trials > 1


def test_every_command_of_the_readme_exists() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    used = set(re.findall(r"^    raykd (\w+)", README, flags=re.MULTILINE))
    assert used and used <= set(commands)


def test_every_place_of_the_map_and_every_link_exists() -> None:
    places = re.findall(
        r"^    (raykd/\S+|examples/|tune_spaces/|benchmarks/|tests/)", README, flags=re.MULTILINE
    )
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert places and links
    assert [p for p in [*places, *links] if not (ROOT / p).exists()] == []


def test_no_figure_is_left_to_be_filled_in() -> None:
    assert "@@" not in README


def test_every_benchmark_of_the_readme_exists() -> None:
    modules = set(re.findall(r"python -m (benchmarks\.\w+)", README))
    assert modules
    for module in modules:
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def test_the_table_of_faults_has_every_row_and_its_tests_exist() -> None:
    rows = re.findall(r"^\| ((?:[FS]\d+[-, ]*)+) \| (.*)$", README, flags=re.MULTILINE)
    ids: list[str] = []
    for named, rest in rows:
        first, _, last = named.partition("-")
        known = range(int(first[1:]), int((last or first)[1:]) + 1) if last else None
        ids += [f"{first[0]}{n}" for n in known] if known else named.split(", ")
        tests = re.findall(r"tests/\S+\.py", rest)
        assert tests and all((ROOT / test).exists() for test in tests), named
    wanted = [f"F{n}" for n in range(1, 45)] + [f"S{n}" for n in range(1, 12)]
    assert sorted(ids) == sorted(wanted)


def test_what_is_said_to_take_minutes_is_marked_so() -> None:
    named = set(re.findall(r"(tests/\S+\.py) \u23f2", README))
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if "mark.nightly" in path.read_text()
    }
    assert named <= marked
