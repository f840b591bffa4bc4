"""Run the trials of a plan with Ray Tune. The one place that builds a Tuner.

Decision record: Tune places trials, asks the sampler, lets the scheduler stop trials, and pauses or copies them. Its
other services are off: logs per trial, its own MLflow, tables on the terminal, a SIGINT handler that waits for a
checkpoint of everything. The journal, the mailbox and the progress bars do that. Tune's own folder is scratch.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import ray
from ray import tune
from ray.util.placement_group import PlacementGroup, remove_placement_group
from rich.console import Console

from raykd.environ import set_environment
from raykd.runs.worker import list_worker_resources
from raykd.spaces.search import Mode, Sampler
from raykd.tuning.progress import SweepProgress
from raykd.tuning.recording.callback import TuneCallback
from raykd.tuning.suggest import Suggestions
from raykd.tuning.trial import TrialHost
from raykd.tuning.trial_rank import RunFactory, TrialContext

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_THRESHOLD_S": "10",
}
"""Switches of Tune that have no argument. The last two silence output that the progress bars replace."""


@dataclass(frozen=True)
class TrialPlan:
    """Which trials are run, and how.

    Attributes:
        run_factory: Makes the run of a sample.
        sampler: Chooses the samples.
        scheduler: Tune's, which stops trials early.
        trials: Number of trials.
        mode: Direction of the metric.
        concurrent: Most unfinished trials at one time; None where the scheduler pauses trials, so that only resources
            limit them.
        max_failures: How often a crashed trial is tried again.
        checkpoint_s: Least time between two checkpoints of a trial, in seconds.
        names: Short names of the searched keys, by path.
        population: Number of trials that must all exist from the start; None without a population.
        time_budget_s: Seconds after which trials are stopped; None sets no limit.
        replays: Whether a resume shows the scheduler the earlier results.
        students: Folder for the trained students; None keeps none.
        make_progress: Makes what shows the progress (see `SweepProgress`).
    """

    run_factory: RunFactory
    sampler: Sampler
    scheduler: TrialScheduler
    trials: int
    mode: Mode
    concurrent: int | None
    max_failures: int
    checkpoint_s: float
    names: Mapping[str, str] = field(default_factory=dict)
    population: int | None = None
    time_budget_s: float | None = None
    replays: bool = False
    students: Path | None = None
    make_progress: Callable[[Console, str, int, Mapping[str, str]], SweepProgress] = SweepProgress


def run_trials(
    plan: TrialPlan, context: TrialContext, suggestions: Suggestions, callback: TuneCallback, scratch: Path
) -> None:
    """Run trials until the sampler or the time budget ends them.

    A failed trial raises nothing; the journal has its error.

    Args:
        plan: Which trials.
        context: What all trials share.
        suggestions: Hands out the trials.
        callback: Records what they report.
        scratch: Tune's own folder, removed afterwards.
    """
    workers = context.base.workers
    trainable = tune.with_resources(
        tune.with_parameters(TrialHost, context=context),
        TrialPlacement(
            [dict(list_worker_resources(workers)) for _ in range(workers.num_workers)], strategy="PACK"
        ),
    )
    # Tune creates few pending trials by default; a population would then wait for members that never come.
    pending = {} if plan.population is None else {"TUNE_MAX_PENDING_TRIALS_PG": str(plan.population)}
    with set_environment({**ENVIRONMENT, **pending}):
        tuner = tune.Tuner(
            trainable,
            param_space={},
            tune_config=tune.TuneConfig(
                search_alg=suggestions,
                scheduler=plan.scheduler,
                num_samples=-1,  # the searcher ends the sweep
                max_concurrent_trials=plan.concurrent,
                time_budget_s=plan.time_budget_s,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                failure_config=tune.FailureConfig(max_failures=plan.max_failures),
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
            shutil.rmtree(scratch, ignore_errors=True)


class TrialPlacement(tune.PlacementGroupFactory):
    """The resources of a trial. Remembers its placement groups, because Tune leaks them when it is interrupted."""

    made: ClassVar[list[PlacementGroup]] = []

    def to_placement_group(self) -> PlacementGroup:
        """Create a placement group and remember it."""
        group: PlacementGroup = super().to_placement_group()  # type: ignore[no-untyped-call]
        TrialPlacement.made.append(group)
        return group

    @classmethod
    def free(cls) -> None:
        """Remove all placement groups, which ends the processes in them."""
        with contextlib.suppress(ray.exceptions.RayError):
            for group in cls.made:
                remove_placement_group(group)
        cls.made.clear()
