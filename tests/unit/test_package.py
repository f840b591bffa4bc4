"""The papers of the package: one version, a licence, types, and no heavy import."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from typer.testing import CliRunner

import raykd
from raykd.cli import app

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "raykd.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", raykd.__version__)


def test_the_command_says_the_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"raykd {raykd.__version__}\n")


def test_the_image_of_the_cluster_files_has_the_version_of_the_package() -> None:
    tags = {
        tag
        for path in (ROOT / "cluster").rglob("*")
        if path.is_file()
        for tag in re.findall(r"raykd:(\d+\.\d+\.\d+)", path.read_text(encoding="utf-8"))
    }
    assert tags == {raykd.__version__}
    written = [
        path for path in (ROOT / "raykd").rglob("*.py") if re.search(r"raykd:\d", path.read_text("utf-8"))
    ]
    assert not written, "the image's tag is made of raykd.__version__"


def test_the_licence_is_the_one_that_is_named() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    # The text that the Apache Software Foundation publishes, byte for byte.
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert (ROOT / "raykd" / "py.typed").is_file()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["raykd"]


def test_the_changelog_has_this_version_and_what_comes_after_it() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased" and raykd.__version__ in headings


def test_the_changelog_names_what_was_renamed() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    renamed = yaml.safe_load((ROOT / "tests" / "golden" / "renamed.yaml").read_text(encoding="utf-8"))
    for group in renamed.values():
        for before, after in (group or {}).items():
            names = [before, *([] if isinstance(after, dict) else [after])]
            lasts = [re.split(r"[./]", name.rstrip("*./"))[-1] for name in names]
            assert all(f"{last}`" in changelog for last in lasts), names


def test_the_version_is_read_without_loading_torch_or_ray() -> None:
    code = (
        "import sys, raykd; print(raykd.__version__, *({'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == [raykd.__version__]
