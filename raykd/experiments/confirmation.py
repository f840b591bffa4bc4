"""`raykd confirm`: is the winner of a sweep better than the default, with seeds that no trial has seen?

Decision record: the winner's validation score carries the luck of the search, so it says nothing by itself. Winner and
default are trained again with the same fresh seeds, as trials like those of the sweep, over the teachers' stored
answers; then each student reads the test rows once, and the report holds the paired differences.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from raykd.config import Run
from raykd.config.home import find_folder
from raykd.config.loading import dump, flatten, load_any
from raykd.config.multi import SCORE
from raykd.distill.weighting import Weighting
from raykd.driver.command import Command, FolderContents, run_command
from raykd.driver.jobs import Job
from raykd.driver.session import Session
from raykd.errors import ConfigError
from raykd.experiments.resume import compare_arms, explain_arms
from raykd.folders.changes import Changes
from raykd.folders.earlier_start import EarlierStart
from raykd.folders.folder import RunFolder
from raykd.keys import key_part
from raykd.point import Point
from raykd.preflight.check import preflight
from raykd.report.sweeps.confirmation import MACRO, SPLITS, ConfirmationReport
from raykd.report.sweeps.confirmation_page import confirmation_figures, write_confirmation_page
from raykd.scoring.score import student_system
from raykd.spaces.schedulers import Fifo
from raykd.tracking import Experiment, Tracker, environment, redact, tracking_uri
from raykd.tuning.capacity import concurrent_trials
from raykd.tuning.config import Sweep, load_sweep
from raykd.tuning.driver import CHECKPOINTS, Search, SweepDriver, Weightings, node_resources, read_base
from raykd.tuning.journal import FILE as JOURNAL
from raykd.tuning.journal import Journal
from raykd.tuning.outcome import BEST
from raykd.tuning.tuner import TuneSettings

ARMS = ("winner", "default")
FIRST_SEED = 1001
"""Where fresh seeds begin; those that a trial had are passed over."""


@dataclass(frozen=True)
class Arms:
    """Winner and default with each seed: what a confirmation trains."""

    winner: Run
    default: Run
    seeds: tuple[int, ...]
    name: str
    output: str

    def config(self, sample: Mapping[str, Any]) -> Run:
        """Return the run of an arm with a seed."""
        run: Run = getattr(self, sample["arm"])
        return run.model_copy(update={"seed": int(sample["seed"])})

    def fingerprint(self) -> str:
        """Of both runs; more seeds may be added on a resume."""
        return hashlib.sha256((self.winner.fingerprint() + self.default.fingerprint()).encode()).hexdigest()

    def weightings(self) -> Weightings:
        """Return the weightings of both arms, of each task; None where they choose other teachers."""
        differs = self.winner.select_teachers != self.default.select_teachers
        found: dict[str, list[Weighting | None]] = {}
        for task, default in self.default.members.items():
            one, other = self.winner.members[task].objective.weighting, default.objective.weighting
            found[task] = [None] if differs else [one] if one == other else [one, other]
        return found

    @property
    def trials(self) -> int:
        """Number of runs to train."""
        return len(ARMS) * len(self.seeds)

    # as a sampler: both arms of a seed after one another

    def ask(self, index: int) -> dict[str, Any] | None:
        """Sample ``index``."""
        if index >= self.trials:
            return None
        return {"arm": ARMS[index % len(ARMS)], "seed": self.seeds[index // len(ARMS)]}

    def report(self, index: int, evaluation: int, score: float) -> None:
        """Nothing is learnt on the way."""

    def tell(self, index: int, score: float | None) -> None:
        """Nothing is learnt at the end."""

    def restore(self, index: int, sample: Mapping[str, Any], score: float | None, finished: bool) -> None:
        """Nothing is learnt from before."""


@dataclass(frozen=True)
class Confirmation:
    """What a confirmation found. tables and lines are for the terminal."""

    report: ConfirmationReport
    tables: tuple[Any, ...]
    lines: tuple[str, ...]
    failed: int
    page: Path


def confirm(
    sweep_folder: Path,
    seeds: int = 5,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Confirmation:
    """Train winner and default with fresh seeds and compare them.

    Args:
        sweep_folder: output/name of a finished sweep.
        seeds: How many; an interval needs two.
        resume: Go on with an earlier confirmation; more seeds may be added.
        overwrite: Empty the folder first.
        console: Where progress is shown; None makes one.

    Raises:
        RaykdError: With what, got, wanted and the next step.
    """
    plan, arms = _arms(find_folder(sweep_folder).resolve(), seeds)
    return run_command(ConfirmCommand(plan, arms), resume=resume, overwrite=overwrite, console=console)


class ConfirmCommand(Command[Confirmation]):
    """Trains winner and default as trials with fresh seeds, and compares them on the held-out rows.

    Args:
        plan: The finished sweep.
        arms: What is trained.
    """

    title = "the confirmation"

    def __init__(self, plan: Sweep, arms: Arms) -> None:
        self.plan, self.arms, self.owner, self.base = plan, arms, arms, plan.base

    def check(self) -> Sequence[str]:
        """Check the sweep's base as a run."""
        return preflight(self.base, together=self.plan.config.label == "on_demand")

    def compare(self, path: Path, state: Mapping[str, Any]) -> tuple[Changes, Run | None]:
        """Compare both arms with those in the folder."""
        return compare_arms(self.arms, path, state)

    def explain(self, path: Path, changes: Changes) -> ConfigError:
        """Say which changed settings stop the resume."""
        return explain_arms(path, changes)

    def prepare(self, earlier: EarlierStart) -> FolderContents:
        """Read the base's rows."""
        self.teachers, self.student = read_base(self.base)
        runs = {"winner": self.arms.winner, "default": self.arms.default, "run": self.base}
        files = {f"{name}.yaml": dump(run) for name, run in runs.items()}
        return FolderContents(self.student.fingerprints(), files)

    def introduce(self, folder: RunFolder, console: Console) -> None:
        """Print what is trained."""
        seeds = len(self.arms.seeds)
        console.print(
            f"[bold]{self.plan.name}[/bold]  winner and default, {seeds} fresh seeds each", highlight=False
        )

    def start_tracker(self, folder: RunFolder) -> Tracker:
        """Open the confirmation's run in MLflow, with the default's settings and what the winner has otherwise."""
        plan, arms = self.plan, self.arms
        default = flatten(arms.default)
        differing = {
            f"winner.{key}": value for key, value in flatten(arms.winner).items() if default.get(key) != value
        }
        return Tracker.start(
            tracking_uri(plan.base.tracking, Path(plan.base.output).resolve()),
            Experiment.of(plan.base.tracking),
            f"{plan.name}-confirm",
            params={**default, **differing, "confirm.seeds": str(list(arms.seeds))},
            tags={"raykd.role": "confirmation", "raykd.tuning": plan.name, **environment()},
            run_id=folder.state.get("mlflow_run_id"),
            directory=folder.path,
        )

    def run(self, session: Session) -> Confirmation:
        """Have the teachers answer, train every arm with every seed, compare."""
        plan, arms = self.plan, self.arms
        driver = SweepDriver(
            plan.base, self.teachers, self.student, session, plan.config.label, arms.weightings()
        )
        students = session.folder.path / "students"
        journal = driver.run(self._search(driver, students))
        report = _report(plan, arms, self.student, journal, students, driver.notes)
        result = _conclude(report, session.folder, journal, session.tracker())
        shutil.rmtree(session.folder.path / CHECKPOINTS, ignore_errors=True)
        return result

    def _search(self, driver: SweepDriver, students: Path) -> Search:
        plan, arms, config = self.plan, self.arms, self.plan.config
        workers, asked = plan.base.workers, config.max_concurrent_trials
        return Search(
            configs=arms,
            sampler=arms,
            scheduler=Fifo().build(plan.space, plan.base.train.evaluations, plan.mode),
            trials=arms.trials,
            mode=plan.mode,
            names={},
            settings=TuneSettings(
                workers=workers,
                concurrent=concurrent_trials(node_resources(), workers, driver.kept_groups, asked),
                population=None,
                time_budget_s=None,
                max_failures=config.max_failures,
                scratch=driver.folder.path / "tune",
            ),
            checkpoint_s=config.checkpoint_s,
            students=students,
        )


