"""Run `raykd compare` and `raykd confirm`: train every arm with every seed, and compare the arms on the held-out rows.

Decision record: a training is a trial of a sweep without a search (`raykd.tuning`): the same processes, several at a
time, the same journal, and so the same resume. The teachers of all arms answer every text that some arm asks them about
once, before the first training. The held-out test rows are read once, after the last training.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console, RenderableType

from raykd.config import Run
from raykd.config.home import ARMS, EXPERIMENT
from raykd.config.loading import dump_run, flatten_run
from raykd.config.rewriting.pinning import pin_revisions
from raykd.driver.command import Command, FolderContents, Start, TrackedRun, run_command
from raykd.driver.session import Session
from raykd.errors import ConfigError, RaykdError, SweepError
from raykd.experiments.arms import ExperimentPlan, PairSampler
from raykd.experiments.progress import ArmProgress
from raykd.experiments.recording import record_comparison, record_students
from raykd.experiments.resume import compare_arms, dump_arms, explain_arm_changes
from raykd.experiments.scoring import score_arms
from raykd.experiments.starts import plan_starts
from raykd.folders.changes import Changes
from raykd.folders.earlier_start import EarlierStart
from raykd.folders.folder import RunFolder
from raykd.preflight.check import preflight
from raykd.report.comparisons.page import write_comparison_page
from raykd.report.comparisons.plain_data import dump_comparison
from raykd.report.comparisons.results import ComparisonReport
from raykd.report.comparisons.tables import ComparisonTables
from raykd.spaces.schedulers import Fifo
from raykd.spaces.space import Sample, Space
from raykd.timeline.progress import show_progress
from raykd.tuning.checks.trials import TrialCheck
from raykd.tuning.driver import CHECKPOINTS, SweepDriver, read_base_jobs
from raykd.tuning.journal import Journal
from raykd.tuning.tuner import TrialPlan

RESULT = "comparison.json"
"""File with everything that was measured."""
CHOSEN = "chosen"
"""Key of the folder's state: the trial that each arm has chosen."""
STUDENTS = "students"
"""Folder with the student of every training."""


@dataclass(frozen=True)
class ComparisonOutcome:
    """What an experiment found.

    Attributes:
        report: Every arm with every seed, and the differences.
        tables: Tables for the terminal.
        lines: Lines for the terminal, in rich's markup.
        failed: Number of trainings that failed.
        page: The report page.
        mlflow_run_id: The experiment's MLflow run.
    """

    report: ComparisonReport
    tables: tuple[RenderableType, ...]
    lines: tuple[str, ...]
    failed: int
    page: Path
    mlflow_run_id: str


def run_comparison(experiment: ExperimentPlan, start: Start | None = None) -> ComparisonOutcome:
    """Train every arm with every seed and compare the arms on the held-out rows; a resume may add seeds and arms.

    Raises:
        RaykdError: The experiment cannot start or cannot go on. What was trained before stays.
    """
    arms = tuple(arm.change_runs(pin_revisions) for arm in experiment.arms)
    experiment = replace(experiment, base=pin_revisions(experiment.base), arms=arms)
    return run_command(CompareCommand(experiment), start)


