"""Searchers as a sweep's file names them: who chooses the next trial's setting, and what is tried first.

Decision record: a sampler is ours and knows no Ray (`ask`, `report`, `tell`, `restore`), so that a sweep that was cut
off is told again what is known and goes on; see `raykd.spaces.samplers`. What is known before the first trial (points,
the base, an earlier sweep) has one form for all searchers, `PriorTrials`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field, model_validator

from raykd.spaces.domains import Scalar
from raykd.spaces.space import Sample, Space
from raykd.spec import Spec

Mode = Literal["max", "min"]
"""Direction of a score."""

SCORE = "objective"
"""What searchers and schedulers of Tune call a trial's score: the best of its evaluations, as scores are compared."""
LATEST_SCORE = "score"
"""What a population is judged by: the last evaluation to its last digit. Its trials differ by less than is shown."""


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


class Observation(Spec):
    """A trial of an earlier sweep in this sweep's space: its setting and its score."""

    sample: dict[str, str | int | float | bool | None]
    """Values of the searched keys."""
    score: float
    """The metric that trials are compared by."""


class WarmStart(Spec):
    """What an earlier sweep found, to begin with; its folder alone stands for it (``warm_start: runs/first``)."""

    sweep: str
    """Folder of the earlier sweep, relative to this file or to the working directory."""
    best_first: int | None = Field(None, ge=0)
    """So many of its best settings are trained again first; None is 0 with optuna, which learns from all of its trials
    without training them, and 3 with any other search."""
    observations: tuple[Observation, ...] | None = None
    """Its trials, the best first; a sweep's own folder keeps them here. None reads them from the folder."""

    @model_validator(mode="before")
    @classmethod
    def _folder_alone(cls, data: object) -> object:
        return {"sweep": data} if isinstance(data, str) else data


@dataclass(frozen=True)
class PriorTrials:
    """What is known before the first trial. Written by `load_sweep`, read by samplers.

    first: settings to try first, in order; what one leaves open is chosen by the search. observed: trials of an earlier
    sweep, which count as told and are not trained.
    """

    first: tuple[Sample, ...] = ()
    observed: tuple[Observation, ...] = ()


NO_PRIOR_TRIALS = PriorTrials()
"""A sweep that begins with nothing."""


class SearchBase(Spec):
    """What all searchers share."""

    kind: str
    learns: ClassVar[bool] = False
    """Whether samples depend on scores, so that they are not known before the start."""
    observes: ClassVar[bool] = False
    """Whether it learns from trials that it did not choose."""
    base_first: bool = False
    """The base's own values are trial 0."""
    points_to_evaluate: tuple[dict[str, Any], ...] = ()
    """Settings that are tried first, each a tree of searched keys: {train: {learning_rate: 0.05}}. What one leaves open
    is chosen by the search. They count among num_samples."""
    warm_start: WarmStart | None = None
    """Begins with what an earlier sweep found."""

    @abstractmethod
    def build_sampler(
        self, space: Space, mode: Mode, trials: int, known: PriorTrials = NO_PRIOR_TRIALS
    ) -> Sampler:
        """A sampler of so many trials."""


class RandomSearch(SearchBase):
    """Every trial is drawn by itself: a function of (seed, index), and of what is tried first."""

    kind: Literal["random"] = "random"
    seed: int = Field(0, ge=0)
    """Of the draws."""

    def build_sampler(
        self, space: Space, mode: Mode, trials: int, known: PriorTrials = NO_PRIOR_TRIALS
    ) -> Sampler:
        from raykd.spaces.samplers import DrawnSampler

        return DrawnSampler(space, self.seed, trials, known)


class GridSearch(SearchBase):
    """All points of all grids crossed, ``num_samples`` times; domains that are no grids are drawn anew each time."""

    kind: Literal["grid"] = "grid"
    seed: int = Field(0, ge=0)
    """Of the domains that are no grids."""

    def build_sampler(
        self, space: Space, mode: Mode, trials: int, known: PriorTrials = NO_PRIOR_TRIALS
    ) -> Sampler:
        """As of every searcher; `Sweep.trials` is the grid's size times its repeats."""
        from raykd.spaces.samplers import DrawnSampler

        return DrawnSampler(space, self.seed, trials, known)


class OptunaSearch(SearchBase):
    """Tree-structured Parzen estimators (Bergstra et al. 2011), by Optuna."""

    kind: Literal["optuna"] = "optuna"
    learns: ClassVar[bool] = True
    observes: ClassVar[bool] = True
    seed: int = Field(0, ge=0)
    """Of the sampler."""
    startup_trials: int = Field(10, ge=0)
    """Scored trials, those of a warm start included, before which trials are drawn at random."""
    candidates: int = Field(24, ge=1)
    """Points among which the model chooses."""
    multivariate: bool = True
    """Model domains jointly and not one by one; those under one choice form a group."""

    def build_sampler(
        self, space: Space, mode: Mode, trials: int, known: PriorTrials = NO_PRIOR_TRIALS
    ) -> Sampler:
        """As of every searcher.

        Raises:
            ConfigError: optuna is not installed.
        """
        from raykd.spaces.samplers import OptunaSampler

        return OptunaSampler(self, space, mode, trials, known)


class TuneSearch(SearchBase):
    """A searcher of ``ray.tune.search`` by name, over the flat space: it sees inactive domains too.

    Tried with Ray 2.60, 40 trials of a conditional space with a failure and a restore in it: hyperopt (0.3.0), and bohb
    (hpbandster 0.7.4, ConfigSpace 1.2.2), which here learns from every evaluation, whatever the scheduler. The others
    were not tried. `PIP_PACKAGES` says what each needs.
    """

    kind: Literal["tune"] = "tune"
    learns: ClassVar[bool] = True
    name: str
    """Tune's name of the searcher: hyperopt, bohb, ax, bayesopt, hebo, nevergrad or zoopt."""
    options: dict[str, Any] = {}
    """Arguments of the searcher's class, for example {random_state_seed: 0} for hyperopt, {seed: 0} for bohb."""

    def build_sampler(
        self, space: Space, mode: Mode, trials: int, known: PriorTrials = NO_PRIOR_TRIALS
    ) -> Sampler:
        """As of every searcher.

        Raises:
            ConfigError: no such searcher, its package is not installed, or it refuses the options or the space.
        """
        from raykd.spaces.samplers import TuneSampler

        return TuneSampler(self, space, mode, trials, known)


REQUIRED_MODULES = {
    "hyperopt": ("hyperopt",), "bohb": ("hpbandster", "ConfigSpace"), "ax": ("ax",), "bayesopt": ("bayes_opt",),
    "hebo": ("hebo",), "nevergrad": ("nevergrad",), "zoopt": ("zoopt",),
}  # fmt: skip
"""What each searcher imports."""
PIP_PACKAGES = {
    "hyperopt": "hyperopt",
    "bohb": "hpbandster ConfigSpace",
    "ax": "ax-platform",
    "bayesopt": "bayesian-optimization",
    "hebo": "HEBO",
    "nevergrad": "nevergrad",
    "zoopt": "zoopt",
}
"""Packages of each searcher, as pip takes them."""

Search = Annotated[RandomSearch | GridSearch | OptunaSearch | TuneSearch, Field(discriminator="kind")]
"""Any searcher."""
