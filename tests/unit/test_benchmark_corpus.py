"""`benchmarks.corpus`: made rows are the same each time, private memory is seen, limits are judged."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.corpus import Command, Corpus, judge
from benchmarks.corpus_parts import rows as made
from benchmarks.corpus_parts.memory import MemoryWatch
from raykd.config.loading import load_run

HOLD = "import mmap, sys; held = b'x' * 60_000_000; print(); sys.stdin.read()"


def test_made_rows_are_a_function_of_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "SHARD", 40)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, other = (made.write_rows(tmp_path / name, 100) for name in ("a", "b"))
    assert [path.name for path in one] == [
        "train-000-40.jsonl", "train-001-40.jsonl", "train-002-20.jsonl"
    ]  # fmt: skip
    assert [path.read_text() for path in one] == [path.read_text() for path in other]
    found = [json.loads(line) for path in one for line in path.read_text().splitlines()]
    assert len({row["text"] for row in found}) == 100 and {row["label"] for row in found} == {
        "positive", "negative"
    }  # fmt: skip
    assert load_run(made.write_run(tmp_path / "a", 100, 5)).train.steps == 5


def test_private_memory_of_a_command_is_seen() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with MemoryWatch(process.pid) as watch:
        assert process.stdout is not None
        process.stdout.readline()
        watch.look()
        process.communicate("")
    assert 60e6 < watch.peaks["driver"] < 120e6


def test_limits_are_judged_against_the_small_corpus() -> None:
    def command(seconds: float, driver: float, worker: float = 0.0) -> Command:
        return Command(seconds, seconds, {"driver": driver * 1e6, "worker": worker * 1e6})

    run = command(60, 600, 500)
    small = Corpus(10_000, command(1, 90), run, run, (12.0, 8.0), Path("run"), None)
    large = replace(small, rows=1_000_000, first_step_s=(60.0, 11.9), inside=(9_000, 10_000, 0.99))
    assert all(kept for *_, kept in judge([small, large]))
    missed = replace(
        large, check=command(11, 501), first=command(60, 2001, 1501), first_step_s=(60.0, 12.1),
        inside=(7_900, 10_000, 0.96),
    )  # fmt: skip
    assert not any(kept for *_, kept in judge([small, missed]))
    middle = replace(large, rows=100_000)
    grown = replace(large, first=command(60, 701, 601))
    assert [line[0] for line in judge([small, middle, grown]) if not line[-1]] == [
        "100,000 to 1,000,000: driver grows by", "100,000 to 1,000,000: worker grows by"
    ]  # fmt: skip
