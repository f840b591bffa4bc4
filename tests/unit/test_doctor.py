"""`raykd doctor` without a cluster: each look at a machine that is made so; and secrets stay out of what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raykd.errors import ResourceError, TrackingError
from raykd.preflight import doctor
from raykd.tracking import probe_mlflow


def test_the_token_file_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert not doctor.check_token_file().doubt
    path.write_text("t")
    for mode, doubt in ((0o644, True), (0o640, True), (0o600, False), (0o400, False)):
        path.chmod(mode)
        found = doctor.check_token_file()
        assert found.doubt is doubt and f"{mode:04o}" in found.detail
        assert ("chmod 600" in found.detail) is doubt


def test_packages_are_compared_with_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ray " in doctor.check_versions().detail
    monkeypatch.setattr(
        "importlib.metadata.requires", lambda name: ["ray>=99", "nothing-like-it", "x; extra == 'dev'"]
    )
    with pytest.raises(ResourceError) as caught:
        doctor.check_versions()
    assert (
        "ray 2." in str(caught.value)
        and ">=99" in str(caught.value)
        and "nothing-like-it is missing" in str(caught.value)
    )


def test_what_is_little_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykd.preflight.doctor.read_free_bytes", lambda folder: doctor.LITTLE_DISK - 1)
    assert doctor.check_free_space("output", tmp_path).doubt
    monkeypatch.setattr("raykd.preflight.doctor.read_free_bytes", lambda folder: doctor.LITTLE_DISK)
    assert not doctor.check_free_space("output", tmp_path).doubt
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert doctor.check_threads().doubt and "unset it" in doctor.check_threads().detail
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="cannot be written"):
        doctor.check_writable(tmp_path / "file" / "runs")


def test_nothing_is_made_and_all_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    items = doctor.diagnose(tmp_path / "runs", None)
    assert list(tmp_path.iterdir()) == []
    assert not any(item.error for item in items) and not all(item.doubt for item in items)
    assert {"python", "packages", "shared memory", "MLflow", "cluster"} <= {item.what for item in items}


def test_a_server_that_is_not_there_is_an_error_within_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(TrackingError, match="cannot be used"):
        probe_mlflow("http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:CANARY@127.0.0.1:9")
    wrong: list[Any] = [i.error for i in doctor.diagnose(tmp_path, None) if i.error]
    assert len(wrong) == 1 and "credentials" in str(wrong[0]) and "CANARY" not in str(wrong[0])