def _arms(folder: Path, count: int) -> tuple[Sweep, Arms]:
    space, best = folder / "space.yaml", folder / BEST
    if not space.is_file() or not best.is_file():
        raise ConfigError(
            f"{folder} holds no finished sweep",
            got=f"no {(space if not space.is_file() else best).name}",
            wanted="the folder of a sweep, output/name",
            next_step="raykd sweep SPACE.yaml, or raykd sweep --resume NAME",
        )
    plan, winner = load_sweep(space, check=False), load_any(best)
    used = {plan.base.seed, *(t.sample.get("seed") for t in Journal(folder / JOURNAL).trials.values())}
    seeds: list[int] = []
    seed = FIRST_SEED
    while len(seeds) < count:
        if seed not in used:
            seeds.append(seed)
        seed += 1
    return plan, Arms(winner, plan.base, tuple(seeds), "confirm", str(folder))


def _conclude(
    report: ConfirmationReport, folder: RunFolder, journal: Journal, tracker: Tracker
) -> Confirmation:
    pictures = confirmation_figures(report)
    page = write_confirmation_page(report, folder.path / "report.html", pictures)
    (folder.path / "results.md").write_text(report.markdown(), encoding="utf-8")
    main = report.main
    if main is not None:
        values = {"confirm/difference": main.mean, "confirm/wins": float(main.wins)}
        bounds = {"confirm/low": main.low, "confirm/high": main.high}
        tracker.log_points(
            [Point(main.seeds, {**values, **{k: v for k, v in bounds.items() if v is not None}})]
        )
    tracker.log_table(report.rows(), "confirmation.json")
    tracker.log_text(report.markdown(), "confirmation.md")
    tracker.log_file(page)
    for name, (svg, _) in pictures.items():
        tracker.log_figure(svg, f"plots/{name}.svg")
    failed = sum(t.status in ("failed", "diverged") for t in journal.trials.values())
    lines = [f"[yellow]note[/yellow]     {note}" for note in report.notes]
    lines += [
        f"report   {page}",
        f"MLflow   {redact(tracker.uri)}  run {tracker.run_id}",
        f"log      {folder.log}",
    ]
    return Confirmation(report, (report.rich(),), tuple(lines), failed, page)


