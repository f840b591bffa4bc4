"""Searchers: who chooses the next trial's sample.

Decision record: a sampler is ours and knows no Ray (`ask`, `report`, `tell`, `restore`), so that a sweep that was cut
off is told again what is known and goes on. Optuna is used directly and define-by-run, so a domain inside an option is
suggested only where the option was chosen; through Tune's own adapter such a domain comes back unsampled, silently.
Optuna's sampler is made anew for each trial from (seed, index), since a restored one would otherwise begin its stream
of random numbers again and repeat its first trials. optuna and ray are imported where they are used.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from raykd.errors import ConfigError
from raykd.spec import Spec
from raykd.sweep.domains import Choice, LogUniform, RandInt, Scalar
from raykd.sweep.space import Dimension, Sample, Space

Mode = Literal["max", "min"]
"""Direction of a score."""

SCORE = "objective"
"""What searchers and schedulers of Tune call a trial's score: the best of its evaluations, as scores are compared."""
NOW = "now"
"""What a population is judged by: the score of the last evaluation."""


class Sampler(Protocol):
    """Chooses samples one after the other; trials are counted from 0."""

    def ask(self, index: int) -> Sample | None:
        """The sample of trial ``index``; None if there are no more trials. Asked once a trial, in order."""

    def report(self, index: int, evaluation: int, score: float) -> None:
        """A trial's score at an evaluation (from 1)."""

    def tell(self, index: int, score: float | None) -> None:
        """A trial ended, with its score or None if it failed."""

    def restore(self, index: int, sample: Mapping[str, Scalar], score: float | None, finished: bool) -> None:
        """A trial of an earlier part of this sweep, told in order before the first `ask`.

        An unfinished one goes on, and is told later.
        """


class Random(Spec):
    """Every trial is drawn by itself: a function of (seed, index)."""

    kind: Literal["random"] = "random"
    seed: int = Field(0, ge=0)

    def sampler(self, space: Space, mode: Mode, trials: int) -> Sampler:
        """A sampler of so many trials."""
        return _Drawn(space, self.seed, trials)


class GridSearch(Spec):
    """All points of all grids crossed, ``num_samples`` times; domains that are no grids are drawn anew each time."""

    kind: Literal["grid"] = "grid"
    seed: int = Field(0, ge=0)

    def sampler(self, space: Space, mode: Mode, trials: int) -> Sampler:
        """A sampler of so many trials; `Sweep.trials` is the grid's size times its repeats."""
        return _Drawn(space, self.seed, trials)


class Optuna(Spec):
    """Tree-structured Parzen estimators (Bergstra et al. 2011), by Optuna."""

    kind: Literal["optuna"] = "optuna"
    seed: int = Field(0, ge=0)
    startup_trials: int = Field(10, ge=0)
    """Trials that are drawn at random before the model is used."""
    candidates: int = Field(24, ge=1)
    """Points among which the model chooses."""
    multivariate: bool = True
    """Model domains jointly and not one by one; those under one choice form a group."""

    def sampler(self, space: Space, mode: Mode, trials: int) -> Sampler:
        """A sampler of so many trials.

        Raises:
            ConfigError: optuna is not installed.
        """
        return _OptunaSampler(self, space, mode, trials)


class TuneSearch(Spec):
    """A searcher of ``ray.tune.search`` by name, over the flat space: it sees inactive domains too.

    Tried with Ray 2.60, 40 trials of a conditional space with a failure and a restore in it: hyperopt (0.3.0), and bohb
    (hpbandster 0.7.4, ConfigSpace 1.2.2), which here learns from every evaluation, whatever the scheduler. The others
    were not tried. `INSTALL` says what each needs.
    """

    kind: Literal["tune"] = "tune"
    name: str
    """Tune's name of the searcher: hyperopt, bohb, ax, bayesopt, hebo, nevergrad or zoopt."""
    options: dict[str, Any] = {}
    """Arguments of the searcher's class, for example {random_state_seed: 0} for hyperopt, {seed: 0} for bohb."""

    def sampler(self, space: Space, mode: Mode, trials: int) -> Sampler:
        """A sampler of so many trials.

        Raises:
            ConfigError: no such searcher, its package is not installed, or it refuses the options or the space.
        """
        return _TuneSampler(self, space, mode, trials)


