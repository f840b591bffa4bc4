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
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from raykd.config import RunConfig
from raykd.config.home import named
from raykd.config.loading import dump, flatten, load_run
from raykd.driver.session import Session, ended_well
from raykd.errors import ConfigError
from raykd.experiments.resume import compare_arms, explain_arms
from raykd.folders.earlier_start import Earlier
from raykd.folders.folder import RunFolder, log_to_file, look_at_folder, open_folder
from raykd.folders.lock import locked
from raykd.keys import key_part
from raykd.point import Point
from raykd.preflight.check import preflight, say_notes
from raykd.report.sweeps.confirmation import MACRO, ConfirmationReport
from raykd.report.sweeps.confirmation_page import confirmation_figures, write_confirmation_page
from raykd.scoring.score import student_system
from raykd.spaces.schedulers import Fifo
from raykd.tracking import Experiment, Tracker, environment, redact, tracking_uri
from raykd.tuning.capacity import concurrent_trials
from raykd.tuning.config import Sweep, load_sweep
from raykd.tuning.driver import CHECKPOINTS, Frame, Search, node_resources, read_rows, search
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

    winner: RunConfig
    default: RunConfig
    seeds: tuple[int, ...]
    name: str
    output: str

    def config(self, sample: Mapping[str, Any]) -> RunConfig:
        """The run of an arm with a seed."""
        run: RunConfig = getattr(self, sample["arm"])
        return run.model_copy(update={"seed": int(sample["seed"])})

    def fingerprint(self) -> str:
        """Of both runs; more seeds may be added on a resume."""
        return hashlib.sha256((self.winner.fingerprint() + self.default.fingerprint()).encode()).hexdigest()

    @property
    def trials(self) -> int:
        """Runs to train."""
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


