"""`raykd train --seeds N`: an experiment whose arm is the run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.cli import main
from raykd.experiments.presets import SEEDS, load_preset
from tests.unit.test_cli_bad_input import tree


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tree(tmp_path)), encoding="utf-8")
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    asked: list[dict[str, Any]] = []

    def compare(config: Path, overrides: list[str], **options: Any) -> Any:
        asked.append({"plan": load_preset(options["preset"], config, overrides), **options})
        return SimpleNamespace(shown=(), lines=(), failed=1)

    monkeypatch.setattr("raykd.api.compare", compare)
    monkeypatch.setattr("sys.argv", ["raykd", "train", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), asked


def test_the_run_is_the_only_arm(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, asked = call(monkeypatch, str(run_file), "--seeds", "3", "train.steps=7", "--resume")
    (one,) = asked
    plan = one["plan"]
    assert code == 4  # a training failed
    assert plan.seeds == (1, 2, 3) and [arm.name for arm in plan.arms] == ["base"]
    assert plan.arms[0].run.train.steps == 7 and one["resume"] and not one["overwrite"]
    assert plan.name == f"{json.loads(run_file.read_text()).get('name', 'run')}-{SEEDS}"


def test_a_name_is_the_run_s_and_the_folder_says_seeds(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, asked = call(monkeypatch, str(run_file), "name=a03", "--seeds", "2")
    assert asked[0]["plan"].name == "a03-seeds"


def test_a_run_with_a_baseline_is_compared_with_it() -> None:
    plan = load_preset(SEEDS, "demo", ["seeds=2"])
    assert [arm.name for arm in plan.arms] == ["base", "no_teachers"] and plan.baseline == "base"


def test_a_baseline_may_be_asked_for_on_the_command_line() -> None:
    example = Path(__file__).parents[2] / "examples" / "callable_en_fr_de.yaml"
    plan = load_preset(SEEDS, example, ["seeds=2", "base.baseline=true"])
    assert [arm.name for arm in plan.arms] == ["base", "no_teachers"] and plan.baseline == "base"
    assert [arm.name for arm in load_preset(SEEDS, "demo", ["base.baseline=false"]).arms] == ["base"]


@pytest.mark.parametrize("more", [("--profile",), ("seed=4",)])
def test_what_cannot_go_with_seeds_is_refused(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    code, asked = call(monkeypatch, str(run_file), "--seeds", "2", *more)
    assert code == 2 and not asked and "--seeds cannot go with" in capsys.readouterr().err
