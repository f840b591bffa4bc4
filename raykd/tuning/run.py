"""Run `raykd sweep`: search a space and write the best run, a report page and an MLflow run with a child per trial.

Decision record: checks that can fail come first (space, files, labels, resources, MLflow). Teachers are made once,
scored on the validation rows, and answer every text once before the first trial. Then the trials get the teachers'
resources and read the answers from disk. An interrupted sweep continues from its journal (see `suggest`).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from raykd.config import Run
from raykd.config.loading import dump_run, flatten_run
from raykd.config.rewriting.pinning import pin_revisions
from raykd.driver.command import Command, FolderContents, Start, TrackedRun, run_command
from raykd.driver.jobs import find_student_stage, start_from_jobs
from raykd.driver.session import Session
from raykd.errors import ConfigError
from raykd.folders.changes import Changes
from raykd.folders.earlier_start import EarlierStart
from raykd.folders.folder import RunFolder
from raykd.preflight.check import preflight
from raykd.spaces.search import LATEST_SCORE, SCORE
from raykd.teachers.pools.stored_pool import NeededAnswers
from raykd.tuning.checks.refusals import has_features
from raykd.tuning.checks.resume import compare_sweep, explain_sweep
from raykd.tuning.checks.trials import check_known_trials, check_trial_resources
from raykd.tuning.config import Sweep, dump_sweep
from raykd.tuning.driver import CHECKPOINTS, SweepDriver, find_shared_weightings, read_base_jobs
from raykd.tuning.outcome import SweepOutcome, conclude_sweep
from raykd.tuning.sizes import measure_trial_sizes
from raykd.tuning.trial_rank import PretrainedRuns, RunFactory
from raykd.tuning.tuner import TrialPlan

log = logging.getLogger("raykd.tuning")


def run_sweep(plan: Sweep, start: Start | None = None) -> SweepOutcome:
    """Run a sweep and return its best run, table and page; a resume keeps the finished trials.

    Raises:
        RaykdError: The sweep cannot start or cannot go on. What was written before stays.
    """
    plan = replace(plan, base=pin_revisions(plan.base))
    return run_command(SweepCommand(plan), start)


class SweepCommand(Command[SweepOutcome]):
    """Trains trials over the teachers' stored answers and writes down the best run."""

    title = "the sweep"

    def __init__(self, plan: Sweep) -> None:
        self.plan, self.owner, self.base = plan, plan, plan.base

    def check(self) -> Sequence[str]:
        """Check the base as a run, and whether a trial fits."""
        notes = preflight(self.base, together=self.plan.config.label == "on_demand")
        check_trial_resources(self.plan)
        return notes

    def compare(self, path: Path, state: Mapping[str, object]) -> tuple[Changes, Run | None]:
        """Compare the sweep with the one in the folder."""
        return compare_sweep(self.plan, path, state)

    def explain(self, path: Path, changes: Changes) -> ConfigError:
        """Say which changed settings stop the resume."""
        return explain_sweep(path, changes)

    def prepare(self, earlier: EarlierStart) -> FolderContents:
        """Read the base's rows and check every trial that is known before the start."""
        self.teachers, self.student = read_base_jobs(self.base)
        check_known_trials(self.plan, self.student.data)
        self.started = start_from_jobs(self.base, self.teachers)
        self.trial_runs: RunFactory = self.plan.space
        if (first := find_student_stage(self.teachers)) is not None:
            self.trial_runs = PretrainedRuns(self.plan.space, first.output)
        files = {"run.yaml": dump_run(self.base), "space.yaml": dump_sweep(self.plan)}
        return FolderContents(self.student.fingerprints(), files)

    def introduce(self, folder: RunFolder, console: Console) -> None:
        """Print the number of trials, the searched keys and the size of the data."""
        plan, before = self.plan, "" if folder.fresh else ", going on"
        texts = sum(len(data.train) for data in self.student.data.values())
        console.print(
            f"[bold]{plan.name}[/bold]{before}  {plan.trials} trials, {plan.config.search.kind} search with "
            f"{plan.config.scheduler.kind}, over {', '.join(dict.fromkeys(plan.space.short_names().values()))}; "
            f"{texts:,} training texts, {len(plan.base.active_teachers)} teachers; "
            f"best validation {self.student.metric}",
            highlight=False,
            soft_wrap=True,
        )

    def record(self) -> TrackedRun:
        """Record the base and the sweep's own keys. Trials get child runs."""
        plan = self.plan
        tree = plan.config.model_dump(mode="json", exclude={"base", "set"})
        params = {
            **flatten_run(plan.base),
            **{f"sweep.{key}": json.dumps(value) for key, value in tree.items()},
        }
        tags = {"raykd.role": "sweep", "raykd.fingerprint": plan.fingerprint()}
        return TrackedRun(plan.name, params, tags)

    def run(self, session: Session) -> SweepOutcome:
        """Let the teachers answer, run the trials, and write the table, the page and the best run."""
        plan, folder = self.plan, session.folder
        weightings = find_shared_weightings(plan.base, sorted(plan.space.searched))
        states = has_features(plan)
        needed = {
            task: [NeededAnswers(self.student.data[task].asked, weighting, states=states)]
            for task, weighting in weightings.items()
        }
        driver = SweepDriver(self.started, self.teachers, self.student, session, plan.config.label, needed)
        trials = self._plan_trials(driver)  # refuses what cannot start before the teachers work for it
        journal = driver.run(lambda: trials)
        outcome = conclude_sweep(
            plan,
            folder,
            journal,
            session.open_tracker(),
            (*plan.notes, *driver.notes),
            driver.student.metric,
            partial(
                measure_trial_sizes,
                factory=self.trial_runs,
                base=self.started,
                data=driver.student.data,
                tokenizers=driver.tokenizers,
            ),
            driver.sizes,
        )
        if not journal.cut_off:
            shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)
        return outcome

    def _plan_trials(self, driver: SweepDriver) -> TrialPlan:
        """Plan the trials.

        Raises:
            ResourceError: No trial fits, or fewer than were asked for.
        """
        plan, config = self.plan, self.plan.config
        concurrent = driver.count_concurrent_trials(config.max_concurrent_trials)
        log.info("%d trials at once", concurrent)
        # A population is compared by each member's last score. A member's best score may belong to a setting that it
        # has given up since.
        metric = LATEST_SCORE if config.scheduler.needs_population else SCORE
        return TrialPlan(
            run_factory=self.trial_runs,
            sampler=plan.build_sampler(),
            scheduler=config.scheduler.build(plan.space, plan.base.train.evaluations, plan.mode, metric),
            trials=plan.trials,
            mode=plan.mode,
            names=plan.space.short_names(),
            concurrent=None if config.scheduler.pauses else concurrent,
            population=plan.trials if config.scheduler.pauses else None,
            time_budget_s=config.time_budget_s,
            max_failures=config.max_failures,
            checkpoint_s=config.checkpoint_s,
            replays=config.scheduler.kind in ("asha", "median"),
        )
