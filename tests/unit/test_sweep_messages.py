"""What is said of trials without a score: whole errors, and a next step that helps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.exceptions import RayActorError, RayTaskError

from raykd.errors import ConfigError
from raykd.tuning.journal import Journal
from raykd.tuning.messages import INVALID_RUN, build_no_score_error, format_trial_errors
from raykd.tuning.recording.callback import MAX_CAUSE_LENGTH, describe_cause

ERROR = ConfigError("train: two keys", got="batch_size 11", wanted="16", next_step="raise it")


def journal_of(folder: Path, *ends: tuple[str | None, str | None], rate: float = 1e30) -> Journal:
    journal = Journal(folder / "trials.jsonl")
    for at, (status, error) in enumerate(ends):
        journal.record_begin(f"t{at}", at, {"train.learning_rate": rate * (at + 1)}, f"x{at}")
        if status is not None:
            journal.record_end(f"t{at}", status, error)  # type: ignore[arg-type]
    return journal


def said(journal: Journal, folder: Path, budget: float | None = None) -> str:
    place: Any = SimpleNamespace(path=folder, log=folder / "log.txt")
    return str(build_no_score_error(journal, place, budget))


def test_every_line_of_an_error_is_kept(tmp_path: Path) -> None:
    whole = "ConfigError: train: two keys\n  got:    batch_size 11\n  wanted: 16\n  next:   raise it"
    assert describe_cause(ERROR) == whole
    task = RayTaskError("step", "Traceback (most recent call last):\n  ...", ERROR)
    assert describe_cause(task) == whole
    journal = journal_of(tmp_path, ("failed", describe_cause(ERROR)), ("failed", describe_cause(ERROR)))
    assert Journal(tmp_path / "trials.jsonl").trials["t0"].error == whole
    (line,) = format_trial_errors(journal.trials.values())
    assert line.startswith("t0, t1 failed: ConfigError: train: two keys") and "next:   raise it" in line
    assert "batch_size 11" in said(journal, tmp_path)


def test_an_error_of_the_infrastructure_is_kept_too() -> None:
    assert "The actor" in describe_cause(RayActorError()) and describe_cause(None).startswith(
        "the trial's process ended"
    )
    assert describe_cause(ValueError("\x1b[36mray::step\x1b[39m ended")) == "ValueError: ray::step ended"
    assert len(describe_cause(ValueError("x" * 100_000))) < MAX_CAUSE_LENGTH + 100


def test_diverged_trials_are_not_said_to_be_tried_again(tmp_path: Path) -> None:
    text = said(journal_of(tmp_path, ("diverged", "loss nan"), ("diverged", "loss nan")), tmp_path)
    assert "2 diverged: lower train.learning_rate (train.learning_rate 1e+30 to 2e+30 diverged)" in text
    assert "--resume does not try them again" in text and "tries failed" not in text


def test_a_setting_that_is_no_run_is_not_said_to_be_tried_again(tmp_path: Path) -> None:
    text = said(
        journal_of(
            tmp_path,
            ("failed", INVALID_RUN + "train.batch_size 8 is smaller"),
        ),
        tmp_path,
    )
    assert "1 could not be made into a run: leave out values" in text and "tries failed trials" not in text


def test_failed_trials_are(tmp_path: Path) -> None:
    text = said(journal_of(tmp_path, ("failed", "no"), ("diverged", "nan")), tmp_path)
    assert (
        f"1 failed: raykd sweep {tmp_path} --resume tries failed trials again" in text
        and "1 diverged" in text
    )


def test_a_budget_that_was_over_too_early_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    for ends in ((), ((None, None), (None, None))):
        folder = tmp_path / str(len(ends))
        folder.mkdir()
        text = said(journal_of(folder, *ends), folder, budget=3.0)
        assert "time_budget_s 3 was over before the first score" in text
        assert f"raykd sweep {folder} --resume time_budget_s=60 goes on" in text
