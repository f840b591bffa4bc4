"""What a user wrote is shown as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raykd.cli import main
from raykd.cli.app import _console
from tests.fakes import save_transformer

TEXTS = [":smile:", "[bold]x[/bold]", "a :+1: b", "[/]"]


def test_predict_shows_texts_as_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_transformer(tmp_path / "model")
    monkeypatch.setattr("raykd.cli.models.console", _console())
    monkeypatch.setattr("sys.argv", ["raykd", "predict", str(folder), *TEXTS])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert [text for text in TEXTS if f"  {text}\n" not in shown] == []


def test_errors_show_names_as_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ":smile:[red].yaml"
    path.write_text(json.dumps({"name": ":tada:"}))
    monkeypatch.setattr("raykd.cli.errors", _console(stderr=True))
    monkeypatch.setattr("sys.argv", ["raykd", "check", str(path)])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().err
    assert ":smile:[red].yaml" in shown and '":tada:"' in shown
