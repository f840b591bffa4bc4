"""Define the searchers, which choose the setting of each trial.

Decision record: a searcher builds a sampler that knows no Ray (`ask`, `report`, `tell`, `restore`; see
`raykd.spaces.samplers`). An interrupted sweep tells a new sampler everything that is known and continues. What is known
before the first trial (points, the base, an earlier sweep) has one form for all searchers, `PriorTrials`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from raykd.parse import JsonObject
from raykd.spaces.domains import Scalar
from raykd.spaces.space import Sample, Space
from raykd.spec import Spec

Mode = Literal["max", "min"]
"""Direction of a score."""

SCORE = "objective"
"""Key of a trial's result with its best score so far, rounded as scores are compared."""
LATEST_SCORE = "score"
"""Key of a trial's result with its last score, unrounded. A population is compared by it: its trials differ little."""


class Sampler(ABC):
    """Chooses samples one after the other. Trials are counted from 0.

    A sampler that learns nothing derives from this class and only defines `ask`.
    """

    @abstractmethod
    def ask(self, index: int) -> Sample | None:
        """Return the sample of trial ``index``; None if there are no more. Called once per trial, in order."""

    def is_wanted(self, sample: Mapping[str, Scalar]) -> bool:
        """Return whether a trial that an earlier start left unfinished goes on."""
        del sample
        return True

    def name_trial(self, index: int, sample: Sample) -> str:
        """Return the name of a trial in progress, journal and MLflow."""
        del sample
        return f"t{index:04d}"

    def report(self, index: int, evaluation: int, score: float) -> None:
        """Take a trial's score at an evaluation, counted from 1."""
        del index, evaluation, score

    def tell(self, index: int, score: float | None) -> None:
        """Take the final score of a trial; None if it failed."""
        del index, score

    def restore(self, index: int, sample: Mapping[str, Scalar], score: float | None, finished: bool) -> None:
        """Take a trial of an earlier start of the sweep. Called in order, before the first `ask`.

        An unfinished trial continues, and `tell` follows later.
        """
        del index, sample, score, finished


class Observation(Spec):
    """A trial of an earlier sweep, in this sweep's space."""

    sample: Sample
    """Values of the searched keys."""
    score: float
    """Its score in the sweep's metric."""


class WarmStart(Spec):
    """An earlier sweep to begin with. May be written as its folder alone (``warm_start: runs/first``)."""

    sweep: str
    """Folder of the earlier sweep, relative to this file or to the working directory."""
    best_first: int | None = Field(None, ge=0)
    """Number of its best settings that are trained again first. None takes 0 with optuna, which learns from its trials
    without training them, and 3 with any other search."""
    observations: tuple[Observation, ...] | None = None
    """Its trials, best first, as the present sweep's folder keeps them. None reads them from the earlier folder."""

    @model_validator(mode="before")
    @classmethod
    def _folder_alone(cls, data: object) -> object:
        return {"sweep": data} if isinstance(data, str) else data


@dataclass(frozen=True)
class PriorTrials:
    """What is known before the first trial. Made by `load_sweep`, read by samplers.

    Attributes:
        first: Settings to try first, in order. The search chooses keys that a setting leaves open.
        observed: Trials of an earlier sweep, which count as results and are not trained.
    """

    first: tuple[Sample, ...] = ()
    observed: tuple[Observation, ...] = ()


NO_PRIOR_TRIALS = PriorTrials()
"""For a sweep that knows nothing before its first trial."""


class SearchBase(Spec):
    """Base of all searchers."""

    kind: str
    learns: ClassVar[bool] = False
    """Whether samples depend on scores, and so are unknown before the start."""
    observes: ClassVar[bool] = False
    """Whether the search learns from trials that it did not choose."""
    base_first: bool = False
    """Whether trial 0 has the base's own values."""
    points_to_evaluate: tuple[JsonObject, ...] = ()
    """Settings to try first, each a tree of searched keys: {train: {learning_rate: 0.05}}. The search chooses the keys
    that a setting leaves open. They count among num_samples."""
    warm_start: WarmStart | None = None
    """An earlier sweep to begin with."""

    @abstractmethod
    def build_sampler(
        self, space: Space, mode: Mode, trials: int, known: PriorTrials = NO_PRIOR_TRIALS
    ) -> Sampler:
        """Build the sampler of a sweep.

        Args:
            space: The searched space.
            mode: Direction of the score.
            trials: Number of trials.
            known: What is known before the first trial.

        Raises:
            ConfigError: A package is missing, or the search refuses the options or the space.
        """