class CompareCommand(Command[ComparisonOutcome]):
    """Trains arms as trials with the experiment's seeds, and compares them on the held-out rows."""

    def __init__(self, experiment: ExperimentPlan) -> None:
        self.asked = experiment
        self.experiment = experiment.share_teachers()
        self.owner, self.base, self.title = experiment, self.experiment.base, f"the {experiment.role}"

    def check(self) -> Sequence[str]:
        """Check the base, with the teachers of all arms, as a run."""
        return preflight(self.base, together=self.experiment.label == "on_demand")

    def compare(self, path: Path, state: Mapping[str, object]) -> tuple[Changes, Run | None]:
        """Compare the arms with those in the folder."""
        return compare_arms(self.experiment, path, state)

    def explain(self, path: Path, changes: Changes) -> ConfigError:
        """Say which changed settings stop the resume."""
        return explain_arm_changes(path, changes)

    def prepare(self, earlier: EarlierStart) -> FolderContents:
        """Read the base's rows, decide how long arms train, and check every arm."""
        self.teachers, self.student = read_base_jobs(self.base)
        files = {"run.yaml": dump_run(self.asked.base), ARMS: dump_arms(self.experiment)}
        if self.experiment.yaml:
            files[EXPERIMENT] = self.experiment.yaml
        self.experiment = self.experiment.fix_steps(self.student.steps)
        check_arms(self.experiment, self.student.data)
        stages, start = plan_starts(self.experiment, self.teachers)
        self.teachers += stages
        arms = tuple(arm.change_runs(start) for arm in self.experiment.arms)
        self.base = start(self.base)
        self.experiment = replace(self.experiment, base=self.base, arms=arms)
        return FolderContents(self.student.fingerprints(), files)

    def introduce(self, folder: RunFolder, console: Console) -> None:
        """Print the number of arms and seeds, and what all have in common."""
        experiment, before = self.experiment, "" if folder.fresh else ", going on"
        teachers = len(self.base.active_teachers)
        console.print(
            f"[bold]{experiment.name}[/bold]{before}  {experiment.describe()}; "
            + (
                "1 teacher answers once for all"
                if teachers == 1
                else f"{teachers} teachers answer once for all"
            ),
            highlight=False,
            soft_wrap=True,
        )

    def record(self) -> TrackedRun:
        """Record the base's settings, and those of an arm where they differ. Trainings get child runs."""
        experiment = self.asked
        base = flatten_run(experiment.base)
        params = {**base, "compare.seeds": str(list(experiment.seeds))}
        for arm in experiment.arms:
            own = flatten_run(arm.run)
            params |= {f"{arm.name}.{key}": value for key, value in own.items() if base.get(key) != value}
        name = experiment.name
        tags: dict[str, str] = {"raykd.role": experiment.role}
        if experiment.role == "confirmation":
            sweep = Path(experiment.output).name
            name, tags = f"{sweep}-{name}", {**tags, "raykd.tuning": sweep}
        return TrackedRun(name, params, tags)

    def run(self, session: Session) -> ComparisonOutcome:
        """Let the teachers answer, train every arm with every seed, and compare the arms."""
        experiment, folder = self.experiment, session.folder
        needed = experiment.list_needed_answers(self.student.data)
        # The base's own, not those that single arms add; all, where the base has none.
        own = [teacher.name for teacher in self.asked.base.active_teachers or self.base.active_teachers]
        driver = SweepDriver(
            self.base,
            self.teachers,
            self.student,
            session,
            experiment.label,
            needed,
            references={"": own, **experiment.list_own_teachers()},
        )
        students = folder.path / STUDENTS
        concurrent = driver.count_concurrent_trials(experiment.max_concurrent_trials)
        plans = [partial(self._plan_seeds, driver.journal, folder, concurrent)]
        if is_choosing(experiment, driver.journal):
            plans.insert(0, partial(self._plan_choice, concurrent))
        journal = driver.run(*plans)
        experiment = self.experiment
        with show_progress(session.console, "students are scored", "students") as show:
            report = score_arms(
                experiment, driver.student, journal, students, driver.notes, show, driver.references
            )
        result = self._conclude(report, session, journal)
        shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)
        return result

    def _plan_choice(self, concurrent: int) -> TrialPlan:
        """Plan the trials among which the arms choose."""
        experiment = self.experiment
        samples = experiment.tuning_samples
        progress = partial(
            ArmProgress,
            arms=[arm.name for arm in experiment.arms],
            seeds=range(len(experiment.arms[0].trials)),
            key="trial",
        )
        return self._plan_trials(PairSampler(samples), len(samples), concurrent, None, progress)

    def _plan_seeds(self, journal: Journal, folder: RunFolder, concurrent: int) -> TrialPlan:
        """Plan every arm with every seed, each arm as the trial that it has chosen.

        The choice is kept: a failed trial that a resume trains after all must not change what the seeds repeat.
        """
        chosen = choose_trials(self.experiment, journal, folder.state.get(CHOSEN, {}))
        folder.write_state(**{CHOSEN: chosen})
        arms = (arm.choose_trial(chosen[arm.name]) if arm.trials else arm for arm in self.experiment.arms)
        self.experiment = experiment = replace(self.experiment, arms=tuple(arms))
        progress = partial(ArmProgress, arms=[arm.name for arm in experiment.arms], seeds=experiment.seeds)
        sampler = experiment.build_sampler()
        # Trainings of seeds that are not asked for any more have places among the trials of the journal.
        dropped = sum(not sampler.is_wanted(trial.sample) for trial in journal.trials.values())
        total = len(experiment.tuning_samples) + experiment.trainings + dropped
        return self._plan_trials(sampler, total, concurrent, folder.path / STUDENTS, progress)

    def _plan_trials(
        self,
        sampler: PairSampler,
        total: int,
        concurrent: int,
        students: Path | None,
        make_progress: Callable[..., ArmProgress],
    ) -> TrialPlan:
        experiment, base = self.experiment, self.base
        return TrialPlan(
            run_factory=experiment,
            sampler=sampler,
            scheduler=Fifo().build(Space({}), base.train.evaluations, experiment.mode),
            trials=total,
            mode=experiment.mode,
            concurrent=concurrent,
            max_failures=experiment.max_failures,
            checkpoint_s=experiment.checkpoint_s,
            students=students,
            make_progress=make_progress,
        )

    def _conclude(self, report: ComparisonReport, session: Session, journal: Journal) -> ComparisonOutcome:
        """Write page, tables and JSON, and record them."""
        path, tables = session.folder.path, ComparisonTables(report)
        page = write_comparison_page(report, path / "report.html")
        (path / "results.md").write_text(tables.to_markdown(), encoding="utf-8")
        (path / RESULT).write_text(json.dumps(dump_comparison(tables.report), indent=1), encoding="utf-8")
        record_students(report, journal, session)
        lines = record_comparison(report, page, session, journal, self.experiment.role)
        failed = sum(t.status in ("failed", "diverged") for t in journal.trials.values())
        tracker = session.open_tracker()
        return ComparisonOutcome(report, tables.to_rich(), lines, failed, page, tracker.run_id)


