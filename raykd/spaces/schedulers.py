"""Schedulers: who stops a trial early, or changes it on its way.

Decision record: time is counted in evaluations, 1 to `train.evaluations`, since every trial has the same number of
them and Tune's own counter begins again after a restore. Nothing shortens a trial's schedules: they are functions of
its whole length. Tune's defaults would stop trials after a hundredth of that; here the first rung lies at a quarter,
because warm-ups and annealed lambdas look bad before. A population mutates only what may change in the middle of a
run: the objective, learning rate and weight decay. ray is imported where it is used.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from raykd.config import Run
from raykd.errors import ConfigError
from raykd.spaces.domains import ChoiceDomain, UniformDomain
from raykd.spaces.samplers import build_tune_domain
from raykd.spaces.search import SCORE, Mode
from raykd.spaces.space import Dimension, Space
from raykd.spec import Spec

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

TIME = "evaluation"
"""What trials report as their time."""

MUTABLE = re.compile(
    r"objective\.(?!weighting$|weighting\.(kind|by_teacher)\b).+|train\.(learning_rate|weight_decay)$"
)
"""Keys that may change while a run goes on; another weighting would ask other teachers."""


class SchedulerBase(Spec):
    """What all schedulers share."""

    kind: str
    needs_population: ClassVar[bool] = False
    """Trials copy one another's weights."""
    pauses: ClassVar[bool] = False
    """Trials are put aside and go on later, so each needs Tune checkpoints."""

    def check(self, base: Run, space: Space, search: str, trials: int, origin: str) -> None:
        """Refuses what this scheduler cannot do with the sweep.

        Raises:
            ConfigError: says which key, and what would do.
        """
        del space, search, trials
        if (grace := getattr(self, "grace", None)) is not None and grace > base.train.evaluations:
            raise ConfigError(
                f"{origin}: scheduler.grace is longer than a trial",
                got=f"grace {grace}, train.evaluations {base.train.evaluations}",
                wanted="at most train.evaluations",
            )

    def rungs(self, evaluations: int) -> tuple[int, ...]:
        """Evaluations at which trials are compared and stopped, for schedulers that have fixed ones."""
        del evaluations
        return ()

    @abstractmethod
    def build(self, space: Space, evaluations: int, mode: Mode, metric: str = SCORE) -> TrialScheduler:
        """Tune's scheduler, for trials that report `evaluation` and ``metric``."""


class Fifo(SchedulerBase):
    """Every trial runs to its end."""

    kind: Literal["fifo"] = "fifo"

    def build(self, space: Space, evaluations: int, mode: Mode, metric: str = SCORE) -> TrialScheduler:
        from ray.tune.schedulers import FIFOScheduler

        return FIFOScheduler()


class Asha(SchedulerBase):
    """Asynchronous successive halving (arXiv:1810.05934): at each rung the best share of 1 / reduction goes on."""

    kind: Literal["asha"] = "asha"
    grace: int | None = Field(None, ge=1)
    """First rung, in evaluations; None is a quarter of a trial."""
    reduction_factor: float = Field(3.0, gt=1.0)
    """At each rung one trial in so many goes on."""
    brackets: int = Field(1, ge=1)
    """Ladders of rungs; the second begins one rung later, and so on."""

    def _grace(self, evaluations: int) -> int:
        return self.grace or math.ceil(evaluations / 4)

    def rungs(self, evaluations: int) -> tuple[int, ...]:
        found = []
        milestone = float(self._grace(evaluations))
        while math.ceil(milestone) < evaluations:
            found.append(math.ceil(milestone))
            milestone *= self.reduction_factor
        return tuple(found)

    def build(self, space: Space, evaluations: int, mode: Mode, metric: str = SCORE) -> TrialScheduler:
        from ray.tune.schedulers import ASHAScheduler

        return ASHAScheduler(
            time_attr=TIME,
            metric=metric,
            mode=mode,
            max_t=evaluations,
            grace_period=self._grace(evaluations),
            reduction_factor=self.reduction_factor,
            brackets=self.brackets,
        )


