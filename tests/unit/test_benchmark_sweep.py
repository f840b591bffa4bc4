"""What the sweep benchmark makes of a journal and of its walls."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sweep
from benchmarks.sweep_parts.arms import Follower
from benchmarks.sweep_parts.setting import Setting, run_tree, sweep_tree
from benchmarks.sweep_parts.trials import on_the_line, times_of
from raykd.config import RunConfig


def begin(at: float, name: str) -> dict[str, Any]:
    return {"seen": at, "event": "begin", "name": name}


def result(at: float, name: str, trained_s: float) -> dict[str, Any]:
    return {"seen": at, "event": "result", "name": name, "trained_s": trained_s}


def end(at: float, name: str, status: str = "finished") -> dict[str, Any]:
    return {"seen": at, "event": "end", "name": name, "status": status}


def test_times_of_trials_in_two_slots() -> None:
    events = [
        begin(0.0, "a"), begin(0.0, "b"),
        result(10.0, "a", 2.0), result(12.5, "a", 2.0), end(12.6, "a"),
        begin(12.7, "c"),  # takes the place of a: its last training ended at 12.5
        result(13.0, "b", 4.0), end(13.1, "b", "failed"),
        begin(13.2, "d"),  # takes the place of b
        result(16.0, "c", 3.0), result(19.1, "c", 3.0), end(19.1, "c"),
        result(17.5, "d", 3.5), end(17.6, "d"),
    ]  # fmt: skip
    times = times_of(events, slots=2)
    assert times.start_up == pytest.approx([13.0 - 12.7, 14.0 - 13.2])
    assert times.between == pytest.approx([13.0 - 12.5, 14.0 - 13.0])
    assert times.waits == pytest.approx([0.5, 0.1])
    assert times.trained == pytest.approx(2 + 2 + 4 + 3 + 3 + 3.5)
    assert times.failed == 1


def test_a_number_of_trials_that_was_measured_is_not_taken_from_the_line() -> None:
    walls = {4: 50.0, 8: 90.0}
    assert on_the_line(walls, 8) == 90.0
    assert on_the_line(walls, 32) == pytest.approx(330.0)
    with pytest.raises(ValueError, match="two points"):
        on_the_line({4: 50.0}, 8)


def test_a_follower_gives_whole_new_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(json.dumps({"event": "begin", "name": "old"}) + "\n", encoding="utf-8")
    follower = Follower(path)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event": "begin", "name": "a"}\n{"event": "res')
        file.flush()
        follower.look()
        assert [e["name"] for e in follower.events] == ["a"]
        file.write('ult", "name": "a"}\n')
    follower.look()
    assert [e["event"] for e in follower.events] == ["begin", "result"]


def test_both_files_of_the_raykd_arm_are_valid(tmp_path: Path) -> None:
    setting = Setting(tmp_path, tmp_path, steps=12)
    config = RunConfig.model_validate(run_tree(setting, tmp_path / "out"))
    assert setting.texts * 2 == config.train.steps * config.train.batch_size  # type: ignore[operator]
    assert sum(t.actor.num_cpus * t.actor.replicas for t in config.teachers) <= setting.cores
    assert sweep_tree(setting, "sweep-8", 8, tmp_path)["num_samples"] == 8


def test_each_start_makes_one_missing_measurement_and_large_sweeps_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"wall": 1.0, "own_cpu": 2.0, "noisy": False}
    monkeypatch.setattr(sweep.arms, "served", lambda setting, name, trials, output: {**run, "trials": trials})
    monkeypatch.setattr(sweep.arms, "plain", lambda setting, trials: run)
    monkeypatch.setattr(sweep, "_inside", lambda options, setting, parts: dict.fromkeys(parts, run))
    options = Namespace(trials=[8, 256], plain_trials=[4], repeats=2, one=True)
    setting = Setting(tmp_path, tmp_path)

    def start() -> tuple[int, dict[str, Any]]:
        kept = sweep.Measurements(tmp_path / "results.json", setting, keep=True)
        return sweep.measure(options, kept, {"raykd", "plain", "bare", "step"}), kept.found

    assert [start()[0] for _ in range(6)] == [5, 4, 3, 2, 1, 0]
    left, found = start()
    assert left == 0
    assert {n: len(runs) for n, runs in found["raykd"].items()} == {"8": 2, "256": 1}
    assert set(found) == {"raykd", "plain", "bare", "step"}
