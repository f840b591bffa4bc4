"""Let the students of all arms start from what is trained before them: a teacher, or their own pretraining.

Decision record: arms with the same pretraining share one, whatever else differs. Each other one is a job with the
name of the first arm that asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from raykd.config import Run, RunConfig
from raykd.config.rewriting.pretraining import make_pretraining_run
from raykd.driver.jobs import Job, find_student_stage, make_student_stages, start_from_jobs, start_student
from raykd.experiments.arms import ExperimentPlan


def plan_starts(experiment: ExperimentPlan, jobs: Sequence[Job]) -> tuple[list[Job], Callable[[Run], Run]]:
    """Plan the pretraining of arms that have another one than the base.

    Args:
        experiment: The arms.
        jobs: What the base trains first, its own pretraining among it.

    Returns:
        The jobs that come beside those, and a function that lets the student of a run start from them.
    """
    first = find_student_stage(jobs)
    known: dict[str, Job] = {} if first is None else {_name_stage(experiment.base): first}
    more: list[Job] = []
    for arm in experiment.arms:
        for run in (arm.run, *arm.trials):
            key = _name_stage(run)
            if key and key not in known:
                before, stage = (found := make_student_stages(run))[:-1], found[-1]
                twin = next((job for job in known.values() if job.output == stage.output), None)
                known[key] = twin or replace(stage, name=f"{stage.name}-{arm.name}")
                more += [] if twin else [*before, known[key]]

    def start(run: Run) -> Run:
        stage = known.get(_name_stage(run))
        return start_from_jobs(run, jobs) if stage is None else start_student(run, stage.output)

    there = {job.output for job in jobs}
    return [job for job in more if job.output not in there], start


def _name_stage(run: Run) -> str:
    """Return what tells pretrainings apart; "" without one."""
    is_pretrained = isinstance(run, RunConfig) and run.pretraining is not None
    return make_pretraining_run(run).model_dump_json() if is_pretrained else ""  # type: ignore[arg-type]