INSTALL = {
    "hyperopt": "hyperopt",
    "bohb": "hpbandster ConfigSpace",
    "ax": "ax-platform",
    "bayesopt": "bayesian-optimization",
    "hebo": "HEBO",
    "nevergrad": "nevergrad",
    "zoopt": "zoopt",
}
"""Packages of each searcher, as pip takes them."""

Search = Annotated[Random | GridSearch | Optuna | TuneSearch, Field(discriminator="kind")]
"""Any searcher."""


class _Drawn:
    """Random and grid: nothing is learnt, so nothing need be told."""

    def __init__(self, space: Space, seed: int, trials: int) -> None:
        self._space, self._seed, self._trials = space, seed, trials

    def ask(self, index: int) -> Sample | None:
        return self._space.sample(self._seed, index) if index < self._trials else None

    def report(self, index: int, evaluation: int, score: float) -> None:
        pass

    def tell(self, index: int, score: float | None) -> None:
        pass

    def restore(self, index: int, sample: Mapping[str, Scalar], score: float | None, finished: bool) -> None:
        pass


class _OptunaSampler:
    """Optuna's study, asked trial by trial."""

    def __init__(self, config: Optuna, space: Space, mode: Mode, trials: int) -> None:
        optuna = _import("optuna", "optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._config, self._space, self._limit = optuna, config, space, trials
        self._study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        self._running: dict[int, Any] = {}

    def ask(self, index: int) -> Sample | None:
        if index >= self._limit:
            return None
        return self._begin(index)

    def _begin(self, index: int) -> Sample:
        self._study.sampler = self._tpe(index)
        trial = self._running[index] = self._study.ask()
        return self._space.walk(lambda one: _suggest(trial, one))

    def _tpe(self, index: int) -> Any:
        import warnings

        import numpy as np

        seed = int(np.random.SeedSequence(self._config.seed, spawn_key=(index,)).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            return self._optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=self._config.startup_trials,
                n_ei_candidates=self._config.candidates,
                multivariate=self._config.multivariate,
                group=self._config.multivariate,
                constant_liar=True,  # trials that run count as bad, so that neighbours in time differ in place
            )

    def report(self, index: int, evaluation: int, score: float) -> None:
        """Ignored: TPE reads curves of pruned trials only, and here the last score of every trial counts."""

    def tell(self, index: int, score: float | None) -> None:
        trial = self._running.pop(index)
        if _usable(score):
            self._study.tell(trial, score)
        else:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def restore(self, index: int, sample: Mapping[str, Scalar], score: float | None, finished: bool) -> None:
        active = {one.path: one for one in self._space.domains if one.path in sample}
        params = {path: _to_optuna(one, sample[path]) for path, one in active.items()}
        if not finished:
            self._study.enqueue_trial(params)
            self._begin(index)
            return
        good = _usable(score)
        state = self._optuna.trial.TrialState
        self._study.add_trial(
            self._optuna.trial.create_trial(
                params=params,
                distributions={path: _distribution(self._optuna, one) for path, one in active.items()},
                value=score if good else None,
                state=state.COMPLETE if good else state.FAIL,
            )
        )


def _usable(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _texts(domain: Choice) -> list[str]:
    """Labels as texts that are all different (1 and true are equal in Python)."""
    return [json.dumps(label) for label in domain.labels]


def _to_optuna(one: Dimension, value: Scalar) -> Any:
    return json.dumps(value) if isinstance(one.domain, Choice) else value


def _distribution(optuna: Any, one: Dimension) -> Any:
    domain = one.domain
    if isinstance(domain, Choice):
        return optuna.distributions.CategoricalDistribution(_texts(domain))
    if isinstance(domain, RandInt):
        return optuna.distributions.IntDistribution(domain.low, domain.high)
    return optuna.distributions.FloatDistribution(domain.low, domain.high, log=isinstance(domain, LogUniform))


def _suggest(trial: Any, one: Dimension) -> Scalar:
    domain = one.domain
    if isinstance(domain, Choice):
        texts = _texts(domain)
        return domain.labels[texts.index(trial.suggest_categorical(one.path, texts))]
    if isinstance(domain, RandInt):
        return int(trial.suggest_int(one.path, domain.low, domain.high))
    return float(trial.suggest_float(one.path, domain.low, domain.high, log=isinstance(domain, LogUniform)))


def tune_domain(one: Dimension) -> Any:
    """A domain as Ray Tune's own; options go by position, since labels may be equal in Python."""
    from ray import tune

    domain = one.domain
    if isinstance(domain, Choice):
        return tune.choice(list(range(len(domain.labels))))
    if isinstance(domain, RandInt):
        return tune.randint(domain.low, domain.high + 1)  # Tune leaves the upper end out
    return (tune.loguniform if isinstance(domain, LogUniform) else tune.uniform)(domain.low, domain.high)


class _TuneSampler:
    """One of Tune's searchers.

    It is made at the first `ask`: earlier trials are its first points, which every searcher of Tune knows, while only
    some can be given results of others. Domains are numbered (d0, d1, ...), since each searcher has its own characters
    that a name must not have.
    """

    def __init__(self, config: TuneSearch, space: Space, mode: Mode, trials: int) -> None:
        known = sorted(INSTALL)
        if config.name.lower() not in INSTALL:
            raise ConfigError("no such searcher of Tune", got=config.name, wanted=", ".join(known))
        self._config, self._space, self._mode, self._limit = config, space, mode, trials
        self._earlier: list[tuple[int, Sample, float | None, bool]] = []
        self._searcher: Any = None
        self._make([])  # so that a missing package is told at once

    def ask(self, index: int) -> Sample | None:
        if index >= self._limit:
            return None
        if self._searcher is None:
            self._replay()
        suggested = self._searcher.suggest(str(index))
        if not isinstance(suggested, Mapping):
            raise ConfigError(
                f"searcher {self._config.name} gives no sample for trial {index}",
                got=suggested,
                next_step="set max_concurrent_trials, or choose another searcher",
            )
        return self._space.walk(lambda one: self._value(one, suggested))

    def _value(self, one: Dimension, suggested: Mapping[str, Any]) -> Scalar:
        value = suggested[self._alias(one)]
        if isinstance(one.domain, Choice):
            return one.domain.labels[int(value)]
        return one.domain.clip(value)

    def _alias(self, one: Dimension) -> str:
        return f"d{self._space.domains.index(one)}"

    def _make(self, points: list[dict[str, Any]]) -> None:
        from ray.tune.search import SEARCH_ALG_IMPORT

        name = self._config.name.lower()
        options = dict(self._config.options) | ({"points_to_evaluate": points} if points else {})
        try:
            searcher = SEARCH_ALG_IMPORT[name]()(metric=SCORE, mode=self._mode, **options)
            searcher.set_max_concurrency(self._limit)  # the sweep limits how many run
            flat = {self._alias(one): tune_domain(one) for one in self._space.domains}
            searcher.set_search_properties(SCORE, self._mode, flat)
        except (ImportError, AssertionError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"Tune's searcher {self._config.name} cannot be used",
                got=f"{type(error).__name__}: {' '.join(str(error).split())}",
                wanted="its package, and options and domains that it knows",
                next_step=f"pip install {INSTALL[name]}, or search: {{kind: optuna}}",
            ) from error
        self._searcher = searcher

    def _replay(self) -> None:
        self._make([self._point(index, sample) for index, sample, _, _ in self._earlier])
        for index, _, score, finished in self._earlier:
            self._searcher.suggest(str(index))
            if finished:
                if score is not None:
                    self.report(index, 1, score)
                self.tell(index, score)
        self._earlier = []

    def _point(self, index: int, sample: Sample) -> dict[str, Any]:
        """The sample, with a drawn value for each inactive domain: a searcher of Tune wants them all."""
        point: dict[str, Any] = {}
        for one in self._space.domains:
            value = sample[one.path] if one.path in sample else one.domain.at(0.5)
            point[self._alias(one)] = one.domain.index(value) if isinstance(one.domain, Choice) else value
        return point

    def report(self, index: int, evaluation: int, score: float) -> None:
        # The last entry is BOHB's: it learns from every budget, whichever scheduler stops the trials.
        result = {SCORE: score, "training_iteration": evaluation, "hyperband_info": {"budget": evaluation}}
        self._searcher.on_trial_result(str(index), result)

    def tell(self, index: int, score: float | None) -> None:
        if _usable(score):
            self._searcher.on_trial_complete(str(index), {SCORE: score, "training_iteration": 1})
        else:
            self._searcher.on_trial_complete(str(index), None, error=True)

    def restore(self, index: int, sample: Mapping[str, Scalar], score: float | None, finished: bool) -> None:
        self._earlier.append((index, dict(sample), score, finished))
        self._searcher = None


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"{module} is not installed", next_step=f"pip install {package}") from None
