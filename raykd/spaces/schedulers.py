"""Define the schedulers, which stop trials early or change them during training.

Decision record: time is counted in evaluations, from 1 to `train.evaluations`. Every trial has the same number of them,
and Tune's own counter restarts after a restore. A trial that is stopped early has followed the schedules of its whole
length. Tune's defaults would stop trials after a hundredth of it. Here the first rung lies at a quarter, because
warm-ups and annealed lambdas look bad before. A population mutates only what may change during a run: the objective,
learning rate and weight decay. ray is imported where it is used.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from raykd.config import Run
from raykd.errors import ConfigError
from raykd.parse import JsonObject
from raykd.spaces.domains import ChoiceDomain, UniformDomain
from raykd.spaces.samplers import build_tune_domain
from raykd.spaces.search import SCORE, Mode
from raykd.spaces.space import Dimension, Space
from raykd.spec import Spec

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

TIME = "evaluation"
"""Key of a trial's result that schedulers take as time."""

MUTABLE = re.compile(
    r"objective\.(?!weighting$|weighting\.(kind|by_teacher|chain|column|weights_of|otherwise|home|similarity|features|penalty)\b).+|train\.(learning_rate|weight_decay)$"
)
"""Matches keys that may change during a run. Another weighting would ask other teachers, so it may not."""


class SchedulerBase(Spec):
    """Base of all schedulers."""

    kind: str
    needs_population: ClassVar[bool] = False
    """Whether trials copy one another's weights."""
    pauses: ClassVar[bool] = False
    """Whether trials are paused and continued later, which needs Tune checkpoints."""

    def check(self, base: Run, space: Space, search: str, trials: int, origin: str) -> None:
        """Refuse a sweep that this scheduler cannot run.

        Args:
            base: The run that every trial begins with.
            space: The searched space.
            search: Kind of the search.
            trials: Number of trials.
            origin: What errors call the sweep.

        Raises:
            ConfigError: Names the key, and what is possible instead.
        """
        del space, search, trials
        if (grace := getattr(self, "grace", None)) is not None and grace > base.train.evaluations:
            raise ConfigError(
                f"{origin}: scheduler.grace is longer than a trial",
                got=f"grace {grace}, train.evaluations {base.train.evaluations}",
                wanted="at most train.evaluations",
            )

    def rungs(self, evaluations: int) -> tuple[int, ...]:
        """Return the evaluations at which trials are compared and stopped; empty without fixed ones."""
        del evaluations
        return ()

    def build(self, space: Space, evaluations: int, mode: Mode, metric: str = SCORE) -> TrialScheduler:
        """Build Tune's scheduler.

        Args:
            space: The searched space.
            evaluations: Length of a trial.
            mode: Direction of the metric.
            metric: Key of a trial's result that trials are compared by.
        """
        return self._build(space, evaluations, {"time_attr": TIME, "metric": metric, "mode": mode})

    @abstractmethod
    def _build(self, space: Space, evaluations: int, compared: JsonObject) -> TrialScheduler:
        """Build Tune's scheduler.

        Args:
            space: The searched space.
            evaluations: Length of a trial.
            compared: Tune's arguments for time, metric and mode.
        """


class Fifo(SchedulerBase):
    """Run every trial to its end."""

    kind: Literal["fifo"] = "fifo"

    def _build(self, space: Space, evaluations: int, compared: JsonObject) -> TrialScheduler:
        from ray.tune.schedulers import FIFOScheduler

        return FIFOScheduler()


class Asha(SchedulerBase):
    """Asynchronous successive halving (arXiv:1810.05934). The best 1 / reduction_factor of trials passes each rung."""

    kind: Literal["asha"] = "asha"
    grace: int | None = Field(None, ge=1)
    """First rung, in evaluations; None takes a quarter of a trial."""
    reduction_factor: float = Field(3.0, gt=1.0)
    """At each rung one trial in so many goes on."""
    brackets: int = Field(1, ge=1)
    """Number of ladders of rungs. The second ladder begins one rung later, and so on."""

    def _grace(self, evaluations: int) -> int:
        return self.grace or math.ceil(evaluations / 4)

    def rungs(self, evaluations: int) -> tuple[int, ...]:
        found = []
        milestone = float(self._grace(evaluations))
        while math.ceil(milestone) < evaluations:
            found.append(math.ceil(milestone))
            milestone *= self.reduction_factor
        return tuple(found)

    def _build(self, space: Space, evaluations: int, compared: JsonObject) -> TrialScheduler:
        from ray.tune.schedulers import ASHAScheduler

        return ASHAScheduler(
            **compared,
            max_t=evaluations,
            grace_period=self._grace(evaluations),
            reduction_factor=self.reduction_factor,
            brackets=self.brackets,
        )


