"""What README, docs and the papers beside them say is true: links, paths, names, commands, YAML, figures' commands."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from typer.main import get_command

from raykd.cli import app
from raykd.config.data import Source
from raykd.config.loading import validate_run
from raykd.distill.losses import Divergence
from raykd.distill.schedules import Schedule
from raykd.distill.weighting import Weighting
from raykd.experiments.config import is_experiment, load_experiment
from raykd.spaces.domains import Domain
from raykd.spaces.schedulers import Scheduler
from raykd.spaces.search import Search
from raykd.tasks import Task
from raykd.tasks.answer_forms import Answers
from raykd.tuning.config import load_sweep
from tools.configuration_page import PAGE, page

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAPERS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "cluster" / "README.md",
]
FAULTS = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAPERS}

every_paper = pytest.mark.parametrize("paper", PAPERS, ids=lambda path: str(path.relative_to(ROOT)))


def code_of(text: str) -> str:
    """Return the indented code blocks of a page, comments cut off."""
    lines = [line for line in text.splitlines() if line.startswith("    ") and line.strip()]
    return "\n".join(re.sub(r"\s{2,}#.*", "", line) for line in lines)


def anchors_of(text: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def names_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield every (file, name) of a code link that names follow: [file](../file) `name`, `name`."""
    for path, names in re.findall(r"\[(raykd/\S+?\.py)\]\(\.\./\1\)((?:,? `\w+`)+)", text):
        for name in re.findall(r"`(\w+)`", names):
            yield path, name


def test_the_readme_is_a_first_look() -> None:
    assert len(README) <= 9000


@every_paper
def test_every_link_leads_somewhere(paper: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[paper]) if "://" not in link]
    for link in links:
        file, _, anchor = link.partition("#")
        target = (paper.parent / file).resolve() if file else paper
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target.read_text(encoding="utf-8")), link


@every_paper
def test_every_path_exists(paper: Path) -> None:
    rooms = "raykd|tests|benchmarks|examples|tune_spaces|cluster|docs|tools"
    paths = re.findall(rf"(?<![\w/.:-])((?:{rooms})/[\w./*-]*)", TEXTS[paper])
    missing = []
    for path in {path.rstrip(".") for path in paths}:
        there = any(ROOT.glob(path)) if "*" in path else (ROOT / path).exists()
        if not there and "NAME" not in path:
            missing.append(path)
    assert missing == []


@every_paper
def test_every_name_stands_in_its_file(paper: Path) -> None:
    lost = [
        (path, name)
        for path, name in names_of(TEXTS[paper])
        if not re.search(
            rf"^\s*(?:(?:async )?def|class) {name}\b|^{name}\b.*=", (ROOT / path).read_text("utf-8"), re.M
        )
    ]
    assert lost == []


