"""Run `raykd confirm`: compare a sweep's winner with its default, over seeds that no trial has used.

Decision record: the winner was chosen by its validation score, so that score is too high by the luck of the search.
Winner and default are trained again with the same fresh seeds, as trials over the teachers' stored answers. Then each
student reads the test rows once, and the report shows the paired differences.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from raykd.config import Run
from raykd.config.home import find_folder
from raykd.config.loading import dump_run, flatten_run
from raykd.driver.command import Command, FolderContents, TrackedRun, run_command
from raykd.driver.session import Session
from raykd.errors import ConfigError
from raykd.experiments.arms import Arms, read_arms
from raykd.experiments.comparison import Confirmation, compare_students, conclude_confirmation
from raykd.experiments.resume import compare_arms, explain_arm_changes
from raykd.folders.changes import Changes
from raykd.folders.earlier_start import EarlierStart
from raykd.folders.folder import RunFolder
from raykd.preflight.check import preflight
from raykd.spaces.schedulers import Fifo
from raykd.tuning.config import Sweep
from raykd.tuning.driver import CHECKPOINTS, SweepDriver, read_base_jobs
from raykd.tuning.tuner import TrialPlan


def run_confirmation(
    sweep_folder: Path,
    seeds: int = 5,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Confirmation:
    """Train winner and default with fresh seeds and compare them on the held-out rows.

    Args:
        sweep_folder: output/name of a finished sweep.
        seeds: Number of seeds; an interval needs two.
        resume: Continue an earlier confirmation; more seeds may be added.
        overwrite: Empty the folder first.
        console: Where progress is shown; None creates one.

    Raises:
        RaykdError: The confirmation cannot start or cannot go on.
    """
    plan, arms = read_arms(find_folder(sweep_folder).resolve(), seeds)
    return run_command(ConfirmCommand(plan, arms), resume=resume, overwrite=overwrite, console=console)


class ConfirmCommand(Command[Confirmation]):
    """Trains winner and default as trials with fresh seeds, and compares them on the held-out rows.

    Args:
        plan: The finished sweep.
        arms: Winner, default and seeds.
    """

    title = "the confirmation"

    def __init__(self, plan: Sweep, arms: Arms) -> None:
        self.plan, self.arms, self.owner, self.base = plan, arms, arms, plan.base

    def check(self) -> Sequence[str]:
        """Check the sweep's base as a run."""
        return preflight(self.base, together=self.plan.config.label == "on_demand")

    def compare(self, path: Path, state: Mapping[str, object]) -> tuple[Changes, Run | None]:
        """Compare both arms with those in the folder."""
        return compare_arms(self.arms, path, state)

    def explain(self, path: Path, changes: Changes) -> ConfigError:
        """Say which changed settings stop the resume."""
        return explain_arm_changes(path, changes)

    def prepare(self, earlier: EarlierStart) -> FolderContents:
        """Read the base's rows."""
        self.teachers, self.student = read_base_jobs(self.base)
        runs = {"winner": self.arms.winner, "default": self.arms.default, "run": self.base}
        files = {f"{name}.yaml": dump_run(run) for name, run in runs.items()}
        return FolderContents(self.student.fingerprints(), files)

    def introduce(self, folder: RunFolder, console: Console) -> None:
        """Print the arms and the number of seeds."""
        seeds = len(self.arms.seeds)
        console.print(
            f"[bold]{self.plan.name}[/bold]  winner and default, {seeds} fresh seeds each", highlight=False
        )

    def record(self) -> TrackedRun:
        """Record the default's settings, and the winner's where they differ."""
        plan, arms = self.plan, self.arms
        default = flatten_run(arms.default)
        differing = {
            f"winner.{key}": value
            for key, value in flatten_run(arms.winner).items()
            if default.get(key) != value
        }
        params = {**default, **differing, "confirm.seeds": str(list(arms.seeds))}
        tags = {"raykd.role": "confirmation", "raykd.tuning": plan.name}
        return TrackedRun(f"{plan.name}-confirm", params, tags)

    def run(self, session: Session) -> Confirmation:
        """Let the teachers answer, train every arm with every seed, and compare the arms."""
        plan, arms = self.plan, self.arms
        driver = SweepDriver(
            plan.base, self.teachers, self.student, session, plan.config.label, arms.weightings()
        )
        students = session.folder.path / "students"
        journal = driver.run(self._plan_trials(driver, students))
        report = compare_students(plan, arms, self.student, journal, students, driver.notes)
        result = conclude_confirmation(report, session.folder, journal, session.open_tracker())
        shutil.rmtree(session.folder.path / CHECKPOINTS, ignore_errors=True)
        return result

    def _plan_trials(self, driver: SweepDriver, students: Path) -> TrialPlan:
        plan, arms, config = self.plan, self.arms, self.plan.config
        return TrialPlan(
            run_factory=arms,
            sampler=arms,
            scheduler=Fifo().build(plan.space, plan.base.train.evaluations, plan.mode),
            trials=arms.trials,
            mode=plan.mode,
            concurrent=driver.count_concurrent_trials(config.max_concurrent_trials),
            max_failures=config.max_failures,
            checkpoint_s=config.checkpoint_s,
            students=students,
        )
