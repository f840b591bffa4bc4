"""Tune's schedulers that put trials aside, as they work beside our sampler.

Decision record, all found by running:

- Tune refuses a search algorithm beside PBT, because one that learns would be told scores of samples that it did not
  choose. Ours is `random` there and learns nothing, and it is what numbers the trials and brings back those of a
  sweep that was cut off; so the check, which looks at the controller's search algorithm, is shown none.
- Tune sorts a population by score alone and gives a copy the step of what it copied. Where trials score alike one that
  is no worse copies another and may go back with it, and of trials at the same step the first of the list is always
  run: some never came to their end. Here only a trial that is worse than each of the best copies one, and trials at
  the same step take turns.
- Tune's HyperBandScheduler fills its brackets with trials that wait to be started, and a search algorithm gives one
  at a time: it never stopped a trial. The variant that Tune has for BOHB fills the largest bracket first and puts
  trials aside before it is full; it tells the searcher of every pause, which only BOHB's own understands.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import HyperBandForBOHB, MedianStoppingRule, PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.hyperband import _Bracket
from ray.tune.schedulers.pb2 import PB2


class _Fair:
    """A population whose first samples are a search algorithm's, and in which every trial comes to its end."""

    _turns: int = 0
    """How often a trial was chosen; a trial's own turn is the number of its last time."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)  # type: ignore[misc]

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the waiting trial that has been trained least; of equal ones the one that was chosen longest ago."""
        states: Any = self._trial_state  # type: ignore[attr-defined]
        waiting = [t for t in tune_controller.get_trials() if t.status in (Trial.PENDING, Trial.PAUSED)]
        if not waiting:
            return None
        chosen = min(waiting, key=lambda t: (states[t].last_train_time, getattr(states[t], "turn", 0)))
        self._turns += 1
        states[chosen].turn = self._turns
        return chosen

    def _quantiles(self) -> tuple[list[Any], list[Any]]:
        states: Any = self._trial_state  # type: ignore[attr-defined]
        lower, upper = super()._quantiles()  # type: ignore[misc]
        return [t for t in lower if all(states[t].last_score < states[u].last_score for u in upper)], upper


class Population(_Fair, PopulationBasedTraining):
    """Population based training."""


class BanditPopulation(_Fair, PB2):
    """Population based bandits."""


class _Quiet:
    """A controller whose search algorithm does not mind pauses; everything else is the controller's own."""

    search_alg = SimpleNamespace(searcher=SimpleNamespace(on_pause=lambda trial_id: None))

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controller, name)


class _FullBracket(_Bracket):
    """A bracket that is full once it has had its trials; Tune counts live ones, and refills for ever."""

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

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        quiet: Any = _Quiet(tune_controller)
        return str(super().on_trial_result(quiet, trial, result))

    def _unpause_trial(self, tune_controller: Any, trial: Any) -> None:
        """The searcher is not told."""


class _Name(str):
    """A trial as `NamedMedian` knows it."""

    @property
    def trial_id(self) -> str:
        return str(self)


class NamedMedian(MedianStoppingRule):
    """The median rule over trials by name; what a trial reports again is passed over."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name: Any = _Name(trial.trial_id)
        if self._known(name, result):
            return str(TrialScheduler.CONTINUE)
        decision = str(super().on_trial_result(tune_controller, name, result))
        self._stopped_trials.discard(name)  # in a replay a decision is past, and more results follow
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        name: Any = _Name(trial.trial_id)
        if not self._known(name, result):
            super().on_trial_complete(tune_controller, name, result)

    def _known(self, name: Any, result: dict[str, Any]) -> bool:
        before: list[dict[str, Any]] = self._results.get(name) or []
        return bool(before) and bool(before[-1][self._time_attr] >= result[self._time_attr])

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        """Trials that wait have their turn when one ends; none is put aside for them."""
        return str(TrialScheduler.CONTINUE)