def is_choosing(experiment: ExperimentPlan, journal: Journal) -> bool:
    """Return whether some arm has still to be trained with one of its trials."""
    ended = [trial.sample for trial in journal.trials.values() if trial.status is not None]
    return any(sample not in ended for sample in experiment.tuning_samples)


def choose_trials(experiment: ExperimentPlan, journal: Journal, known: Mapping[str, int]) -> dict[str, int]:
    """Return the number of the best trial of each arm, by validation score, then lower NLL.

    Args:
        experiment: The arms.
        journal: Their trials.
        known: What was chosen before, which stays.

    Raises:
        SweepError: No trial of an arm was scored.
    """
    chosen = dict(known)
    for arm in experiment.arms:
        if not arm.trials or arm.name in chosen:
            continue
        rows = [
            trial.row(experiment.mode == "max")
            for trial in journal.trials.values()
            if trial.sample["arm"] == arm.name and "trial" in trial.sample
        ]
        scored = sorted((row for row in rows if row.is_eligible), key=lambda row: row.order)
        if not scored:
            raise SweepError(
                f"no trial of the arm {arm.name} came to a score",
                got="; ".join(row.error or row.status for row in rows) or "none was trained",
                wanted="at least one trial with a finite validation score",
                next_step="correct the arm or `trials`, and start another experiment (name=...)",
            )
        chosen[arm.name] = int(scored[0].sample["trial"])
    return chosen


def check_arms(experiment: ExperimentPlan, data: Mapping[str, object]) -> None:
    """Check every arm with its first seed, and its trials, as runs.

    Raises:
        ConfigError: Some arms cannot be trained. Names each with the reason.
    """
    states = [a.name for a in experiment.arms if any(m.objective.features for m in a.run.members.values())]
    if states and experiment.label == "ahead":
        raise ConfigError(
            "objective.features asks teachers for states while students train, and here they answer ahead",
            got=f"label: ahead; arms with features: {', '.join(states)}",
            wanted="label: on_demand",
        )
    check = TrialCheck(experiment, experiment.base, data)  # type: ignore[arg-type]
    wrong = []
    first_seed: list[Sample] = [{"arm": arm.name, "seed": experiment.seeds[0]} for arm in experiment.arms]
    for sample in (*first_seed, *experiment.tuning_samples):
        try:
            check(sample)
        except RaykdError as error:
            wrong.append((str(sample["arm"]), error))
    if not wrong:
        return
    name, first = wrong[0]
    names = list(dict.fromkeys(name for name, _ in wrong))
    raise ConfigError(
        f"{len(names)} of {len(experiment.arms)} arms cannot be trained: {', '.join(names)}",
        got=f"{name}: {first.what}" + (f", got {first.got}" if first.got else ""),
        wanted=first.wanted or "arms that are runs",
        next_step=first.next_step or "correct the arm, or leave it out",
    )
