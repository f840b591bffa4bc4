"""Provide the public functions of raykd: train, sweep, compare, confirm, label, check, plan.

    import raykd

    run = raykd.train("run.yaml", seed=1, train={"steps": 500})
    print(run.metrics["test/mean/accuracy"])
    raykd.load(run.student).predict(["the room was good"])

The commands of the same names are a thin shell on these functions. Those that ask a saved model are defined in
`raykd.saved_models`.

A configuration is the path of a YAML file, the folder of an earlier run, a mapping with the keys of such a file, or a
`RunConfig` or `SweepConfig`. Relative paths in it begin at the file's folder; in a mapping or a model they begin at the
working directory. Keys are changed in two ways that may be mixed, and the later one wins:

- ``overrides``: a list of ``"train.steps=500"`` as on the command line, or a mapping ``{"train.steps": 500}``;
- keywords: ``seed=1``, ``train={"steps": 500}``, ``**{"train.steps": 500}``. A mapping is laid over what is there.

Every error that raykd raises on purpose is a `raykd.errors.RaykdError`.

Decision record: a function runs inside a Ray that the program is connected to (`ray.init`) and leaves it as it was.
Where there is none it connects to `ray.address` or RAY_ADDRESS, else it starts a local Ray, which ends with the call:
workers must not hold a notebook's memory. During the call Ctrl-C and SIGTERM write the run's state first; after it the
program's handlers of signals are back. Importing this module imports neither torch nor Ray.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from raykd.config.loading import ConfigSource, Override
    from raykd.config.multi import Run as RunConfigs
    from raykd.experiments.checks import Checked
    from raykd.preflight.finding import Finding
    from raykd.results import ComparisonResult, Run, SweepResult
    from raykd.runs.labelling import LabelReport
    from raykd.tuning.config import Sweep

    Overrides = str | Sequence[Override] | Mapping[str, object]
    Progress = bool | Console
    """Whether progress is shown on standard output; or the console of rich that shows it."""


FINISHED = "This run is finished already; more train.steps train it on, --overwrite starts anew."


def train(
    config: ConfigSource,
    overrides: Overrides = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
    smoke: bool = False,
    profile: bool = False,
    progress: Progress = True,
    **keys: object,
) -> Run:
    """Train what a configuration describes: missing teachers first, then the student.

    Args:
        config: The run; see the module.
        overrides: Keys to change.
        resume: Continue from the last checkpoint, or start where there is none; a finished run is returned.
        overwrite: Empty the run's folder and start anew.
        smoke: Run all of it in short, in output/NAME-smoke: few rows and steps.
        profile: Record parts of each step as well in the run's timeline.json, and print where the time went.
        progress: Whether progress is shown.
        **keys: Keys to change, as `overrides`.

    Returns:
        Metrics, table, student and report of the run.

    Raises:
        ConfigError: A key is wrong, or the run's folder exists and neither `resume` nor `overwrite` was asked for.
        ResourceError: The cluster cannot hold the run.
        DataError: A file or a row cannot be used.
        ModelError: A teacher or the student's start cannot be loaded.
        TeacherError: A teacher cannot answer.
        TrackingError: MLflow does not answer at the start and `tracking.required` is set.
        TrainingError: Ray gave up on the workers.
    """
    from raykd.cluster.connection import start_ray_ahead
    from raykd.config.loading import load_any_run
    from raykd.driver.smoke import make_smoke_run, refuse_smoke_resume
    from raykd.folders.folder import find_run_path, read_finished_run
    from raykd.results import Run

    run = load_any_run(config, _overrides(overrides, keys))
    if smoke:
        refuse_smoke_resume(resume=resume)
        run, overwrite = make_smoke_run(run), True
    before = read_finished_run(run) if resume else None
    if before is not None:
        return replace(Run.read(find_run_path(run)), shown=(before.text,), lines=(FINISHED, *before.lines))
    start_ray_ahead(run.ray)  # beside the imports that follow
    from raykd.driver.command import Start
    from raykd.runs.train import run_training

    console = _console(progress)
    if resume:
        _announce_start(console, config, run)
    outcome = run_training(run, Start(resume, overwrite, console), profile=profile)
    return replace(Run.read(find_run_path(run)), shown=outcome.tables, lines=outcome.lines)


def _announce_start(console: Console, config: ConfigSource, run: RunConfigs) -> None:
    """Print that there is nothing to continue and that the run is started, if it has no folder yet.

    Raises:
        ConfigError: The run's folder lies beside its file and not in the working directory.
    """
    folder = Path(run.output) / run.name
    if folder.exists():
        return
    _refuse_another(config, run, "raykd train {} --resume")
    line = f"there is no run {folder} to go on with: it is started"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def sweep(
    config: ConfigSource | None = None,
    overrides: Overrides = (),
    *,
    resume: bool | str | os.PathLike[str] = False,
    overwrite: bool = False,
    smoke: bool = False,
    output: str | os.PathLike[str] = "runs",
    progress: Progress = True,
    **keys: object,
) -> SweepResult:
    """Search any key of a run, over teachers that answer each text once.

    Args:
        config: The search space and its run; see the module. Not needed where `resume` names a sweep.
        overrides: Keys of the sweep to change, for example ``{"num_samples": 8, "set.train.epochs": 2}``.
        resume: True continues the sweep of this configuration, or starts it where there is none. A name or a folder
            continues that sweep. Finished trials stay.
        overwrite: Empty the sweep's folder and start anew.
        smoke: Run all of it in short, in output/NAME-smoke: few trials, rows and steps.
        output: Where a sweep that `resume` names is looked for.
        progress: Whether progress is shown.
        **keys: Keys to change, as `overrides`.

    Returns:
        The best configuration and the table of trials. Failed trials raise nothing: see `SweepResult.failed`.

    Raises:
        ConfigError: A key or domain is wrong, or there is no sweep to continue.
        SweepError: No trial could be scored.
        RaykdError: As `train`.
    """
    from raykd.cluster.connection import start_ray_ahead
    from raykd.driver.smoke import refuse_smoke_resume
    from raykd.results import SweepResult
    from raykd.tuning.checks.smoke import shorten_sweep
    from raykd.tuning.config import load_resumed_sweep, load_sweep

    changes = _overrides(overrides, keys)
    if isinstance(resume, str | os.PathLike):
        plan = load_resumed_sweep(Path(resume), Path(output), config, changes)
    elif config is None:
        raise ConfigError("no sweep is named", wanted="raykd sweep SPACE.yaml, or raykd sweep NAME --resume")
    else:
        plan = load_sweep(config, changes)
    if smoke:
        refuse_smoke_resume(resume=bool(resume))
        plan, overwrite = shorten_sweep(plan), True
    if resume is True and not (Path(plan.output) / plan.name).exists():
        _refuse_another(config, plan, "raykd sweep {} --resume")
    start_ray_ahead(plan.base.ray)  # beside the imports that follow
    from raykd.driver.command import Start
    from raykd.tuning.run import run_sweep

    outcome = run_sweep(plan, Start(bool(resume), overwrite, _console(progress)))
    return SweepResult.of(outcome)


def confirm(
    sweep: str | os.PathLike[str] | SweepResult,
    seeds: int = 5,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = True,
) -> ComparisonResult:
    """Train a sweep's winner and its base again with fresh seeds and compare them on the test rows.

    Args:
        sweep: The folder of a finished sweep, or its result.
        seeds: Fresh seeds for each of the two, at least 2.
        resume: Continue an earlier confirmation that was cut off.
        overwrite: Start the confirmation anew.
        progress: Whether progress is shown.

    Returns:
        The paired difference with its interval.

    Raises:
        ConfigError: The folder holds no finished sweep, or `seeds` is less than 2.
        RaykdError: As `train`.
    """
    from raykd.driver.command import Start
    from raykd.experiments.confirmation import read_confirmation
    from raykd.experiments.run import run_comparison
    from raykd.results import ComparisonResult, SweepResult

    if seeds < 2:
        raise ConfigError("a confirmation needs seeds to compare", got=seeds, wanted="at least 2 seeds")
    folder = sweep.folder if isinstance(sweep, SweepResult) else Path(sweep)
    start = Start(resume, overwrite, _console(progress))
    return ComparisonResult.of(run_comparison(read_confirmation(folder, seeds), start))


def compare(
    config: ConfigSource,
    overrides: Overrides = (),
    *,
    preset: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    smoke: bool = False,
    progress: Progress = True,
    **keys: object,
) -> ComparisonResult:
    """Train arms, each with the same seeds, over teachers that answer each text once, and compare them seed by seed.

    Args:
        config: The experiment; see the module. With `preset` a run.
        overrides: Keys of the experiment to change, for example ``{"seeds": 10, "set.train.epochs": 2}``.
        preset: ensemble, weighting, data_budget or student_size: the experiment over the run. tuned_against_default
            searches alpha, temperature and the lambda schedule first; `overrides` are then keys of that sweep, and
            `seeds` the number of fresh seeds.
        resume: Continue an experiment that was cut off, or start it where there is none. Finished trainings stay;
            seeds and arms may be added.
        overwrite: Empty the experiment's folder and start anew.
        smoke: Run all of it in short, in output/NAME-smoke: every arm, two seeds, few rows and steps.
        progress: Whether progress is shown.
        **keys: Keys to change, as `overrides`.

    Returns:
        Every arm's mean and its paired difference, with intervals. Failed trainings raise nothing: see
        `ComparisonResult.failed`.

    Raises:
        ConfigError: A key or an arm is wrong, or the folder exists and neither `resume` nor `overwrite` was asked for.
        SweepError: No training could be scored.
        RaykdError: As `train`.
    """
    from raykd.driver.command import Start
    from raykd.experiments.presets import run_experiment
    from raykd.results import ComparisonResult

    start = Start(resume, overwrite, _console(progress))
    changes = _overrides(overrides, keys)
    return ComparisonResult.of(run_experiment(config, changes, start=start, preset=preset, smoke=smoke))


def label(
    config: ConfigSource,
    overrides: Overrides = (),
    *,
    everything: bool = False,
    to: str | os.PathLike[str] | None = None,
    ensemble: bool = False,
    choose: int | None = None,
    progress: Progress = True,
    **keys: object,
) -> LabelReport:
    """Let a run's teachers answer all its training texts now and keep the answers.

    Later runs and sweeps over the same texts need no teacher. An interrupted labelling continues where it was.

    Args:
        config: The run; its teachers exist or were trained before.
        overrides: Keys to change.
        everything: Also the validation and test texts, by every teacher.
        to: Parquet or JSON lines file (by its ending; a path or a URL of fsspec) that all these answers are written to,
            for teachers of `kind: file`; `{teacher}` in it is replaced by each teacher's name. None writes none.
        ensemble: Write the teachers to `to` as one teacher, combined by the run's weighting and mixture.
        choose: Write so many unlabelled rows to `to` instead, on which teachers disagree most, for people to label.
        progress: Whether progress is shown.
        **keys: Keys to change, as `overrides`.

    Returns:
        How many answers were stored before and how many were computed.

    Raises:
        ConfigError: No teachers, no store, or `to` cannot be written.
        ModelError: A teacher is not trained yet, or not good enough (`on_poor`).
        RaykdError: As `train`.
    """
    from raykd.config.loading import load_any_run
    from raykd.runs.answer_files import make_target
    from raykd.runs.labelling import run_labelling

    target = make_target(None if to is None else os.fspath(to), ensemble=ensemble, choose=choose)
    run = load_any_run(config, _overrides(overrides, keys))
    return run_labelling(run, _console(progress), everything=everything, to=target)


def label_sequences(
    config: ConfigSource,
    path: str | os.PathLike[str],
    overrides: Overrides = (),
    *,
    beams: int = 5,
    progress: Progress = True,
    **keys: object,
) -> int:
    """Write what a run's language models generate for the training sources, as data for a later run.

    Args:
        config: A run of a task that writes: causal_lm or seq2seq.
        path: File of JSON lines with the columns id, src, tgt, lang and teacher; what it holds is not written again.
        overrides: Keys to change.
        beams: Beams of the search; 1 is greedy.
        progress: Whether progress is shown.
        **keys: Keys to change, as `overrides`.

    Returns:
        Number of texts that were written now.

    Raises:
        DataError: The file holds something else.
        RaykdError: As `label`; also for a task that does not write.
    """
    from raykd.config.loading import load_run
    from raykd.runs.sequences import write_sequences

    run = load_run(config, _overrides(overrides, keys))
    return write_sequences(run, Path(path), _console(progress), beams=beams)


def check(config: ConfigSource | Checked, overrides: Overrides = (), **keys: object) -> list[Finding]:
    """Check a run, a sweep or an experiment without taking a worker: files, rows, labels, models, resources, disk.

    Args:
        config: The run, the sweep or the experiment; see the module.
        overrides: Keys to change.
        **keys: Keys to change, as `overrides`.

    Returns:
        What was looked at; a finding's `error` is None where nothing is wrong.

    Raises:
        ConfigError: The configuration cannot be read; what is wrong beyond that is in the findings.
    """
    from raykd.experiments.checks import check_config

    return check_config(config, _overrides(overrides, keys))


def plan(config: ConfigSource | Checked, overrides: Overrides = (), **keys: object) -> list[Finding]:
    """Compute what a run, a sweep or an experiment will take: resources, steps, answers, checkpoints, disk, time.

    Args:
        config: The run, the sweep or the experiment; see the module.
        overrides: Keys to change.
        **keys: Keys to change, as `overrides`.

    Returns:
        One item for each line of the plan; an item's `error` is None where nothing is wrong.

    Raises:
        RaykdError: A key, a file or a model cannot be used; `collect_findings` shows all that is wrong.
    """
    from raykd.experiments.checks import plan_config

    return plan_config(config, _overrides(overrides, keys))


def _refuse_another(config: object, plan: RunConfigs | Sweep, command: str) -> None:
    """Raise ConfigError where the folder to continue lies beside the named file, not in the working directory."""
    if isinstance(config, str | os.PathLike):
        from raykd.config.home import refuse_folder_beside

        refuse_folder_beside(Path(config), plan.output, plan.name, command)


def _overrides(overrides: Overrides, keys: Mapping[str, object]) -> list[Override]:
    """Return all changes in order, keywords last."""
    if isinstance(overrides, str):
        return [overrides, *keys.items()]
    return [*(overrides.items() if isinstance(overrides, Mapping) else overrides), *keys.items()]


def _console(progress: Progress) -> Console:
    from rich.console import Console

    return Console(emoji=False, quiet=not progress) if isinstance(progress, bool) else progress
