"""What the README shows is true: its run file validates, its commands, files and presets exist."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from typer.main import get_command

from raykd.cli import app
from raykd.load import validate

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_run_file_of_the_readme_is_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        assert validate(yaml.safe_load(block), "README").teachers


def test_every_command_of_the_readme_exists() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    used = set(re.findall(r"^    raykd (\w+)", README, flags=re.MULTILINE))
    assert used and used <= set(commands)


def test_every_place_of_the_map_and_every_link_exists() -> None:
    places = re.findall(r"^    (raykd/\S+|examples/|benchmarks/|tests/)", README, flags=re.MULTILINE)
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