class DrawnSearch(SearchBase):
    """Base of the searches that draw every trial from (seed, index) alone."""

    seed: int = Field(0, ge=0)
    """Seed of the draws."""

    def build_sampler(
        self, space: Space, mode: Mode, trials: int, known: PriorTrials = NO_PRIOR_TRIALS
    ) -> Sampler:
        from raykd.spaces.samplers import DrawnSampler

        return DrawnSampler(space, self.seed, trials, known)


class RandomSearch(DrawnSearch):
    """Draw every trial independently of all others."""

    kind: Literal["random"] = "random"


class GridSearch(DrawnSearch):
    """Try all combinations of all grids, ``num_samples`` times. Domains that are no grids are drawn anew each time."""

    kind: Literal["grid"] = "grid"


class OptunaSearch(SearchBase):
    """Tree-structured Parzen estimators (Bergstra et al. 2011), by Optuna."""

    kind: Literal["optuna"] = "optuna"
    learns: ClassVar[bool] = True
    observes: ClassVar[bool] = True
    seed: int = Field(0, ge=0)
    """Seed of the sampler."""
    startup_trials: int = Field(10, ge=0)
    """Number of scored trials, with those of a warm start, up to which trials are drawn at random."""
    candidates: int = Field(24, ge=1)
    """Number of points among which the model chooses."""
    multivariate: bool = True
    """Model domains jointly, in one group per choice, and not one by one."""

    def build_sampler(
        self, space: Space, mode: Mode, trials: int, known: PriorTrials = NO_PRIOR_TRIALS
    ) -> Sampler:
        from raykd.spaces.samplers import OptunaSampler

        return OptunaSampler(self, space, mode, trials, known)


class TuneSearch(SearchBase):
    """A searcher of ``ray.tune.search`` by name. It sees a flat space, so inactive domains too.

    Tried with Ray 2.60, 40 trials of a conditional space with a failure and a restore in it: hyperopt (0.3.0), and bohb
    (hpbandster 0.7.4, ConfigSpace 1.2.2), which here learns from every evaluation, whatever the scheduler. The others
    were not tried. `PIP_PACKAGES` says what each needs.
    """

    kind: Literal["tune"] = "tune"
    learns: ClassVar[bool] = True
    name: str
    """Tune's name of the searcher: hyperopt, bohb, ax, bayesopt, hebo, nevergrad or zoopt."""
    options: JsonObject = {}
    """Arguments of the searcher's class, for example {random_state_seed: 0} for hyperopt, {seed: 0} for bohb."""

    def build_sampler(
        self, space: Space, mode: Mode, trials: int, known: PriorTrials = NO_PRIOR_TRIALS
    ) -> Sampler:
        from raykd.spaces.samplers import TuneSampler

        return TuneSampler(self, space, mode, trials, known)


REQUIRED_MODULES = {
    "hyperopt": ("hyperopt",), "bohb": ("hpbandster", "ConfigSpace"), "ax": ("ax",), "bayesopt": ("bayes_opt",),
    "hebo": ("hebo",), "nevergrad": ("nevergrad",), "zoopt": ("zoopt",),
}  # fmt: skip
"""Modules that each searcher imports."""
PIP_PACKAGES = {
    "hyperopt": "hyperopt",
    "bohb": "hpbandster ConfigSpace",
    "ax": "ax-platform",
    "bayesopt": "bayesian-optimization",
    "hebo": "HEBO",
    "nevergrad": "nevergrad",
    "zoopt": "zoopt",
}
"""Packages of each searcher, for pip."""

Search = Annotated[RandomSearch | GridSearch | OptunaSearch | TuneSearch, Field(discriminator="kind")]
"""Any searcher."""