def _report(
    plan: Sweep, arms: Arms, student: Job, journal: Journal, students: Path, notes: Sequence[str]
) -> ConfirmationReport:
    """Score every student on the held-out rows, for the first time and once."""
    scores: dict[str, dict[int, dict[str, float]]] = {arm: {} for arm in ARMS}
    for trial in journal.trials.values():
        if trial.status != "finished":
            continue
        arm, seed = str(trial.sample["arm"]), int(trial.sample["seed"])
        # Under the name that Tune gave the trial at its last start.
        folder = students / trial.tune_ids[-1]
        scores[arm][seed] = _score_student(arm, folder, arms.config(trial.sample), student)
    chosen_there = [] if all(data.test is not None for data in student.data.values()) else [
        "there is no test set: both arms are compared on the validation rows, on which the winner was chosen"
    ]  # fmt: skip
    return ConfirmationReport(
        arms=ARMS,
        seeds=arms.seeds,
        scores=scores,
        metric=plan.metric,
        title=f"{plan.name}: winner against default",
        summary=f"The sweep's best run and its base, each trained with {len(arms.seeds)} seeds that no trial had.",
        notes=(*notes, *chosen_there),
        environment=environment(),
        created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    )


def _score_student(arm: str, folder: Path, config: Run, student: Job) -> dict[str, float]:
    """Return ``split/language/metric`` of a trained student on all held-out rows.

    Of several tasks a language is named behind its task, and ``split/macro/score`` is the mean over tasks.
    """
    values: dict[str, float] = {}
    for split in SPLITS:
        rates = []
        for task, member in config.members.items():
            rows = getattr(student.data[task], split)
            if rows is None:
                continue
            _, found = student_system(arm, "student", folder / task, member, rows)
            by_language = {
                key_part(f"{task} {name}".lstrip()): own for name, own in found.by_language.items()
            }
            if found.macro:
                by_language[f"{task} mean" if task else MACRO] = found.macro
                rates.append(found.macro[member.metric])
            for language, metrics in by_language.items():
                values |= {f"{split}/{language}/{metric}": value for metric, value in metrics.items()}
        if config.metric == SCORE and len(rates) == len(config.members):
            values[f"{split}/{MACRO}/{SCORE}"] = sum(rates) / len(rates)
    return values
