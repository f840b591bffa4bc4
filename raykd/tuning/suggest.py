"""Trials as Tune asks for them: what a killed sweep left first, then what the sampler draws.

Decision record: Tune's searchers keep their knowledge in pickles and forget the scheduler's on a resume. Here the
journal is the knowledge: the sampler is told every earlier trial, an asynchronous scheduler sees the earlier results
again before the first new one, and a trial that was not over comes back with its own sample and checkpoint folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from raykd.compat.tune_searcher import read_searcher_state
from raykd.errors import RaykdError
from raykd.spaces.search import Sampler
from raykd.tasks.scores.ranking import round_score
from raykd.tuning.journal import Journal, Trial
from raykd.tuning.trial import RESUMED_FROM


class EarlierTrial:
    """A trial of an earlier start, as far as schedulers look at one."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id
        self.status = "TERMINATED"

    def is_finished(self) -> bool:
        """It will report no more."""
        return True


class Suggestions(Searcher):
    """The trials of one start of a sweep.

    Args:
        scheduler: Takes earlier results again, if it judges trials as they come; None where it does not.
        on_begin: Called with each trial's name and Tune's name for it.
        check: Raises RaykdError where a sample can be no run.
        on_refusal: Called with the name of such a trial and the error; it fails before a process is asked.
    """

    def __init__(
        self,
        sampler: Sampler,
        journal: Journal,
        *,
        num_samples: int,
        folder: Path,
        scheduler: Any,
        mode: str,
        on_begin: Callable[[str, str], None],
        check: Callable[[Mapping[str, Any]], None],
        on_refusal: Callable[[str, RaykdError], None],
    ) -> None:
        super().__init__(metric="objective", mode=mode)
        self._sampler, self._journal, self._scheduler = sampler, journal, scheduler
        self._num_samples, self._folder, self._on_begin = num_samples, folder, on_begin
        self._check, self._on_refusal = check, on_refusal
        self._going_on = list(journal.unfinished)
        self._index: dict[str, int] = {}
        self._objective: dict[str, float] = {}
        self._next = journal.next_index
        for trial in sorted(journal.trials.values(), key=lambda t: t.index):
            over = trial.status is not None and trial.status != "failed"
            score = None if trial.status in ("failed", "diverged") else trial.objective
            first = trial.segments[0][1] if trial.segments else trial.sample
            sampler.restore(trial.index, first, score, finished=over)
            if over:
                self._replay(trial, trial.tune_ids[-1])

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial's configuration for Tune, or that there is none left."""
        while self._going_on:
            trial = self._going_on.pop(0)
            earlier = trial.tune_ids[-1]
            if self._begin(trial.name, trial.index, trial.sample, trial_id):
                self._replay(trial, trial_id)
                return {**trial.sample, RESUMED_FROM: str(self._folder / earlier)}
        while self._next < self._num_samples:
            sample = self._sampler.ask(self._next)
            if sample is None:
                return Searcher.FINISHED
            self._next += 1
            if self._begin(f"t{self._next - 1:04d}", self._next - 1, sample, trial_id):
                return {**sample, RESUMED_FROM: ""}
        return Searcher.FINISHED

    def _begin(self, name: str, index: int, sample: Mapping[str, Any], trial_id: str) -> bool:
        """Note a trial; whether it can be run. One that cannot has failed, and Tune never hears of it."""
        try:
            self._check(sample)
        except RaykdError as error:
            self._journal.record_begin(
                name, index, sample, f"{name}-refused"
            )  # Tune's name goes to the next one
            self._on_refusal(name, error)
            self._sampler.tell(index, None)
            return False
        self._journal.record_begin(name, index, sample, trial_id)
        self._index[trial_id] = index
        self._on_begin(name, trial_id)
        return True

    def _replay(self, trial: Trial, trial_id: str) -> None:
        """Show the scheduler what a trial reported before; its decisions are past."""
        if self._scheduler is None:
            return
        stand_in = EarlierTrial(trial_id)
        self._scheduler.on_trial_add(None, stand_in)
        best = None
        for number in sorted(trial.evaluations):
            score = trial.evaluations[number].score
            if not math.isfinite(score):
                continue
            score = round_score(score)
            best = score if best is None else (max if self.mode == "max" else min)(best, score)
            self._scheduler.on_trial_result(None, stand_in, {"evaluation": number, "objective": best})

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hand a score on to the sampler."""
        self._objective[trial_id] = float(result["objective"])
        self._sampler.report(self._index[trial_id], int(result["evaluation"]), self._objective[trial_id])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Hand the outcome on to the sampler; Tune gives no result of a trial that is stopped while paused."""
        score = self._objective.get(trial_id) if result is None else float(result["objective"])
        failed = error or (result is not None and bool(result.get("diverged")))
        self._sampler.tell(self._index[trial_id], None if failed else score)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it is given; files and locks stay here."""
        return read_searcher_state(self)
