"""Hand out trials to Tune: first those that an interrupted sweep left unfinished, then new samples.

Decision record: Tune's searchers pickle their knowledge, and on a resume the scheduler's is lost. Here everything
comes from the journal. The sampler is told every earlier trial, an asynchronous scheduler sees the earlier results
again before the first new one, and an unfinished trial returns with its own sample and checkpoint folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from raykd.compat.tune_searcher import read_searcher_state
from raykd.errors import RaykdError
from raykd.spaces.domains import Scalar
from raykd.spaces.search import Mode, Sampler
from raykd.tasks.scores.ranking import round_score
from raykd.tuning.journal import Journal, Trial
from raykd.tuning.trial import RESUMED_FROM


class EarlierTrial:
    """A trial of an earlier start, with the attributes that schedulers read."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id
        self.status = "TERMINATED"

    def is_finished(self) -> bool:
        """Return True: it reports nothing more."""
        return True


class Suggestions(Searcher):
    """The trials of one start of a sweep.

    Args:
        sampler: Chooses new samples.
        journal: The trials of earlier starts; new trials are recorded in it.
        num_samples: Number of samples over all starts.
        folder: Where each trial has its folder of checkpoints, by Tune's name.
        scheduler: Shown the earlier results again if it compares trials as they report; None for any other.
        mode: Direction of the score.
        on_begin: Called with each trial's name and Tune's name for it.
        check: Raises RaykdError for a sample that cannot be run.
        on_refusal: Called with the name of such a trial and the error. The trial fails without taking a process.
    """

    def __init__(
        self,
        sampler: Sampler,
        journal: Journal,
        *,
        num_samples: int,
        folder: Path,
        scheduler: Any,
        mode: Mode,
        on_begin: Callable[[str, str], None],
        check: Callable[[Mapping[str, Scalar]], None],
        on_refusal: Callable[[str, RaykdError], None],
    ) -> None:
        super().__init__(metric="objective", mode=mode)
        self._sampler, self._journal, self._scheduler = sampler, journal, scheduler
        self._num_samples, self._folder, self._on_begin = num_samples, folder, on_begin
        self._check, self._on_refusal = check, on_refusal
        self._unfinished = [trial for trial in journal.unfinished if sampler.is_wanted(trial.sample)]
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
        """Return the next trial's configuration for Tune, or `Searcher.FINISHED`."""
        while self._unfinished:
            trial = self._unfinished.pop(0)
            earlier = trial.tune_ids[-1]
            if self._begin(trial.name, trial.index, trial.sample, trial_id):
                self._replay(trial, trial_id)
                return {**trial.sample, RESUMED_FROM: str(self._folder / earlier)}
        while self._next < self._num_samples:
            sample = self._sampler.ask(self._next)
            if sample is None:
                return Searcher.FINISHED
            self._next += 1
            name = self._sampler.name_trial(self._next - 1, sample)
            if self._begin(name, self._next - 1, sample, trial_id):
                return {**sample, RESUMED_FROM: ""}
        return Searcher.FINISHED

    def _begin(self, name: str, index: int, sample: Mapping[str, Scalar], trial_id: str) -> bool:
        """Record a trial and return whether it can be run. One that cannot fails here, and Tune never sees it."""
        try:
            self._check(sample)
        except RaykdError as error:
            self._journal.record_begin(
                name, index, sample, f"{name}-refused"
            )  # Tune's name is used by the next trial
            self._on_refusal(name, error)
            self._sampler.tell(index, None)
            return False
        self._journal.record_begin(name, index, sample, trial_id)
        self._index[trial_id] = index
        self._on_begin(name, trial_id)
        return True

    def _replay(self, trial: Trial, trial_id: str) -> None:
        """Show the scheduler what a trial reported before. Its decisions then are ignored."""
        if self._scheduler is None:
            return
        stand_in = EarlierTrial(trial_id)
        self._scheduler.on_trial_add(None, stand_in)
        best = None
        for number in sorted(trial.evaluations):
            score = trial.evaluations[number].score
            if not math.isfinite(score):
                continue
            better = max if self.mode == "max" else min
            best = round_score(score) if best is None else better(best, round_score(score))
            self._scheduler.on_trial_result(None, stand_in, {"evaluation": number, "objective": best})

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report a score to the sampler."""
        self._objective[trial_id] = float(result["objective"])
        self._sampler.report(self._index[trial_id], int(result["evaluation"]), self._objective[trial_id])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report the end of a trial to the sampler. Tune gives no result for a trial that is stopped while paused."""
        score = self._objective.get(trial_id) if result is None else float(result["objective"])
        failed = error or (result is not None and bool(result.get("diverged")))
        self._sampler.tell(self._index[trial_id], None if failed else score)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the journal has everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the journal has everything."""

    def __getstate__(self) -> dict[str, Any]:
        """Keep files and locks out of the pickle that Tune makes."""
        return read_searcher_state(self)
