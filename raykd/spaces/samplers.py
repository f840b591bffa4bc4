"""Sample settings: one sampler class per kind of search.

Decision record: Optuna is used directly and define-by-run, so a domain inside an option is suggested only where the
option was chosen. Tune's own adapter would silently return such a domain unsampled. Optuna's sampler is made anew for
each trial from (seed, index): a restored one would restart its random numbers and repeat its first trials. Equal
settings have equal results, so a search that reaches the setting of an earlier trial draws again. optuna and ray are
imported where they are used.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

from raykd.errors import ConfigError
from raykd.parse import JsonObject
from raykd.spaces.domains import ChoiceDomain, IntegerDomain, LogUniformDomain, Scalar
from raykd.spaces.search import (
    NO_PRIOR_TRIALS,
    PIP_PACKAGES,
    SCORE,
    Mode,
    OptunaSearch,
    PriorTrials,
    Sampler,
    TuneSearch,
)
from raykd.spaces.space import Dimension, Sample, Space, encode_sample

MAX_REDRAWS = 32
"""Most draws for one trial while they give settings of earlier trials."""
MAX_LISTED_SAMPLES = 100_000
"""Largest space that is listed to find an untried setting."""


class DrawnSampler(Sampler):
    """Sampler of random and grid search. Learns nothing, so all samples are known before the start."""

    def __init__(self, space: Space, seed: int, trials: int, known: PriorTrials = NO_PRIOR_TRIALS) -> None:
        self._space, self._seed, self._trials, self._first = space, seed, trials, known.first
        self._samples: list[Sample] = []
        self._seen: set[str] = set()

    def ask(self, index: int) -> Sample | None:
        if index >= self._trials:
            return None
        while len(self._samples) <= index:
            sample = self._draw(len(self._samples))
            self._samples.append(sample)
            self._seen.add(encode_sample(sample))
        return self._samples[index]

    def _draw(self, index: int) -> Sample:
        """Draw a sample that no earlier trial has, as long as there is one."""
        fixed = self._first[index] if index < len(self._first) else None
        for attempt in range(MAX_REDRAWS):
            sample = self._space.draw(self._seed, index, fixed, attempt)
            if encode_sample(sample) not in self._seen:
                return sample
        point = {**self._space.grid_point(index % self._space.grid_size), **(fixed or {})}
        return find_unseen_sample(self._space, self._seen, point) or self._space.draw(
            self._seed, index, fixed
        )


def find_unseen_sample(space: Space, seen: Collection[str], point: Mapping[str, Scalar]) -> Sample | None:
    """Return the first unseen sample with the values of ``point``; None if there is none or the space is too large."""
    if space.size > MAX_LISTED_SAMPLES:
        return None
    return next(
        (s for s in space.iterate_samples() if encode_sample(s) not in seen and point.items() <= s.items()),
        None,
    )


class OptunaSampler(Sampler):
    """Sampler that asks a study of Optuna, trial by trial.

    Needs no `report`: TPE reads curves of pruned trials only, and here the last score of every trial counts.
    """

    def __init__(
        self, config: OptunaSearch, space: Space, mode: Mode, trials: int, known: PriorTrials
    ) -> None:
        optuna = _import("optuna", "optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._config, self._space, self._limit = optuna, config, space, trials
        self._study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        self._running: dict[int, Any] = {}
        self._first = known.first
        self._seen: set[str] = set()
        for one in known.observed:
            self._add(one.sample, one.score)

    def ask(self, index: int) -> Sample | None:
        if index >= self._limit:
            return None
        fixed = self._first[index] if index < len(self._first) else {}
        for attempt in range(MAX_REDRAWS):
            sample = self._begin(index, fixed, attempt)
            if encode_sample(sample) not in self._seen:
                break
            self._study.tell(self._running.pop(index), state=self._optuna.trial.TrialState.FAIL)
        else:
            sample = self._begin(index, find_unseen_sample(self._space, self._seen, fixed) or fixed)
        self._seen.add(encode_sample(sample))
        return sample

    def _begin(self, index: int, fixed: Mapping[str, Scalar], attempt: int = 0) -> Sample:
        """Begin a trial of the study.

        Args:
            index: Number of the trial.
            fixed: Values to take where their domains are active.
            attempt: Draws another sample for the same trial, from 1.
        """
        self._study.sampler = self._tpe(index, attempt)
        if fixed:
            active = {one.path: one for one in self._space.domains if one.path in fixed}
            self._study.enqueue_trial({path: _to_optuna(one, fixed[path]) for path, one in active.items()})
        trial = self._running[index] = self._study.ask()
        return self._space.choose_values(lambda one: _suggest(trial, one))

    def _tpe(self, index: int, attempt: int) -> Any:
        import warnings

        import numpy as np

        key = (index, attempt) if attempt else (index,)
        seed = int(np.random.SeedSequence(self._config.seed, spawn_key=key).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            return self._optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=self._config.startup_trials,
                n_ei_candidates=self._config.candidates,
                multivariate=self._config.multivariate,
                group=self._config.multivariate,
                constant_liar=True,  # running trials count as bad, so that parallel trials differ
            )

    def tell(self, index: int, score: float | None) -> None:
        trial = self._running.pop(index)
        if _is_usable(score):
            self._study.tell(trial, score)
        else:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def restore(self, index: int, sample: Mapping[str, Scalar], score: float | None, finished: bool) -> None:
        self._seen.add(encode_sample(sample))
        if finished:
            self._add(sample, score)
        else:
            self._begin(index, sample)

    def _add(self, sample: Mapping[str, Scalar], score: float | None) -> None:
        """Add a finished trial, as if the study had chosen it."""
        active = {one.path: one for one in self._space.domains if one.path in sample}
        params = {path: _to_optuna(one, sample[path]) for path, one in active.items()}
        good = _is_usable(score)
        state = self._optuna.trial.TrialState
        self._study.add_trial(
            self._optuna.trial.create_trial(
                params=params,
                distributions={path: _distribution(self._optuna, one) for path, one in active.items()},
                value=score if good else None,
                state=state.COMPLETE if good else state.FAIL,
            )
        )


def _is_usable(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _texts(domain: ChoiceDomain) -> list[str]:
    """Return the labels as texts, because 1 and true are equal in Python."""
    return [json.dumps(label) for label in domain.labels]


def _to_optuna(one: Dimension, value: Scalar) -> Scalar:
    return json.dumps(value) if isinstance(one.domain, ChoiceDomain) else value


def _distribution(optuna: Any, one: Dimension) -> Any:
    domain = one.domain
    if isinstance(domain, ChoiceDomain):
        return optuna.distributions.CategoricalDistribution(_texts(domain))
    if isinstance(domain, IntegerDomain):
        return optuna.distributions.IntDistribution(domain.low, domain.high)
    return optuna.distributions.FloatDistribution(
        domain.low, domain.high, log=isinstance(domain, LogUniformDomain)
    )


def _suggest(trial: Any, one: Dimension) -> Scalar:
    domain = one.domain
    if isinstance(domain, ChoiceDomain):
        texts = _texts(domain)
        return domain.labels[texts.index(trial.suggest_categorical(one.path, texts))]
    if isinstance(domain, IntegerDomain):
        return int(trial.suggest_int(one.path, domain.low, domain.high))
    return float(
        trial.suggest_float(one.path, domain.low, domain.high, log=isinstance(domain, LogUniformDomain))
    )


def build_tune_domain(one: Dimension) -> Any:
    """Return Ray Tune's form of a domain. Options are numbered, since labels may be equal in Python."""
    from ray import tune

    domain = one.domain
    if isinstance(domain, ChoiceDomain):
        return tune.choice(list(range(len(domain.labels))))
    if isinstance(domain, IntegerDomain):
        return tune.randint(domain.low, domain.high + 1)  # Tune leaves the upper end out
    return (tune.loguniform if isinstance(domain, LogUniformDomain) else tune.uniform)(
        domain.low, domain.high
    )


