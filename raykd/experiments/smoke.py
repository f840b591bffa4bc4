"""Shorten an experiment for `raykd compare --smoke`: every arm with two seeds, few rows and few steps."""

from __future__ import annotations

from dataclasses import replace

from raykd.config import Run, TrainedTeacher
from raykd.config.smoke import ROWS, name_smoke_copy, shorten_run
from raykd.driver.smoke import check_smoke_folder, mark_as_smoke
from raykd.experiments.arms import ExperimentPlan

SEEDS = 2
"""Seeds of the short copy, the fewest that have an interval."""


def shorten_experiment(plan: ExperimentPlan) -> ExperimentPlan:
    """Return a short copy of an experiment with the same arms.

    Raises:
        ConfigError: The folder of the copy holds something else.
    """
    check_smoke_folder(plan.output, plan.name)
    runs = [plan.base, *(run for arm in plan.arms for run in (arm.run, *arm.trials))]
    taught = [
        t.training.train.batch_size for run in runs for t in run.teachers if isinstance(t, TrainedTeacher)
    ]
    rows = max(ROWS, *taught, *(run.train.batch_size for run in runs))

    def shorten(run: Run) -> Run:
        # Its own name: only the experiment's folder is used.
        marked = mark_as_smoke(run, plan.name).model_copy(update={"name": run.name})
        return shorten_run(marked, rows=rows)

    return replace(
        plan,
        name=name_smoke_copy(plan.name),
        base=shorten(plan.base),
        arms=tuple(arm.change_runs(shorten) for arm in plan.arms),
        seeds=plan.seeds[:SEEDS],
        checkpoint_s=0.0,
        yaml="",  # the short copy is not an experiment to go on with
    )
