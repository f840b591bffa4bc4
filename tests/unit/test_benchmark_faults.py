"""What the benchmark of faults makes of what its parts found, and the soak's way of comparing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.faults import lines_of
from benchmarks.soak_parts.compare import _losses
from benchmarks.soak_parts.world import World, run_tree, sweep_tree
from raykd.config.loading import validate_run
from raykd.tuning.config import load_sweep


def found(**changes: Any) -> dict[str, Any]:
    hit = {"fault": "driver killed", "kind": "train", "at": 5, "recovered_s": 9.0}
    other = {**hit, "recovered_s": 11.0}
    load = {
        "clients": 64, "requests": 1000, "seconds": 300.0, "p50_ms": 20.0, "p99_ms": 80.0, "lost": 0, "wrong": 0,
        "rows": 16000, "kills": 0,
    }  # fmt: skip
    return {
        "soak": {
            "seed": 3,
            "episodes": [
                {"hits": [hit, {**hit, "recovered_s": None}], "survived": True, "lost": []},
                {"hits": [other], "survived": False, "lost": []},
                {
                    "hits": [{**hit, "fault": "node lost", "recovered_s": 30.0}],
                    "survived": True,
                    "lost": ["x"],
                },
            ],
        },
        "bad_inputs": {"tried": {"a": 150, "b": 60}, "clear": {"a": 150, "b": 59}},
        "load": load,
        "load_kill": {**load, "kills": 9, "lost": 2},
        "fuzz": {
            "seed": 3,
            "one": {"executions": 1000, "faults": {}},
            "two": {"executions": 10, "faults": {"E": ""}},
        },
        **changes,
    }


def test_faults_are_counted_and_what_was_lost_is_not_hidden() -> None:
    lines = dict(lines_of(found()))
    assert lines["faults injected"] == "4 in 3 runs and sweeps, seed 3"
    assert lines["faults survived"] == "3" and lines["runs and sweeps with lost data"] == "2"
    assert lines["going on after: driver killed"] == "10.0 s, at most 11.0 s (2)"
    assert lines["going on after: node lost"] == "30.0 s, at most 30.0 s (1)"
    assert lines["bad inputs tried, answered clearly"] == "210, 209"
    assert lines["load: rows lost, wrong"] == "0, 0 of 16,000"
    assert lines["load with 9 kills: rows lost, wrong"] == "2, 0 of 16,000"
    assert lines["fuzzed inputs, faults"] == "1,010, 1"


def test_the_soaks_run_and_sweep_are_valid(tmp_path: Path) -> None:
    config = validate_run(run_tree(tmp_path), "the soak's run")
    assert config.train.steps is not None and config.train.steps < 400, "a point of the curve a step"
    path = tmp_path / "space.yaml"
    path.write_text(json.dumps(sweep_tree(tmp_path)), encoding="utf-8")
    assert load_sweep(path).trials == 5


def test_torn_lines_are_no_progress(tmp_path: Path) -> None:
    world = World(tmp_path)
    folder = world.runs / "one"
    folder.mkdir(parents=True)
    lines = [
        {"job": "student", "step": step, "time_ms": 0, "values": {"train/loss": step / 10}} for step in (1, 2)
    ]
    other = {"job": "teacher-one", "step": 40, "time_ms": 0, "values": {"train/loss": 1.0}}
    text = "".join(json.dumps(line) + "\n" for line in [*lines, other])
    (folder / "curves.jsonl").write_text(text + '{"job": "student", "ste', encoding="utf-8")
    assert world.progress("train", "one") == 2
    assert _losses(world, "one") == [(1, 0.1), (2, 0.2)]