def test_methods_named_in_the_architecture_are_methods() -> None:
    found = re.findall(r"\]\(\.\./(raykd/\S+?\.py)\)(?: `\w+`)? \(((?:`\w+`(?:, )?)+)\)", ARCHITECTURE)
    assert found
    for path, names in found:
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^\s+def {name}\(", (ROOT / path).read_text("utf-8"), re.M), (path, name)


def test_the_map_has_every_room_in_the_order_of_the_layers() -> None:
    section = ARCHITECTURE.split("## The map of rooms")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(raykd/[\w/.]+)`", section, flags=re.MULTILINE)
    there = {
        f"raykd/{path.name}" + ("/" if path.is_dir() else "")
        for path in (ROOT / "raykd").iterdir()
        if path.name not in ("__init__.py", "__pycache__", "py.typed")
    }
    assert set(rows) == there and len(rows) == len(there)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = [{part.strip() for part in layer.split("|")} for layer in contracts[0]["layers"]]
    names = [row.removesuffix("/").removesuffix(".py").replace("/", ".") for row in rows]
    depths = [next((i for i, layer in enumerate(layers) if name in layer), None) for name in names]
    known = [depth for depth in depths if depth is not None]
    assert known == sorted(known)


@every_paper
def test_every_yaml_is_valid(paper: Path, tmp_path: Path) -> None:
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", TEXTS[paper], flags=re.DOTALL)):
        tree = yaml.safe_load(text)
        if "space" in tree:
            path = tmp_path / f"{number}.yaml"
            path.write_text(text, encoding="utf-8")
            assert load_sweep(path).trials > 1
        elif is_experiment(tree):
            path = tmp_path / f"{number}.yaml"
            path.write_text(text, encoding="utf-8")
            assert len(load_experiment(path).arms) > 1
        else:
            assert validate_run(tree, paper.name).teachers


@every_paper
def test_every_python_is_python(paper: Path) -> None:
    for text in re.findall(r"```python\n(.*?)```", TEXTS[paper], flags=re.DOTALL):
        compile(text, paper.name, "exec")


@every_paper
def test_every_command_exists_with_its_options(paper: Path) -> None:
    lines = re.findall(r"^    raykd ([^#\n]*)", code_of(TEXTS[paper]), flags=re.MULTILINE)
    for line in lines:
        command: Any = get_command(app)
        words = line.split("|")[0].split()
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if re.match(r"--\w", word)} <= known, line


@every_paper
def test_code_is_read_without_scrolling(paper: Path) -> None:
    fenced = re.findall(r"^```\w*\n(.*?)^```", TEXTS[paper], flags=re.MULTILINE | re.DOTALL)
    indented = [line for line in TEXTS[paper].splitlines() if line.startswith("    ")]
    wide = [line for line in [*"\n".join(fenced).splitlines(), *indented] if len(line) > 112]
    assert wide == []


@every_paper
def test_every_program_and_make_target_exists(paper: Path) -> None:
    for module in set(re.findall(r"python -m ((?:benchmarks|tools)\.\w+)", TEXTS[paper])):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"(?:^    |`)make (\w+)", TEXTS[paper], flags=re.MULTILINE)) <= set(targets)


@every_paper
def test_no_figure_is_left_to_be_filled_in(paper: Path) -> None:
    assert "@@" not in TEXTS[paper] and "TODO" not in TEXTS[paper]


def test_every_page_is_found_from_the_readme() -> None:
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README)}


def test_the_configuration_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make reference"


def test_every_metric_of_the_golden_runs_stands_in_the_page_of_records() -> None:
    text = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/<>]+)`", text.split("## What")[1].split("\n## ")[0])
    known = [re.compile(re.sub(r"<\w+>", "[^/]+", name)) for name in named]
    for path in (ROOT / "tests" / "golden").glob("*.json"):
        for one in json.loads(path.read_text(encoding="utf-8"))["mlflow"].values():
            for metric in one["metrics"]:
                assert any(pattern.fullmatch(metric) for pattern in known), (path.name, metric)


@pytest.mark.parametrize(
    ("paper", "union"),
    [
        ("methods", Divergence),
        ("methods", Weighting),
        ("methods", Schedule),
        ("methods", Answers),
        ("tasks-and-data", Task),
        ("tasks-and-data", Source),
        ("architecture", Task),
        ("sweeps", Search),
        ("sweeps", Scheduler),
    ],
)
def test_every_kind_that_can_be_chosen_is_named(paper: str, union: Any) -> None:
    text = (ROOT / "docs" / f"{paper}.md").read_text(encoding="utf-8")
    for member in get_args(get_args(union)[0]):
        kind = member.model_fields["kind"].default
        assert re.search(rf"\b{kind}\b", text), kind


def test_every_domain_is_named() -> None:
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    assert all(f"`{{{domain.kind}: [" in text for domain in get_args(Domain))


def test_the_table_of_faults_has_every_row_and_its_tests_exist() -> None:
    rows = re.findall(r"^\| ((?:[FS]\d+[-, ]*)+) \| (.*)$", FAULTS, flags=re.MULTILINE)
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
    named = set(re.findall(r"(tests/\S+\.py) \u23f2", FAULTS))
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if "mark.nightly" in path.read_text()
    }
    assert named and named <= marked
