"""Make Ray Tune 2.60's pausing schedulers work with raykd's search algorithms.

Decision record, all found by running:

- Tune refuses a search algorithm beside PBT, because one that learns would get scores of samples that it did not
  choose. raykd's is `random` there and learns nothing, but it numbers the trials and restores those of an interrupted
  sweep. So the check, which looks at the controller's search algorithm, is given a controller without one.
- Tune sorts a population by score alone, and a copy continues at the step of the trial that it copied. With equal
  scores a trial copies one that is no better and may lose steps, and of several trials at one step Tune always runs the
  first of its list. Some trials never ended. Here a trial only copies if it is worse than all of the best, and trials
  at one step take turns.
- Tune's HyperBandScheduler fills its brackets with trials that wait to be started, but a search algorithm gives one at
  a time, so it never stopped a trial. Its variant for BOHB fills the largest bracket first, but pauses trials before
  the bracket is full, and reports every pause to the searcher, which only BOHB's own searcher understands.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import HyperBandForBOHB, MedianStoppingRule, PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.hyperband import _Bracket
from ray.tune.schedulers.pb2 import PB2

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController


class _Fair(PopulationBasedTraining):
    """A population whose first samples come from a search algorithm, and in which every trial ends."""

    _turns: int = 0
    """How many trials were chosen so far; a trial's own turn is the number of its last choice."""

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        without: Any = SimpleNamespace(search_alg=None)
        super().on_trial_add(without, trial)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """Return the waiting trial that has trained least; of equal ones the one that was chosen longest ago."""
        states: dict[Trial, Any] = self._trial_state
        waiting = [t for t in tune_controller.get_trials() if t.status in (Trial.PENDING, Trial.PAUSED)]
        if not waiting:
            return None
        chosen: Trial = min(waiting, key=lambda t: (states[t].last_train_time, getattr(states[t], "turn", 0)))
        self._turns += 1
        states[chosen].turn = self._turns
        return chosen

    def _quantiles(self) -> tuple[list[Trial], list[Trial]]:
        states: dict[Trial, Any] = self._trial_state
        lower, upper = super()._quantiles()
        return [t for t in lower if all(states[t].last_score < states[u].last_score for u in upper)], upper


class Population(_Fair):
    """Population based training."""


class BanditPopulation(_Fair, PB2):
    """Population based bandits."""


class _Quiet:
    """A controller whose search algorithm ignores pauses; everything else is the controller's own."""

    search_alg = SimpleNamespace(searcher=SimpleNamespace(on_pause=lambda trial_id: None))

    def __init__(self, controller: TuneController) -> None:
        self._controller = controller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controller, name)


class _FullBracket(_Bracket):
    """A bracket that is full once it has had its trials. Tune counts live trials and would refill it for ever."""

    def filled(self) -> bool:
        return len(self._all_trials) >= self._n0


class EagerHyperBand(HyperBandForBOHB):
    """Hyperband over trials that come one at a time; the best of a bracket run to their own end."""

    def _create_bracket(self, s: int) -> _Bracket:
        return _FullBracket(
            time_attr=self._time_attr,
            max_trials=self._get_n0(s),  # type: ignore[no-untyped-call]
            init_t_attr=self._get_r0(s),  # type: ignore[no-untyped-call]
            max_t_attr=self._max_t_attr,
            eta=self._eta,
            s=s,
            stop_last_trials=False,
        )

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        quiet: Any = _Quiet(tune_controller)
        return str(super().on_trial_result(quiet, trial, result))

    def _unpause_trial(self, tune_controller: TuneController, trial: Trial) -> None:
        """Do not report to the searcher."""


class _Name(str):
    """The name of a trial, in place of the trial."""

    @property
    def trial_id(self) -> str:
        return str(self)


class NamedMedian(MedianStoppingRule):
    """The median rule over trials by name, which skips results that a resumed trial reports again."""

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        name: Any = _Name(trial.trial_id)
        if self._known(name, result):
            return str(TrialScheduler.CONTINUE)
        decision = str(super().on_trial_result(tune_controller, name, result))
        # When a sweep is replayed, a trial that was stopped may have reported more results.
        self._stopped_trials.discard(name)
        return decision

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> None:
        name: Any = _Name(trial.trial_id)
        if not self._known(name, result):
            super().on_trial_complete(tune_controller, name, result)

    def _known(self, name: Any, result: dict[str, Any]) -> bool:
        before: list[dict[str, Any]] = self._results.get(name) or []
        return bool(before) and bool(before[-1][self._time_attr] >= result[self._time_attr])

    def _on_insufficient_samples(self, tune_controller: TuneController, trial: Trial, time: float) -> str:
        """Never pause a trial for one that waits, which gets its turn when another ends."""
        return str(TrialScheduler.CONTINUE)