class HyperBand(SchedulerBase):
    """Hyperband (arXiv:1603.06560): brackets of successive halving, whose shortest begins at few evaluations.

    Trials wait, paused, for the others of their bracket, and the first cut can come after one evaluation; `asha`
    does the same work without waiting. Paused trials must not count against a limit of concurrent ones.
    """

    kind: Literal["hyperband"] = "hyperband"
    pauses: ClassVar[bool] = True
    reduction_factor: float = Field(3.0, gt=1.0)
    """At each cut one trial in so many goes on."""

    def build(self, space: Space, evaluations: int, mode: Mode, metric: str = SCORE) -> TrialScheduler:
        from raykd.compat.tune_schedulers import EagerHyperBand

        return EagerHyperBand(
            time_attr=TIME,
            metric=metric,
            mode=mode,
            max_t=evaluations,
            reduction_factor=self.reduction_factor,
        )


class MedianStopping(SchedulerBase):
    """Stops a trial whose best score is below the median of the others' running means (Golovin et al. 2017)."""

    kind: Literal["median"] = "median"
    grace: int | None = Field(None, ge=1)
    """No trial is stopped before this evaluation; None is a quarter of a trial."""
    min_trials: int = Field(3, ge=1)
    """Trials that must have come as far."""

    def build(self, space: Space, evaluations: int, mode: Mode, metric: str = SCORE) -> TrialScheduler:
        from raykd.compat.tune_schedulers import NamedMedian

        return NamedMedian(
            time_attr=TIME,
            metric=metric,
            mode=mode,
            grace_period=self.grace or math.ceil(evaluations / 4),
            min_samples_required=self.min_trials,
        )


class PopulationScheduler(SchedulerBase):
    """What both population schedulers share: who may mutate, and when."""

    needs_population: ClassVar[bool] = True
    pauses: ClassVar[bool] = True
    interval: int | None = Field(None, ge=1)
    """Evaluations between two mutations; None is a fifth of a trial."""
    quantile: float = Field(0.25, gt=0.0, le=0.5)
    """Share of trials that are replaced by copies of as many of the best."""

    def _interval(self, evaluations: int) -> int:
        return self.interval or math.ceil(evaluations / 5)

    def check(self, base: Run, space: Space, search: str, trials: int, origin: str) -> None:
        if search != "random":
            raise ConfigError(
                f"{origin}: {self.kind} chooses for itself after the start",
                got=search,
                wanted="search random",
            )
        if trials < 2:
            raise ConfigError(
                f"{origin}: {self.kind} needs a population", got=f"num_samples {trials}", wanted="2 or more"
            )
        if base.train.patience is not None or "train.patience" in space.keys:
            raise ConfigError(
                f"{origin}: train.patience would stop trials of the population",
                got=f"patience with {self.kind}",
                wanted="set: {train: {patience: null}}",
            )
        if list(base.members) != [""]:
            raise ConfigError(
                f"{origin}: {self.kind} finds phases, which a run of several tasks does not have",
                got=f"tasks {', '.join(base.members)}",
                wanted="another scheduler: asha, median, hyperband or fifo",
            )
        if any(member.phases for member in base.members.values()) or "phases" in space.keys:
            raise ConfigError(
                f"{origin}: phases would undo mutations",
                got=f"phases with {self.kind}",
                wanted="set: {phases: []}",
            )
        if (interval := self._interval(base.train.evaluations)) >= base.train.evaluations:
            raise ConfigError(
                f"{origin}: nothing would mutate before the end",
                got=f"interval {interval}, train.evaluations {base.train.evaluations}",
                wanted="an interval below train.evaluations",
            )
        for one in space.domains:
            self._check_domain(one, origin)

    def _check_domain(self, one: Dimension, origin: str) -> None:
        if one.condition or not MUTABLE.fullmatch(one.key):
            raise ConfigError(
                f"{origin}: space.{one.path} cannot change while a trial runs, as {self.kind} wants",
                got="a domain inside a choice" if one.condition else one.key,
                wanted="objective.* (which teachers are asked apart), train.learning_rate, train.weight_decay",
            )
        ends = one.domain.labels if isinstance(one.domain, ChoiceDomain) else (one.domain.high,)
        if one.key == "objective.alpha" and 1 in ends:
            raise ConfigError(
                f"{origin}: a trial cannot come to alpha 1 on its way: it is plain training, over labelled rows alone",
                got=f"space.{one.path} is {one.domain}",
                wanted="alpha below 1, for example up to 0.99",
            )


