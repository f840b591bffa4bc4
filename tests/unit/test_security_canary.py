"""A canary: secrets of the environment and of other people's errors, searched for in all that is written and shown."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from raykd.cli import main
from raykd.config.loading import dump_run, flatten_run, load_run
from raykd.folders.log_file import log_to_file
from raykd.redaction import redact
from tests.unit.test_cli_bad_input import tree

CANARY = "c4naryB1rd77"
VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "HF_TOKEN",
    "MY_SERVICE_API_KEY",
    "RAY_AUTH_TOKEN",
)


@pytest.fixture(params=VARIABLES)
def secret(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A secret in one variable of the environment."""
    monkeypatch.setenv(request.param, CANARY)
    return CANARY


def test_the_log_holds_no_secret(secret: str, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with log_to_file(path):
        log = logging.getLogger("mlflow.somewhere")
        log.error("request to http://me:%s@host failed with %s", "other-pass", secret)
        warnings.warn(f"the key {secret} is old", stacklevel=1)
        try:
            raise RuntimeError(f"refused {secret}")
        except RuntimeError:
            log.exception("it failed")
    written = path.read_text("utf-8")
    assert secret not in written and "other-pass" not in written
    assert "refused ***" in written and "request to http://***@host failed" in written


def test_what_is_shown_and_kept_holds_no_secret(
    secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(tree(tmp_path)), encoding="utf-8")

    def fault(*arguments: Any) -> None:
        raise RuntimeError(f"http://bob:{secret}@host says {secret}")

    for arguments in (["check", str(path)], ["plan", str(path)], ["check", str(path), f"trian={secret}"]):
        monkeypatch.setattr("sys.argv", ["raykd", *arguments])
        with pytest.raises(SystemExit):
            main()
    monkeypatch.setattr("raykd.experiments.checks.load_run_or_sweep", fault)
    monkeypatch.setattr("sys.argv", ["raykd", "check", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert ended.value.code == 1 and "fault of raykd" in captured.err
    assert secret not in captured.out + captured.err
    config = load_run(path)
    assert secret not in dump_run(config) and all(
        secret not in redact(v) for v in flatten_run(config).values()
    )
    assert [p for p in tmp_path.rglob("*") if p.is_file() and secret in p.read_text("utf-8", "replace")] == []


def test_what_is_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths, switches and numbers under such names are ordinary words elsewhere."""
    for name, value in (
        ("RAY_AUTH_TOKEN_PATH", "/etc/me/token"),
        ("X_TOKEN", "enabled"),
        ("PWD", "/somewhere"),
    ):
        monkeypatch.setenv(name, value)
        assert redact(f"it is {value} here") == f"it is {value} here"
