"""The run folder's state, its log, its curves and its checkpoints, without Ray."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from raykd.errors import ConfigError
from raykd.point import Point
from raykd.runs.checkpoints import newest, next_start, problem, write_manifest
from raykd.runs.curves import Curves
from raykd.runs.folder import finished_before, log_to_file, look_at_folder, open_folder
from tests.worlds import run_config


def opened(tmp_path: Path, **flags: bool):  # type: ignore[no-untyped-def]
    config = run_config().model_copy(update={"output": str(tmp_path), **flags.pop("changes", {})})  # type: ignore[dict-item]
    return config, open_folder(
        config, "rows", {}, resume=flags.get("resume", False), overwrite=flags.get("overwrite", False)
    )


def test_a_run_that_never_started_leaves_no_folder_and_a_started_one_stays(tmp_path: Path) -> None:
    _, folder = opened(tmp_path)
    folder.give_up("failed")
    assert not folder.path.exists()
    _, folder = opened(tmp_path)
    folder.write_state(mlflow_run_id="abc")
    folder.give_up("failed")
    assert json.loads((folder.path / "run.json").read_text("utf-8"))["status"] == "failed"
    _, again = opened(tmp_path, resume=True)
    assert again.state["mlflow_run_id"] == "abc" and not replace(again, state={}).fresh
    again.give_up("failed")
    assert again.path.exists()


def test_a_run_goes_on_over_the_rows_it_began_with(tmp_path: Path) -> None:
    config, _ = opened(tmp_path)
    with pytest.raises(ConfigError, match="the data have changed"):
        open_folder(config, "other rows", {}, resume=True, overwrite=False)
    assert open_folder(config, "other rows", {}, resume=False, overwrite=True).state["data"] == "other rows"


def test_looking_changes_nothing(tmp_path: Path) -> None:
    config, folder = opened(tmp_path)
    before = (folder.path / "run.json").read_bytes()
    look_at_folder(config, resume=False, overwrite=True)
    assert (folder.path / "run.json").read_bytes() == before


def test_a_finished_run_is_known_by_its_configuration(tmp_path: Path) -> None:
    config, folder = opened(tmp_path)
    assert finished_before(config) is None
    (folder.path / "results.md").write_text("| a |", encoding="utf-8")
    folder.write_state(status="finished", lines=["report x"])
    found = finished_before(config)
    assert found is not None and found.text == "| a |" and found.lines == ("report x",)
    assert finished_before(config.model_copy(update={"seed": 9})) is None


def test_zero_checkpoints_belong_to_their_number_of_workers(tmp_path: Path) -> None:
    def run(workers: int, stage: int, resume: bool) -> None:
        config = run_config(zero_stage=stage)
        sized = config.workers.model_copy(update={"num_workers": workers})
        config = config.model_copy(update={"output": str(tmp_path), "name": f"z{stage}", "workers": sized})
        open_folder(config, "rows", {}, resume=resume, overwrite=False)

    run(2, 1, False)
    with pytest.raises(ConfigError, match=r"ZeRO 1[\s\S]*num_workers 1"):
        run(1, 1, True)
    run(2, 1, True)
    run(2, 0, False)
    run(1, 0, True)


def test_the_log_takes_warnings_hides_secrets_and_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    level = root.level
    with log_to_file(tmp_path / "log.txt"), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        logging.getLogger("any").info("to http://bob:CANARY@host")
        warnings.warn("a library's chatter", UserWarning, stacklevel=1)
    logging.getLogger("any").warning("after")
    text = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "CANARY" not in text and "http://***@host" in text and "chatter" in text and "after" not in text
    assert root.handlers == before and root.level == level


def test_a_point_that_comes_again_counts_once_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    curves = Curves(path)
    assert curves.add("student", Point(1, {"loss": 0.5, "odd": float("nan")})) is not None
    assert curves.add("student", Point(2, {"loss": 0.4})) is not None
    assert curves.add("baseline", Point(1, {"loss": 0.5})) is not None
    with path.open("a", encoding="utf-8") as file:
        file.write('{"job": "student", "st')
    again = Curves(path)
    assert [p.step for p in again.by_job["student"]] == [1, 2]
    assert again.by_job["student"][0].time_ms == curves.by_job["student"][0].time_ms
    assert again.add("student", Point(2, {"loss": 0.1})) is None
    fresh = again.add("student", Point(2, {"loss": 0.1, "accuracy": 0.9}))
    assert fresh is not None and fresh.values == {"accuracy": 0.9}


def checkpoint(storage: Path, start: str, name: str, ranks: int = 2) -> Path:
    folder = storage / start / f"checkpoint_{name}"
    for rank in range(ranks):
        part = folder / f"rank-{rank}"
        part.mkdir(parents=True)
        (part / "weights").write_bytes(bytes([rank]) * 100)
        alone = folder / f"of-{rank}"
        alone.mkdir()
        (alone / "engine").write_bytes(b"x" * 50)
        write_manifest(alone, rank, ranks)
        (alone / f"manifest-{rank}.json").rename(folder / f"manifest-{rank}.json")
        (alone / "engine").rename(folder / "engine")
    return folder


@pytest.mark.parametrize("harm", ["cut", "flip", "missing", "part", "manifest", "torn manifest"])
def test_a_checkpoint_that_is_not_whole_is_passed_over(harm: str, tmp_path: Path) -> None:
    good = checkpoint(tmp_path, "student-1", "2026-01-01")
    newer = checkpoint(tmp_path, "student-2", "2026-01-02")
    assert newest(tmp_path, "student") == newer and problem(newer) is None
    engine = newer / "engine"
    if harm == "cut":
        engine.write_bytes(b"x" * 20)
    if harm == "flip":
        engine.write_bytes(b"x" * 49 + b"y")
    if harm == "missing":
        engine.unlink()
    if harm == "part":
        (newer / "manifest-1.json").unlink()
    if harm == "manifest":
        for path in newer.glob("manifest-*"):
            path.unlink()
    if harm == "torn manifest":
        (newer / "manifest-0.json").write_text("", encoding="utf-8")
    assert problem(newer) is not None
    assert newest(tmp_path, "student") == good


def test_each_start_has_a_folder_of_its_own_and_old_ones_go(tmp_path: Path) -> None:
    assert newest(tmp_path, "student") is None and next_start(tmp_path, "student", None) == "student-1"
    checkpoint(tmp_path, "student-1", "2026-01-01")
    kept = checkpoint(tmp_path, "student-2", "2026-01-02")
    (tmp_path / "student-copy").mkdir()
    assert next_start(tmp_path, "student", newest(tmp_path, "student")) == "student-3"
    assert kept.exists() and not (tmp_path / "student-1").exists() and (tmp_path / "student-copy").exists()
