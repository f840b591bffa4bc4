"""`raykd train --each-language`: a student for each language, from the teachers that speak it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.cli import main
from raykd.config.loading import load_run
from tests.unit.test_cli_bad_input import tree

TEACHERS = [
    {"name": "fr", "languages": ["fr"], "training": {"model": {"kind": "linear"}}},
    {"name": "both", "languages": "all", "training": {"model": {"kind": "linear"}}},
]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, list[Any], list[Any]]:
    trained: list[Any] = []
    pages: list[Any] = []

    def train(config: Path, overrides: list[str], **options: Any) -> Any:
        trained.append((load_run(config, overrides), options))
        return SimpleNamespace(shown=(), lines=())

    def write_report(*runs: Any, page: Path) -> Any:
        pages.append((len(runs), page))
        return SimpleNamespace(shown=(), lines=())

    monkeypatch.setattr("raykd.api.train", train)
    monkeypatch.setattr("raykd.saved_models.write_report", write_report)
    monkeypatch.setattr("sys.argv", ["raykd", "train", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), trained, pages


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps({**tree(tmp_path), "name": "reviews", "teachers": TEACHERS}), encoding="utf-8")
    return path


def test_each_language_is_a_run_of_its_rows_and_of_the_teachers_that_speak_it(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    languages = load_run(run_file).data.languages
    _, trained, pages = call(monkeypatch, str(run_file), "--each-language", "--resume", "train.steps=7")
    runs = [run for run, _ in trained]
    assert [run.name for run in runs] == [f"reviews-{language}" for language in languages] and len(runs) > 1
    assert [run.data.select_languages for run in runs] == [(language,) for language in languages]
    spoken = {run.data.select_languages: [t.name for t in run.active_teachers] for run in runs}
    assert spoken == {(lang,): ["fr", "both"] if lang == "fr" else ["both"] for lang in languages}
    assert all(run.train.steps == 7 for run in runs) and all(options["resume"] for _, options in trained)
    assert [(count, page.name) for count, page in pages] == [(len(languages), "reviews-languages.html")]


def test_a_language_without_a_teacher_is_refused_before_it_is_trained(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, trained, _ = call(monkeypatch, str(run_file), "--each-language", 'select_teachers=["fr"]')
    told = capsys.readouterr()
    assert code == 2 and "no teacher speaks" in told.out + told.err
    assert trained == []


def test_seeds_are_refused_with_the_command_for_one_language(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, trained, _ = call(monkeypatch, str(run_file), "--each-language", "--seeds", "2")
    told = capsys.readouterr()
    assert code == 2 and trained == [] and "select_languages" in told.out + told.err
