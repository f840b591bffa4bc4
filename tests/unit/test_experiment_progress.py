"""What a person sees while an experiment runs, and what `raykd check` says of one before."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import raykd
from raykd.config.loading import load_run
from raykd.experiments.progress import ArmProgress
from raykd.report.sweeps.trials import Evaluation, Status, TrialRow
from raykd.timeline.progress import format_seconds, show_progress
from tests.unit.test_cli_bad_input import tree


def training(arm: str, seed: int, score: float, status: Status = "finished") -> TrialRow:
    evaluations = (Evaluation(1, 10, score, 0.5),)
    return TrialRow(f"{arm}-seed{seed}", status, {"arm": arm, "seed": seed}, evaluations, 10, 2.0)


def shown(progress: ArmProgress) -> list[str]:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(progress.draw())
    return [" ".join(line.split()) for line in console.export_text().splitlines()]


def test_the_table_fills_up_with_validation_scores_and_means_of_finished_trainings() -> None:
    console = Console(file=io.StringIO(), width=100)
    progress = ArmProgress(console, "accuracy", 4, {}, arms=["base", "only_en"], seeds=[1, 2])
    assert "base · · –" in shown(progress)
    progress.add_earlier(training("base", 1, 0.8))
    progress.add_trial("base-seed2")
    progress.update_trial(training("base", 2, 0.7, "cut off"))
    progress.finish_trial(training("only_en", 1, 0.6))
    lines = shown(progress)
    assert "arm seed 1 seed 2 mean" in lines
    assert "base 80.00 70.00 80.00" in lines, "a training that goes on does not count in the mean"
    assert "only_en 60.00 · 60.00" in lines
    progress.finish_trial(training("base", 2, 0.9))
    assert "base 80.00 90.00 85.00" in shown(progress)
    progress.finish_trial(training("only_en", 2, 0.0, "failed"))
    assert "only_en 60.00 failed 60.00" in shown(progress)


def test_without_a_terminal_every_finished_training_is_a_line() -> None:
    out = io.StringIO()
    progress = ArmProgress(Console(file=out, width=100), "accuracy", 2, {}, arms=["base"], seeds=[1])
    progress.finish_trial(training("base", 1, 0.8125))
    assert out.getvalue() == "  base-seed1 finished: accuracy 0.8125, 2.0 s\n"


def test_a_check_looks_at_every_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = {
        "base": {**tree(tmp_path), "teachers": [], "objective": {"alpha": 1.0}},
        "arms": {"small": {"train": {"batch_size": 2}}, "large": {"train": {"batch_size": 100_000}}},
        "seeds": 1,
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps(experiment), encoding="utf-8")
    found = {finding.what: finding for finding in raykd.check(path)}
    assert found["experiment"].detail.startswith("3 arms x 1 seeds, 3 trainings")
    assert "one seed has no interval" in found["seeds"].detail
    error = str(found["arms"].error)
    assert "1 of 3 arms cannot be trained: large" in error and "a batch is larger" in error


def test_a_plan_counts_trainings_and_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = {**tree(tmp_path), "teachers": [], "objective": {"alpha": 1.0}}
    experiment = {"base": base, "generate": [{"sizes": [0.5]}], "seeds": 3}
    path = tmp_path / "experiment.yaml"
    path.write_text(json.dumps(experiment), encoding="utf-8")
    steps = load_run(base).train.steps
    found = {item.what: item for item in raykd.plan(path)}
    assert found["trainings"].detail == f"2 arms x 3 seeds = 6 x {steps} steps = {6 * (steps or 0)} steps"
    assert "trials at once" in found


def test_trainings_of_seeds_that_are_not_asked_for_any_more_do_not_count() -> None:
    console = Console(file=io.StringIO(), width=100)
    progress = ArmProgress(console, "accuracy", 7, {}, arms=["base"], seeds=[1, 2])
    progress.add_earlier(training("base", 1, 0.8))
    progress.add_earlier(training("base", 3, 0.1))
    progress.add_earlier(training("gone", 1, 0.1))
    assert "base 80.00 · 80.00" in shown(progress) and any("1/2" in line for line in shown(progress))


def test_what_is_slow_shows_how_many_are_done_and_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("raykd.timeline.progress.time.monotonic", lambda: now[0])
    out = io.StringIO()
    with show_progress(Console(file=out, width=200), "students are scored", "students") as report:
        for at, done in ((0.0, 0), (50.0, 1), (100.0, 2)):
            now[0] = at
            report(done, 12)
    assert out.getvalue().splitlines() == [
        "students are scored: 0 of 12",
        "students are scored: 1 of 12, about 9 min left",
        "students are scored: 2 of 12, about 8 min left",
    ]
    out = io.StringIO()
    with show_progress(Console(file=out, width=200), "texts") as report:
        for at, done in ((200.0, 0), (220.0, 1000)):
            now[0] = at
            report(done, 3000)
    assert out.getvalue().splitlines()[-1] == "texts: 1,000 of 3,000, 50 texts/s, about 40 s left"
    assert format_seconds(9000.0) == "2.5 h"
    out = io.StringIO()
    with show_progress(Console(file=out, width=200), "copies") as report:
        for at, done, cached in ((300.0, 512, 512), (320.0, 1536, 1024), (340.0, 2048, 1024)):
            now[0] = at
            report(done, 2048, cached)
    assert out.getvalue().splitlines() == [
        "copies: 512 of 2,048, 512 from the cache",
        "copies: 1,536 of 2,048, 1,024 from the cache, 26 texts/s, about 20 s left",
        "copies: 2,048 of 2,048, 1,024 from the cache, 26 texts/s",
    ]
