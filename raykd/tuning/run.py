"""`raykd sweep`: a space in, the best run's YAML, a page and an MLflow run with a child a trial out.

Decision record: what can fail fails first (the space, files, labels, resources, MLflow). Teachers are made once, are
scored on the validation rows and answer every text once, before the first trial; then their resources go to the
trials, which read the answers from the disk. A sweep that was cut off goes on from its journal: see `suggest`.
"""

from __future__ import annotations

import json
import logging
import shutil
from functools import partial
from pathlib import Path

from rich.console import Console

from raykd.config.loading import dump, flatten
from raykd.distill.weighting import Weighting
from raykd.driver.session import Session, ended_well
from raykd.driver.smoke import smoke_tags
from raykd.folders.folder import RunFolder, log_to_file, look_at_folder, open_folder
from raykd.folders.lock import locked
from raykd.preflight.check import preflight, say_notes
from raykd.spaces.search import NOW, SCORE
from raykd.tracking import Experiment, Tracker, environment, tracking_uri
from raykd.tuning.capacity import concurrent_trials
from raykd.tuning.checks.resume import compare_sweep, explain_sweep
from raykd.tuning.checks.trials import preflight_resources, preflight_trials
from raykd.tuning.config import Sweep, dump_sweep
from raykd.tuning.driver import CHECKPOINTS, Frame, Search, node_resources, read_rows, search
from raykd.tuning.outcome import SweepOutcome, conclude
from raykd.tuning.tuner import TuneSettings

log = logging.getLogger("raykd.tuning")


def sweep(
    plan: Sweep, *, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> SweepOutcome:
    """Runs the sweep and returns what it found.

    Args:
        resume: go on in the sweep's folder; finished trials are kept. overwrite: empty the folder first.
    Raises:
        RaykdError: with what, got, wanted and the next step; what was written before stays.
    """
    base, config = plan.base, plan.config
    shown = console or Console(emoji=False)
    say_notes(shown, preflight(base, together=config.label == "on_demand"))
    preflight_resources(plan)
    with locked(Path(plan.output).resolve() / plan.name):
        compare = partial(compare_sweep, plan)
        earlier = look_at_folder(
            plan, resume=resume, overwrite=overwrite, compare=compare, explain=explain_sweep
        )
        data, teachers = read_rows(base)
        preflight_trials(plan, data)
        files = {"run.yaml": dump(base), "space.yaml": dump_sweep(plan)}
        folder = open_folder(
            plan, data.fingerprints(), files, earlier=earlier, base=base, overwrite=overwrite
        )
        with log_to_file(folder.log), ended_well(folder):
            try:
                folder.say(shown)
                frame = Frame(base, data, teachers, folder, shown, config.label, [_asking(plan)])
                return _sweep(plan, frame)
            except KeyboardInterrupt:
                folder.give_up("interrupted")
                raise
            except BaseException:
                log.exception("the sweep failed")
                folder.give_up("failed")
                raise


def _sweep(plan: Sweep, frame: Frame) -> SweepOutcome:
    folder = frame.folder
    _say(plan, frame)
    session = Session(plan.base.ray, folder, lambda: _start_tracker(plan, folder))
    try:
        trials = _search(plan, frame)  # refuses what cannot start, before teachers work for it
        with frame.teachers(session.tracker):
            tracker = session.tracker()
            say_notes(frame.console, tracker.notes)
            frame.judge_teachers(tracker)
            frame.answer_ahead()
            journal = search(frame, trials, tracker)
            journal.counters({} if frame.pool is None else frame.pool.counters())
        outcome = conclude(plan, folder, journal, tracker, (*plan.notes, *frame.notes))
    except BaseException as error:
        session.end(error)
        raise
    session.end()
    if not journal.cut_off:
        shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)
    folder.write_state(status="finished", lines=list(outcome.lines))
    return outcome


def _search(plan: Sweep, frame: Frame) -> Search:
    config, base = plan.config, plan.base
    concurrent = concurrent_trials(node_resources(), base.workers, frame.kept, config.max_concurrent_trials)
    log.info("%d trials at once", concurrent)
    # A population is judged by what its members are now, not by the best that they ever were.
    metric = NOW if config.scheduler.needs_population else SCORE
    return Search(
        configs=plan.space,
        sampler=plan.sampler(),
        scheduler=config.scheduler.build(plan.space, base.train.evaluations, plan.mode, metric),
        trials=plan.trials,
        mode=plan.mode,
        names=plan.space.names(),
        settings=TuneSettings(
            workers=base.workers,
            concurrent=None if config.scheduler.pauses else concurrent,
            population=plan.trials if config.scheduler.pauses else None,
            time_budget_s=config.time_budget_s,
            max_failures=config.max_failures,
            scratch=frame.folder.path / "tune",
        ),
        checkpoint_s=config.checkpoint_s,
        judged_as_they_come=config.scheduler.kind in ("asha", "median"),
    )


def _asking(plan: Sweep) -> Weighting | None:
    """The weighting that says which teachers are asked; None (all that speak the language) where trials differ."""
    keys = ("objective.weighting", "select_teachers")
    differs = any(key == k or key.startswith(f"{k}.") for key in plan.space.searched for k in keys)
    return None if differs or "objective" in plan.space.searched else plan.base.objective.weighting


def _start_tracker(plan: Sweep, folder: RunFolder) -> Tracker:
    tree = plan.config.model_dump(mode="json", exclude={"base", "set"})
    return Tracker.start(
        tracking_uri(plan.base.tracking, folder.path.parent),
        Experiment.of(plan.base.tracking),
        plan.name,
        params={**flatten(plan.base), **{f"sweep.{key}": json.dumps(value) for key, value in tree.items()}},
        tags={
            "raykd.role": "sweep",
            "raykd.fingerprint": plan.fingerprint(),
            **environment(),
            **smoke_tags(plan.base),
        },
        run_id=folder.state.get("mlflow_run_id"),
        directory=folder.path,
    )


def _say(plan: Sweep, frame: Frame) -> None:
    before = "" if frame.folder.fresh else ", going on"
    frame.console.print(
        f"[bold]{plan.name}[/bold]{before}  {plan.trials} trials, {plan.config.search.kind} search with "
        f"{plan.config.scheduler.kind}, over {', '.join(dict.fromkeys(plan.space.names().values()))}; "
        f"{len(frame.data.train):,} training texts, {len(plan.base.active_teachers)} teachers; "
        f"best validation {plan.metric}",
        highlight=False,
        soft_wrap=True,
    )
