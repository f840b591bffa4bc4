"""A sample of the generator of bad inputs: each is answered clearly."""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.bad_inputs import tried
from benchmarks.bad_parts import configs, contents
from benchmarks.bad_parts.setting import Case, good_run, written
from raykd.config.loading import load_any_run

SAMPLE = 70


def test_a_sample_of_bad_inputs_is_answered_clearly(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "d").mkdir()
    cases = [*configs.cases(tmp_path / "c"), *contents._data(tmp_path / "d")]
    names = [(case.kind, case.name) for case in cases]
    assert len(cases) >= 200 and len(set(names)) == len(names)
    cases = [case for case in cases if case.name not in ("too many values", "too large")]  # a second each
    verdicts = [tried(case) for case in random.Random(3).sample(cases, SAMPLE)]
    assert [(v.kind, v.name, v.fault) for v in verdicts if v.fault is not None] == []


def test_what_is_good_is_not_called_bad(tmp_path: Path) -> None:
    path = written(tmp_path, "good", good_run(tmp_path))
    assert load_any_run(path).name == "good"
    assert tried(Case("run file", "good", lambda: load_any_run(path))).fault == "it was accepted"
