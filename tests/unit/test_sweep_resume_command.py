"""`raykd sweep --resume` is written like `train --resume` and `compare --resume`; what was written before works too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from raykd import api
from raykd.cli import app


@pytest.mark.parametrize(
    ("words", "config", "resume", "changes"),
    [
        (["s.yaml"], "s.yaml", False, []),
        (["s.yaml", "--resume"], "s.yaml", True, []),
        (["--resume", "s.yaml", "a=1"], "s.yaml", True, ["a=1"]),
        (["s.yaml", "--continue"], "s.yaml", True, []),
        (["soft", "--resume", "a=1"], None, "soft", ["a=1"]),
        (["--resume", "runs/soft", "a=1"], None, "runs/soft", ["a=1"]),
        (["a=1", "--resume", "soft"], None, "soft", ["a=1"]),
        (["--resume"], None, True, []),
    ],
)
def test_a_sweep_is_named_by_its_file_its_name_or_its_folder(
    words: list[str],
    config: str | None,
    resume: bool | str,
    changes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def sweep(space: Any, given: Any, **keys: Any) -> Any:
        asked.append((None if space is None else str(space), keys["resume"], given))
        return SimpleNamespace(failed=0, shown=(), lines=(), notes=())

    monkeypatch.setattr(api, "sweep", sweep)
    result = CliRunner().invoke(app, ["sweep", *words])
    assert result.exit_code == 0, result.output
    assert asked == [(config, resume, changes)]


def test_two_sweeps_are_refused_with_the_form_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "sweep", lambda *x, **y: pytest.fail("it begins"))
    result = CliRunner().invoke(app, ["sweep", "s.yaml", "--resume", "soft"])
    said = str(result.exception)
    assert result.exit_code != 0 and "s.yaml and soft" in said and "raykd sweep SPACE.yaml --resume" in said