def confirm(
    sweep_folder: Path,
    seeds: int = 5,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Confirmation:
    """Trains winner and default with fresh seeds and compares them.

    Args:
        sweep_folder: output/name of a finished sweep. seeds: how many; an interval needs two.
    Raises:
        RaykdError: with what, got, wanted and the next step.
    """
    plan, arms = _arms(named(sweep_folder).resolve(), seeds)
    shown = console or Console(emoji=False)
    say_notes(shown, preflight(plan.base, together=plan.config.label == "on_demand"))
    with locked(Path(arms.output).resolve() / arms.name):
        compare = partial(compare_arms, arms)
        earlier = look_at_folder(
            arms, resume=resume, overwrite=overwrite, compare=compare, explain=explain_arms
        )
        return _confirm_in_folder(plan, arms, shown, earlier, overwrite)


def _confirm_in_folder(
    plan: Sweep, arms: Arms, console: Console, earlier: Earlier, overwrite: bool
) -> Confirmation:
    data, teachers = read_rows(plan.base)
    files = {
        "winner.yaml": dump(arms.winner),
        "default.yaml": dump(arms.default),
        "run.yaml": dump(plan.base),
    }
    folder = open_folder(
        arms, data.fingerprints(), files, earlier=earlier, base=plan.base, overwrite=overwrite
    )
    weightings = [arms.winner.objective.weighting, arms.default.objective.weighting]
    weighting = weightings[:1] if weightings[0] == weightings[1] else weightings
    chosen = {arms.winner.select_teachers, arms.default.select_teachers}
    with log_to_file(folder.log), ended_well(folder):
        try:
            folder.say(console)
            asking = weighting if len(chosen) == 1 else [None]
            frame = Frame(plan.base, data, teachers, folder, console, plan.config.label, asking)
            return _confirm(plan, arms, frame)
        except BaseException as error:
            folder.give_up("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise


def _arms(folder: Path, count: int) -> tuple[Sweep, Arms]:
    space, best = folder / "space.yaml", folder / BEST
    if not space.is_file() or not best.is_file():
        raise ConfigError(
            f"{folder} holds no finished sweep",
            got=f"no {(space if not space.is_file() else best).name}",
            wanted="the folder of a sweep, output/name",
            next_step="raykd sweep SPACE.yaml, or raykd sweep --resume NAME",
        )
    plan, winner = load_sweep(space, check=False), load_run(best)
    used = {plan.base.seed, *(_seed(t.sample) for t in Journal(folder / JOURNAL).trials.values())}
    seeds: list[int] = []
    seed = FIRST_SEED
    while len(seeds) < count:
        if seed not in used:
            seeds.append(seed)
        seed += 1
    return plan, Arms(winner, plan.base, tuple(seeds), "confirm", str(folder))


def _seed(sample: Mapping[str, Any]) -> Any:
    return sample.get("seed")


def _confirm(plan: Sweep, arms: Arms, frame: Frame) -> Confirmation:
    folder = frame.folder
    frame.console.print(
        f"[bold]{plan.name}[/bold]  winner and default, {len(arms.seeds)} fresh seeds each", highlight=False
    )
    session = Session(plan.base.ray, folder, lambda: _start_tracker(plan, arms, folder))
    students = folder.path / "students"
    try:
        concurrent = concurrent_trials(
            node_resources(), plan.base.workers, frame.kept, plan.config.max_concurrent_trials
        )
        with frame.teachers(session.tracker):
            tracker = session.tracker()
            say_notes(frame.console, tracker.notes)
            frame.judge_teachers(tracker)
            frame.answer_ahead()
            journal = search(frame, _search(plan, arms, frame, concurrent, students), tracker)
        result = _conclude(plan, arms, frame, journal, tracker, students)
    except BaseException as error:
        session.end(error)
        raise
    session.end()
    shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)
    folder.write_state(status="finished", lines=list(result.lines))
    return result


def _search(plan: Sweep, arms: Arms, frame: Frame, concurrent: int, students: Path) -> Search:
    return Search(
        configs=arms,
        sampler=arms,
        scheduler=Fifo().build(plan.space, plan.base.train.evaluations, plan.mode),
        trials=arms.trials,
        mode=plan.mode,
        names={},
        settings=TuneSettings(
            workers=plan.base.workers,
            concurrent=concurrent,
            population=None,
            time_budget_s=None,
            max_failures=plan.config.max_failures,
            scratch=frame.folder.path / "tune",
        ),
        checkpoint_s=plan.config.checkpoint_s,
        students=students,
    )


def _start_tracker(plan: Sweep, arms: Arms, folder: RunFolder) -> Tracker:
    params = {f"winner.{key}": value for key, value in flatten(arms.winner).items()}
    same = flatten(arms.default)
    differing = {
        key: value for key, value in params.items() if same.get(key.removeprefix("winner.")) != value
    }
    return Tracker.start(
        tracking_uri(plan.base.tracking, Path(plan.base.output).resolve()),
        Experiment.of(plan.base.tracking),
        f"{plan.name}-confirm",
        params={**same, **differing, "confirm.seeds": str(list(arms.seeds))},
        tags={"raykd.role": "confirmation", "raykd.tuning": plan.name, **environment()},
        run_id=folder.state.get("mlflow_run_id"),
        directory=folder.path,
    )


def _conclude(
    plan: Sweep,
    arms: Arms,
    frame: Frame,
    journal: Journal,
    tracker: Tracker,
    students: Path,
) -> Confirmation:
    folder, report = frame.folder, _report(plan, arms, frame, journal, students)
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
    return Confirmation(report, (report.rich(),), tuple(lines), failed)


def _report(plan: Sweep, arms: Arms, frame: Frame, journal: Journal, students: Path) -> ConfirmationReport:
    """Every student reads the held-out rows here, for the first time and once."""
    data = frame.data
    splits = {"validation": data.validation, **({"test": data.test} if data.test is not None else {})}
    scores: dict[str, dict[int, dict[str, float]]] = {arm: {} for arm in ARMS}
    for trial in journal.trials.values():
        if trial.status != "finished":
            continue
        arm, seed = str(trial.sample["arm"]), int(trial.sample["seed"])
        config = arms.config(trial.sample)
        values: dict[str, float] = {}
        for split, rows in splits.items():
            _, found = student_system(arm, "student", _student(students, trial.tune_ids), config, rows)
            by_language = {key_part(name): own for name, own in found.by_language.items()}
            by_language |= {MACRO: found.macro} if found.macro else {}
            for language, metrics in by_language.items():
                values |= {f"{split}/{language}/{metric}": value for metric, value in metrics.items()}
        scores[arm][seed] = values
    notes = [] if data.test is not None else [
        "there is no test set: both arms are compared on the validation rows, on which the winner was chosen"
    ]  # fmt: skip
    return ConfirmationReport(
        arms=ARMS,
        seeds=arms.seeds,
        scores=scores,
        metric=plan.metric,
        title=f"{plan.name}: winner against default",
        summary=f"The sweep's best run and its base, each trained with {len(arms.seeds)} seeds that no trial had.",
        notes=(*frame.notes, *notes),
        environment=environment(),
        created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    )


def _student(students: Path, tune_ids: Sequence[str]) -> Path:
    """Where a trial's student lies: under the name that Tune gave the trial at its last start."""
    return students / tune_ids[-1]