class TuneSampler(Sampler):
    """Sampler that asks one of Tune's searchers.

    After a resume, the searcher is made when it is first needed. Earlier trials become its first points, which every
    searcher of Tune accepts, while only some accept results of other trials. Domains are named d0, d1, ..., since each
    searcher forbids other characters in names.
    """

    def __init__(self, config: TuneSearch, space: Space, mode: Mode, trials: int, known: PriorTrials) -> None:
        if config.name.lower() not in PIP_PACKAGES:
            names = ", ".join(sorted(PIP_PACKAGES))
            raise ConfigError("no such searcher of Tune", got=config.name, wanted=names)
        self._config, self._space, self._mode, self._limit = config, space, mode, trials
        self._first = [space.draw(0, at, fixed) for at, fixed in enumerate(known.first)]
        self._earlier: list[tuple[int, Sample, float | None, bool]] = []
        self._searcher: Any = None
        self._make([self._point(sample) for sample in self._first])  # so that a missing package shows at once

    def ask(self, index: int) -> Sample | None:
        if index >= self._limit:
            return None
        suggested = self._get_searcher().suggest(str(index))
        if not isinstance(suggested, dict):
            raise ConfigError(
                f"searcher {self._config.name} gives no sample for trial {index}",
                got=suggested,
                next_step="set max_concurrent_trials, or choose another searcher",
            )
        return self._space.choose_values(lambda one: self._value(one, suggested))

    def _value(self, one: Dimension, suggested: JsonObject) -> Scalar:
        value = suggested[self._alias(one)]
        if isinstance(one.domain, ChoiceDomain):
            return one.domain.labels[int(value)]
        return one.domain.clip(value)

    def _alias(self, one: Dimension) -> str:
        return f"d{self._space.domains.index(one)}"

    def _make(self, points: list[dict[str, object]]) -> None:
        from ray.tune.search import SEARCH_ALG_IMPORT

        name = self._config.name.lower()
        options = dict(self._config.options) | ({"points_to_evaluate": points} if points else {})
        try:
            searcher = SEARCH_ALG_IMPORT[name]()(metric=SCORE, mode=self._mode, **options)  # type: ignore[no-untyped-call]
            searcher.set_max_concurrency(self._limit)  # the sweep limits how many run
            flat = {self._alias(one): build_tune_domain(one) for one in self._space.domains}
            searcher.set_search_properties(SCORE, self._mode, flat)
        except (ImportError, AssertionError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"Tune's searcher {self._config.name} cannot be used",
                got=f"{type(error).__name__}: {' '.join(str(error).split())}",
                wanted="its package, and options and domains that it knows",
                next_step=f"pip install {PIP_PACKAGES[name]}, or search: {{kind: optuna}}",
            ) from error
        self._searcher = searcher

    def _get_searcher(self) -> Any:
        """Return the searcher after it has seen all earlier trials."""
        if self._searcher is None:
            self._replay()
        return self._searcher

    def _replay(self) -> None:
        points = [sample for _, sample, _, _ in self._earlier]
        self._make([self._point(sample) for sample in [*points, *self._first[len(points) :]]])
        for index, _, score, finished in self._earlier:
            self._searcher.suggest(str(index))
            if finished:
                if score is not None:
                    self.report(index, 1, score)
                self.tell(index, score)
        self._earlier = []

    def _point(self, sample: Sample) -> dict[str, object]:
        """Return the sample with the middle value for each inactive domain, because Tune's searchers want them all."""
        point: dict[str, object] = {}
        for one in self._space.domains:
            value = sample[one.path] if one.path in sample else one.domain.value_at(0.5)
            point[self._alias(one)] = (
                one.domain.index(value) if isinstance(one.domain, ChoiceDomain) else value
            )
        return point

    def report(self, index: int, evaluation: int, score: float) -> None:
        # BOHB needs the last entry: it learns from every budget, whichever scheduler stops the trials.
        result = {SCORE: score, "training_iteration": evaluation, "hyperband_info": {"budget": evaluation}}
        self._get_searcher().on_trial_result(str(index), result)

    def tell(self, index: int, score: float | None) -> None:
        if _is_usable(score):
            self._get_searcher().on_trial_complete(str(index), {SCORE: score, "training_iteration": 1})
        else:
            self._get_searcher().on_trial_complete(str(index), None, error=True)

    def restore(self, index: int, sample: Mapping[str, Scalar], score: float | None, finished: bool) -> None:
        self._earlier.append((index, dict(sample), score, finished))
        self._searcher = None


def _import(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"{module} is not installed", next_step=f"pip install {package}") from None