class Pbt(PopulationScheduler):
    """Population based training (arXiv:1711.09846): the worst copy the best, then numbers move by 0.8 or 1.2.

    Its result is a schedule, so it holds only for a run that replays it. Mutated numbers are kept in their domain.
    """

    kind: Literal["pbt"] = "pbt"
    resample: float = Field(0.25, ge=0.0, le=1.0)
    """How likely a mutation draws anew and does not move."""

    def build(self, space: Space, evaluations: int, mode: Mode, metric: str = SCORE) -> TrialScheduler:
        from raykd.compat.tune_schedulers import Population

        return Population(
            time_attr=TIME,
            metric=metric,
            mode=mode,
            perturbation_interval=self._interval(evaluations),
            hyperparam_mutations={
                one.path: list(one.domain.labels)
                if isinstance(one.domain, ChoiceDomain)
                else build_tune_domain(one)
                for one in space.domains
            },
            quantile_fraction=self.quantile,
            resample_probability=self.resample,
            custom_explore_fn=DomainClipper(space),
            log_config=True,
        )


class Pb2(PopulationScheduler):
    """PBT whose mutations a Gaussian process chooses (arXiv:2002.02518), for populations of 8 and fewer.

    It models every domain linearly between its bounds, a log_uniform one too.
    """

    kind: Literal["pb2"] = "pb2"

    def _check_domain(self, one: Dimension, origin: str) -> None:
        super()._check_domain(one, origin)
        if not isinstance(one.domain, UniformDomain):
            raise ConfigError(
                f"{origin}: pb2 moves numbers between bounds only",
                got=f"space.{one.path} is {one.domain.kind}",
                wanted="uniform or log_uniform, or scheduler: {kind: pbt}",
            )

    def build(self, space: Space, evaluations: int, mode: Mode, metric: str = SCORE) -> TrialScheduler:
        from raykd.compat.tune_schedulers import BanditPopulation

        bounds: dict[str, Any] = {
            one.path: [one.domain.low, one.domain.high]
            for one in space.domains
            if isinstance(one.domain, UniformDomain)
        }
        try:
            return BanditPopulation(
                time_attr=TIME,
                metric=metric,
                mode=mode,
                perturbation_interval=self._interval(evaluations),
                hyperparam_bounds=bounds,
                quantile_fraction=self.quantile,
                custom_explore_fn=DomainClipper(space),
                log_config=True,
            )
        except RuntimeError as error:
            raise ConfigError(
                "pb2 needs scikit-learn", got=str(error), next_step="pip install scikit-learn"
            ) from None


class DomainClipper:
    """Keeps mutated numbers in their domains: Tune multiplies them without looking. Pickled with Tune's state."""

    def __init__(self, space: Space) -> None:
        self._domains = {
            one.path: one.domain for one in space.domains if not isinstance(one.domain, ChoiceDomain)
        }

    def __call__(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {
            path: self._domains[path].clip(value) if path in self._domains else value
            for path, value in config.items()
        }


Scheduler = Annotated[
    Fifo | Asha | HyperBand | MedianStopping | Pbt | Pb2,
    Field(discriminator="kind"),
]
"""Any scheduler."""
