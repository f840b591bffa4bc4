"""Ray Tune runs the trials: the one place that builds a Tuner.

Decision record: Tune places trials, asks the sampler, lets the scheduler judge and pauses or copies trials. What it
would also do (logs a trial, its own MLflow, tables on the terminal, a SIGINT handler that waits for a checkpoint of
everything) is off: the journal, the mailbox and the progress bars do that. Its own folder is scratch.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray import tune
from ray.util.placement_group import PlacementGroup, remove_placement_group

from raykd.config import WorkersConfig
from raykd.environ import set_environment
from raykd.runs.ray_train import list_worker_resources
from raykd.tuning.callback import TuneCallback
from raykd.tuning.suggest import Suggestions
from raykd.tuning.trial import TrialHost
from raykd.tuning.trial_rank import TrialContext

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_THRESHOLD_S": "10",
}


@dataclass(frozen=True)
class TuneSettings:
    """How Tune runs a sweep's trials.

    Attributes:
        concurrent: Trials that are not over at one time; None where the scheduler pauses some, and resources
            are the limit.
        population: Trials that all must be there from the start.
        scratch: Tune's own folder, removed afterwards.
    """

    workers: WorkersConfig
    concurrent: int | None
    population: int | None
    time_budget_s: float | None
    max_failures: int
    scratch: Path


def run_trials(
    context: TrialContext,
    suggestions: Suggestions,
    scheduler: Any,
    callback: TuneCallback,
    settings: TuneSettings,
) -> None:
    """Run trials until the sampler or the time budget ends them. Failed trials are in the journal, not raised."""
    needs = list_worker_resources(settings.workers)
    bundles = [dict(needs) for _ in range(settings.workers.num_workers)]
    trainable = tune.with_resources(
        tune.with_parameters(TrialHost, context=context),
        TrialPlacement(bundles, strategy="PACK"),
    )
    pending = {} if settings.population is None else {"TUNE_MAX_PENDING_TRIALS_PG": str(settings.population)}
    with set_environment({**ENVIRONMENT, **pending}):
        tuner = tune.Tuner(
            trainable,
            param_space={},
            tune_config=tune.TuneConfig(
                search_alg=suggestions,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=settings.concurrent,
                time_budget_s=settings.time_budget_s,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(settings.scratch),
                failure_config=tune.FailureConfig(max_failures=settings.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                callbacks=[callback],
                verbose=0,
            ),
        )
        try:
            with callback.listening():
                tuner.fit()
        finally:
            TrialPlacement.free()
            shutil.rmtree(settings.scratch, ignore_errors=True)


class TrialPlacement(tune.PlacementGroupFactory):
    """Resources of a trial; remembers the placement groups, which Tune leaves behind where it is interrupted."""

    made: ClassVar[list[PlacementGroup]] = []

    def to_placement_group(self) -> PlacementGroup:
        """Return a placement group for one trial process after another."""
        group: PlacementGroup = super().to_placement_group()  # type: ignore[no-untyped-call]
        TrialPlacement.made.append(group)
        return group

    @classmethod
    def free(cls) -> None:
        """Remove them all, and with them what runs in them."""
        with contextlib.suppress(ray.exceptions.RayError):
            for group in cls.made:
                remove_placement_group(group)
        cls.made.clear()
