"""Places that a run writes to are tried at the check; what is kept is counted as it will be."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raykd.cli import app
from raykd.config.loading import load_run
from raykd.errors import ConfigError, ResourceError
from raykd.folders import places
from raykd.folders.places import check_places, try_folder
from raykd.tuning.config import load_sweep
from tests.unit.test_cli_bad_input import tree


@pytest.mark.parametrize("output", ["file", "file/below"])
def test_an_output_that_is_a_file_or_below_one_is_refused(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("")
    run = tmp_path / "run.yaml"
    run.write_text(json.dumps(tree(tmp_path) | {"output": str(tmp_path / output)}))
    with pytest.raises(ConfigError, match=r"output leads (to|below) a file"):
        check_places(load_run(run))
    assert sorted(p.name for p in tmp_path.iterdir() if "file" in p.name) == ["file"]


@pytest.mark.parametrize(
    ("number", "said", "kind"),
    [(30, "read-only", ConfigError), (13, "may not write", ConfigError), (28, "disk is full", ResourceError)],
)
def test_what_the_file_system_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, kind: type[Exception]
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(places.tempfile, "TemporaryFile", refuse)
    with pytest.raises(kind, match=f"output cannot be written: .*{said}"):
        try_folder(tmp_path / "not" / "there", "output")
    assert not (tmp_path / "not").exists()


def test_no_folder_for_temporary_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(json.dumps(tree(tmp_path) | {"output": str(tmp_path / "out")}))

    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(ConfigError, match="TMPDIR"):
        check_places(load_run(run))


def test_paths_of_output_that_lead_nowhere_are_refused_and_the_home_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    run = tmp_path / "run.yaml"
    for output, said in ((tmp_path / "a", "Symlink loop"), ("~nobody-at-all/x", "home")):
        run.write_text(json.dumps(tree(tmp_path) | {"output": str(output)}))
        with pytest.raises(ConfigError, match=said):
            load_run(run)
    run.write_text(json.dumps(tree(tmp_path) | {"output": "~/runs"}))
    assert load_run(run).output == str(Path.home() / "runs")


def test_check_takes_a_space_and_names_a_folder_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = tree(tmp_path) | {"output": str(tmp_path / "out"), "ray": {"num_cpus": 2}}
    space = {
        "name": "s",
        "base": base,
        "num_samples": 3,
        "space": {"objective": {"alpha": {"uniform": [0, 1]}}},
    }
    path = tmp_path / "space.yaml"
    path.write_text(json.dumps(space))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 0, result.output
    assert "3 trials over alpha" in result.output and "the sweep starts with: raykd sweep" in result.output
    (tmp_path / "out" / "s").mkdir(parents=True)
    state = {"status": "interrupted", "fingerprint": load_sweep(path).fingerprint()}
    (tmp_path / "out" / "s" / "run.json").write_text(json.dumps(state))
    result = CliRunner().invoke(app, ["check", str(path)])
    assert "s exists already, interrupted" in result.output and "space.yaml --resume" in result.output
