"""What the benchmark of starting reads from a run, and in which order it fills and uses the cache."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.start import GOALS, GROUPS, RATIO, Bench, list_arms, read_first_step


def test_the_first_step_is_the_earliest_point_with_a_loss(tmp_path: Path) -> None:
    rows = [
        {"step": 0, "time_ms": 1_000, "values": {"eval/mean/nll": 0.7}},
        {"step": 2, "time_ms": 3_500, "values": {"train/loss": 0.6}},
        {"step": 1, "time_ms": 2_500, "values": {"train/loss": 0.7}},
    ]
    (tmp_path / "curves.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_first_step(tmp_path) == 2.5


def test_what_is_known_follows_what_fills_the_cache(tmp_path: Path) -> None:
    arms = list(list_arms(Bench(tmp_path), list(GROUPS)))
    for known in ("check, known", "check models, known"):
        assert arms[arms.index(known) - 1] == known.replace("known", "unknown")
    assert {*GOALS, *RATIO} <= set(arms)
    assert arms.index("train, first step") > arms.index("check models, known")
