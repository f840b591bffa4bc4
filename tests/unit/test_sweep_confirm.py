"""What a confirmation trains: winner and default, with seeds that no trial of the sweep has had."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykd.config.loading import dump_run
from raykd.errors import ConfigError
from raykd.experiments.confirmation import FIRST_SEED, read_confirmation
from raykd.report.sweeps.axes import build_search_axes
from raykd.tuning.config import Sweep, dump_sweep, load_sweep
from raykd.tuning.journal import JOURNAL, Journal
from raykd.tuning.outcome import _notes, _report, build_best_run
from tests.worlds import run_config


def sweep_folder(folder: Path, **space: Any) -> tuple[Path, Sweep]:
    """A folder as a finished sweep leaves it."""
    base = run_config().model_dump(mode="json")
    tree = {"name": "s", "base": base, "space": {"objective": {"alpha": {"uniform": [0.1, 0.9]}}, **space}}
    path = folder / "space.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    plan = load_sweep(path)
    path.write_text(dump_sweep(plan), encoding="utf-8")
    return folder, plan


def test_seeds_of_trials_and_of_the_base_are_passed_over(tmp_path: Path) -> None:
    folder, plan = sweep_folder(tmp_path, seed={"randint": [FIRST_SEED - 1, FIRST_SEED + 3]})
    journal = Journal(folder / JOURNAL)
    for index, seed in enumerate((FIRST_SEED, FIRST_SEED + 2)):
        journal.record_begin(f"t{index}", index, {"objective.alpha": 0.5, "seed": seed}, "a")
    journal.trials["t0"].total_steps = 12
    (folder / "best.yaml").write_text(dump_run(build_best_run(plan, journal.trials["t0"])), encoding="utf-8")
    found = read_confirmation(folder, 3)
    assert found.seeds == (FIRST_SEED + 1, FIRST_SEED + 3, FIRST_SEED + 4)
    winner, default = found.arms
    assert default.run == plan.base and winner.run.objective.alpha.value_at(0.0) == 0.5
    assert (winner.name, default.name, found.baseline) == ("winner", "default", "default")
    assert (found.output, found.name) == (str(folder), "confirm")


@pytest.mark.parametrize("missing", ["space.yaml", "best.yaml"])
def test_a_folder_without_an_outcome_is_refused(tmp_path: Path, missing: str) -> None:
    sweep_folder(tmp_path)
    (tmp_path / "best.yaml").write_text("name: x")
    (tmp_path / missing).unlink()
    with pytest.raises(ConfigError, match=rf"holds no finished sweep[\s\S]*no {missing}"):
        read_confirmation(tmp_path, 2)


def test_the_best_run_holds_the_sample_and_a_populations_changes(tmp_path: Path) -> None:
    _, plan = sweep_folder(tmp_path, train={"learning_rate": {"log_uniform": [1e-4, 1e-1]}})
    journal = Journal(tmp_path / JOURNAL)
    first = {"objective.alpha": 0.25, "train.learning_rate": 0.01}
    journal.record_begin("t0", 0, first, "a")
    trial = journal.trials["t0"]
    trial.total_steps = 12
    run = build_best_run(plan, trial)
    assert (run.objective.alpha.value_at(0.5), run.train.learning_rate, run.phases) == (0.25, 0.01, ())
    assert run.name == "s-best" and run.train.steps == plan.base.train.steps
    trial.segments = [(0, first), (4, {"objective.alpha": 0.5, "train.learning_rate": 0.02})]
    run = build_best_run(plan, trial)
    (phase,) = run.phases
    assert round(phase.at * 12) == 4
    assert phase.set == {"objective": {"alpha": 0.5}, "train": {"learning_rate": 0.02}}
    assert (run.at_progress(0.2).train.learning_rate, run.at_progress(0.9).train.learning_rate) == (
        0.01,
        0.02,
    )


def test_what_a_time_budget_left_is_said(tmp_path: Path) -> None:
    _, plan = sweep_folder(tmp_path)
    journal = Journal(tmp_path / JOURNAL)
    for index in range(plan.trials):
        journal.record_begin(f"t{index}", index, {"objective.alpha": 0.25}, str(index))
        if index > 1:
            journal.record_end(f"t{index}", "finished")
    (note,) = _notes(plan, journal)
    assert note.startswith("2 trials were cut off") and "sweep s --resume" in note
    journal.record_end("t0", "finished")
    journal.record_end("t1", "failed", "no")
    (note,) = _notes(plan, journal)
    assert note.startswith("1 failed: raykd sweep s --resume tries failed trials again")


def test_a_domain_that_is_logarithmic_is_drawn_so(tmp_path: Path) -> None:
    _, plan = sweep_folder(tmp_path, train={"learning_rate": {"log_uniform": [0.001, 0.016]}})
    journal = Journal(tmp_path / JOURNAL)
    for index, rate in enumerate((0.001, 0.004, 0.016)):
        journal.record_begin(
            f"t{index}", index, {"objective.alpha": 0.1 * index, "train.learning_rate": rate}, "a"
        )
    folder: Any = SimpleNamespace(path=tmp_path, state={})
    tracker: Any = SimpleNamespace(run_id="r", uri="sqlite:///x")
    axes = {axis.key: axis for axis in build_search_axes(_report(plan, folder, journal, tracker, ""))}
    assert axes["train.learning_rate"].place({"train.learning_rate": 0.004}) == pytest.approx(0.5)
    assert axes["objective.alpha"].place({"objective.alpha": 0.1}) == pytest.approx(0.5)