class HyperBand(SchedulerBase):
    """Hyperband (arXiv:1603.06560): brackets of successive halving, the shortest of which begins at few evaluations.

    Trials pause until the others of their bracket have come as far, and the first cut may come after one evaluation.
    `asha` does the same without waiting. Paused trials must not count against a limit of concurrent trials.
    """

    kind: Literal["hyperband"] = "hyperband"
    pauses: ClassVar[bool] = True
    reduction_factor: float = Field(3.0, gt=1.0)
    """At each cut one trial in so many goes on."""

    def _build(self, space: Space, evaluations: int, compared: JsonObject) -> TrialScheduler:
        from raykd.compat.tune_schedulers import EagerHyperBand

        return EagerHyperBand(
            **compared,
            max_t=evaluations,
            reduction_factor=self.reduction_factor,
        )


class MedianStopping(SchedulerBase):
    """Stop a trial whose best score is below the median of the others' running means (Golovin et al. 2017)."""

    kind: Literal["median"] = "median"
    grace: int | None = Field(None, ge=1)
    """First evaluation at which a trial may be stopped; None takes a quarter of a trial."""
    min_trials: int = Field(3, ge=1)
    """Number of trials that must have come as far."""

    def _build(self, space: Space, evaluations: int, compared: JsonObject) -> TrialScheduler:
        from raykd.compat.tune_schedulers import NamedMedian

        return NamedMedian(
            **compared,
            grace_period=self.grace or math.ceil(evaluations / 4),
            min_samples_required=self.min_trials,
        )


class PopulationScheduler(SchedulerBase):
    """Base of the population schedulers: which keys mutate, and when."""

    needs_population: ClassVar[bool] = True
    pauses: ClassVar[bool] = True
    interval: int | None = Field(None, ge=1)
    """Evaluations between two mutations; None takes a fifth of a trial."""
    quantile: float = Field(0.25, gt=0.0, le=0.5)
    """Share of the worst trials that are replaced by copies of the best."""

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
    """Population based training (arXiv:1711.09846). The worst trials copy the best, then numbers move by 0.8 or 1.2.

    The result is a schedule and holds only for a run that repeats it. Mutated numbers stay in their domain.
    """

    kind: Literal["pbt"] = "pbt"
    resample: float = Field(0.25, ge=0.0, le=1.0)
    """Probability that a mutation draws a new value in place of a move."""

    def _build(self, space: Space, evaluations: int, compared: JsonObject) -> TrialScheduler:
        from raykd.compat.tune_schedulers import Population

        return Population(
            **compared,
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
    """PBT with mutations chosen by a Gaussian process (arXiv:2002.02518), for populations of at most 8.

    It models every domain linearly between its bounds, also a log_uniform one.
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

    def _build(self, space: Space, evaluations: int, compared: JsonObject) -> TrialScheduler:
        from raykd.compat.tune_schedulers import BanditPopulation

        domains = {one.path: one.domain for one in space.domains}
        bounds: JsonObject = {
            path: [d.low, d.high] for path, d in domains.items() if isinstance(d, UniformDomain)
        }
        try:
            return BanditPopulation(
                **compared,
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
    """Keeps mutated numbers in their domains, since Tune multiplies them without a bound. Pickled with Tune's state."""

    def __init__(self, space: Space) -> None:
        self._domains = {
            one.path: one.domain for one in space.domains if not isinstance(one.domain, ChoiceDomain)
        }

    def __call__(self, config: JsonObject) -> JsonObject:
        return {
            path: self._domains[path].clip(value) if path in self._domains else value
            for path, value in config.items()
        }


Scheduler = Annotated[
    Fifo | Asha | HyperBand | MedianStopping | Pbt | Pb2,
    Field(discriminator="kind"),
]
"""Any scheduler."""
