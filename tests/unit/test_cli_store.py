"""`raykd store` and the refusals of `raykd label`: no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raykd.cache import mark_used
from raykd.cli import main
from raykd.teachers.store.sqlite import DATA
from tests.unit.test_cli_bad_input import tree
from tests.unit.test_store import PRINT, filled


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["raykd", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_stats_verify_and_clear_tell_what_they_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = filled(tmp_path / "store", 300, teacher="zh").path
    where = ("--output", tmp_path)
    assert call(monkeypatch, "store", "stats", *where) == 0
    said = capsys.readouterr().out
    assert PRINT[:12] in said and "zh" in said and "300" in said
    assert call(monkeypatch, "store", "verify", *where) == 0
    assert "300 answers" in capsys.readouterr().out
    data = bytearray((path / DATA).read_bytes())
    data[-30:] = bytes(30)
    (path / DATA).write_bytes(data)
    assert call(monkeypatch, "store", "verify", *where) == 3
    assert "damaged" in capsys.readouterr().out
    assert call(monkeypatch, "store", "clear", *where) == 2
    assert call(monkeypatch, "store", "clear", "--all", *where) == 0
    assert "removed 300 answers of 1 stores" in capsys.readouterr().out
    assert call(monkeypatch, "store", "stats", *where) == 0
    assert "no answers" in capsys.readouterr().out
    monkeypatch.setenv("RAYKD_CACHE", str(tmp_path / "cache"))
    kept = tmp_path / "cache" / "tokens" / "key"
    kept.mkdir(parents=True)
    (kept / "labels_N").write_bytes(bytes(2_500_000))
    mark_used(kept)
    assert call(monkeypatch, "store", "stats", *where) == 0
    assert f"tokens of one corpus: 2.5 MB in {kept.parent}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({}, 3, ["not trained yet", "teacher-en", "raykd train"]),
        ({"serving": {"store": None}}, 2, ["nothing to label", "serving.store"]),
        ({"teachers": [], "objective": {"alpha": 1.0}}, 2, ["nothing to label", "no teachers"]),
    ],
)
def test_label_refuses_what_it_cannot_do_before_ray_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    code: int,
    words: list[str],
) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(yaml.safe_dump({**tree(tmp_path), **change}))
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "label", run) == code
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
