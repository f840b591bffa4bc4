"""Define `raykd train`, `check` and `demo`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Unpack

import typer
from rich.markup import escape

from raykd import api, saved_models
from raykd.cli.app import (
    OutputFolder,
    Overrides,
    Overwrite,
    Profile,
    Resume,
    RunFile,
    RunOrSpace,
    Smoke,
    StartOptions,
    app,
    console,
    end_with_result,
    exit_with,
    print_lines,
    show_result,
)
from raykd.cli.planning import print_error
from raykd.errors import ConfigError

NOT_CHECKED = "not checked"
"""In a finding about something that only the run itself can find out."""


@app.command("train")
def run_train(
    run: RunFile,
    overrides: Overrides = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    smoke: Smoke = False,
    profile: Profile = False,
    earlier: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Go on from the student of an earlier run, with these rows, labels and teachers; says what it forgot.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=2, help="Train with seeds 1 to N, and report mean and interval: output/NAME-seeds."),
    ] = None,
    each_language: Annotated[
        bool,
        typer.Option(
            "--each-language",
            help="Train a student for each language: output/NAME-LANGUAGE, and a page of all.",
        ),
    ] = False,
) -> None:
    """Train the student of RUN.yaml, and first the teachers that do not exist yet.

    Everything is written to output/name: student/, report.html, results.md, run.yaml as resolved, log.txt,
    timeline.json.

    Trained teachers are kept in output/teachers. Every run that asks for the same ones reuses them.

    Without teachers and with objective.alpha: 1 it is plain supervised training.

    With --each-language every language gets a student of its own, from the teachers that speak it.

    With --seeds N the run is trained N times over teachers that answer once.
    With baseline: true the undistilled student is, too, and the two are compared seed by seed.

    Exit codes: 0 done, 2 configuration, 3 data or model, 4 a training of --seeds failed, 5 infrastructure,
    130 interrupted.
    """
    if earlier is not None:
        overrides = [*(overrides or []), f"from_run={json.dumps(str(earlier.expanduser().resolve()))}"]
    begin = StartOptions(resume=resume, overwrite=overwrite, smoke=smoke)
    if each_language:
        _train_each_language(run, overrides or [], seeds, profile=profile, **begin)
        return
    if seeds is not None:
        _train_seeds(run, overrides or [], seeds, profile=profile, **begin)
        return
    from raykd.timeline import note_process_start

    note_process_start()
    show_result(api.train(run, overrides or (), profile=profile, progress=console, **begin))


def _train_each_language(
    run: Path, overrides: list[str], seeds: int | None, *, profile: bool, **begin: Unpack[StartOptions]
) -> None:
    """Train a student for each language of a run, one after the other, and set them side by side.

    Teachers that are trained first are trained once, and answer each text once.

    Raises:
        ConfigError: Seeds are asked for, too, or no teacher speaks one of the languages.
    """
    from raykd.config.loading import load_run

    if seeds is not None:
        raise ConfigError(
            "--each-language cannot go with --seeds",
            got=f"--seeds {seeds}",
            wanted="one of the two",
            next_step="raykd train RUN.yaml data.select_languages=[LANGUAGE] name=NAME-LANGUAGE --seeds N",
        )
    config = load_run(run, overrides)
    changes = []
    for language in config.data.select_languages or config.data.languages:
        spoken = [t for t in config.active_teachers if t.language_set is None or language in t.language_set]
        if config.active_teachers and not spoken:
            raise ConfigError(
                f"--each-language: no teacher speaks {language}",
                got=f"teachers {', '.join(t.name for t in config.active_teachers)}",
                wanted="a teacher for each language",
                next_step="leave its rows out (data.select_languages), or add a teacher",
            )
        own = [f"name={config.name}-{language}", f"data.select_languages={json.dumps([language])}"]
        own += [f"select_teachers={json.dumps([t.name for t in spoken])}"] if spoken else []
        changes.append([*overrides, *own])
    results = []
    for changed in changes:
        results.append(api.train(run, changed, profile=profile, progress=console, **begin))
        show_result(results[-1])
    show_result(
        saved_models.write_report(*results, page=Path(config.output) / f"{config.name}-languages.html")
    )


def _train_seeds(
    run: Path, overrides: list[str], seeds: int, *, profile: bool, **begin: Unpack[StartOptions]
) -> None:
    """Train a run with several seeds, as an experiment whose arm is the run.

    Raises:
        ConfigError: The seed is given as a key, too, or steps are to be profiled.
    """
    from raykd.experiments.presets import SEEDS

    if profile or any(one.startswith("seed=") for one in overrides):
        raise ConfigError(
            "--seeds cannot go with " + ("--profile" if profile else "seed="),
            got=f"--seeds {seeds}",
            wanted="one of the two",
        )
    changes = [f"{one}-{SEEDS}" if one.startswith("name=") else f"base.{one}" for one in overrides]
    changes = [f"seeds={seeds}", *changes]
    end_with_result(api.compare(run, changes, preset=SEEDS, progress=console, **begin))


@app.command("check")
def check_command(run: RunOrSpace, overrides: Overrides = None) -> None:
    """Check a run, a sweep or an experiment without starting it: files, rows, labels, models, resources, disk.

    Exit codes: 0 nothing is wrong, else that of the first finding: 2 configuration, 3 data or model, 5 infrastructure.
    """
    from raykd.config.home import find_config_file
    from raykd.experiments.arms import ExperimentPlan
    from raykd.experiments.checks import load_checked
    from raykd.tuning.config import Sweep

    run = find_config_file(run)
    config = load_checked(run, overrides or ())
    names = {Sweep: ("sweep", "sweep"), ExperimentPlan: ("compare", "experiment")}
    command, what = names.get(type(config), ("train", "run"))
    findings = api.check(config)
    for finding in findings:
        mark = "[red]wrong[/red] " if finding.error else _mark(finding.detail)
        print_lines(f"{mark} [bold]{escape(finding.what)}[/bold]  {escape(finding.detail)}".rstrip())
        if finding.error is not None:
            print_error(finding.error)
    exit_with(next((finding.error.exit_code for finding in findings if finding.error is not None), 0))
    changed = shlex.join([*(overrides or ()), *(f.argument for f in findings if f.argument)])
    is_partial = any(NOT_CHECKED in finding.detail for finding in findings)
    verdict = "Nothing wrong was found, but not all could be checked" if is_partial else "All is well"
    starts = f"raykd {command} {shlex.quote(str(run))} {changed}".rstrip()
    print_lines(f"{verdict}; the {what} starts with: {starts}", markup=False)


def _mark(detail: str) -> str:
    from raykd.preflight.disk import MAY_NOT_FIT
    from raykd.preflight.model_check import NOTE

    if MAY_NOT_FIT in detail or NOTE in detail:
        return "[yellow]warn[/yellow]   "
    return "[yellow]unknown[/yellow]" if NOT_CHECKED in detail else "[green]ok[/green]     "


@app.command("demo")
def run_demo(overrides: Overrides = None, output: OutputFolder = Path("runs")) -> None:
    """Distil three teachers on the embedded corpus, with an undistilled student beside the distilled one.

    Needs no data and no network, two cores and about three minutes.
    """
    from raykd.config.loading import load_run
    from raykd.presets import preset

    config = load_run(preset("demo"), [f"output={json.dumps(str(output.resolve()))}", *(overrides or ())])
    there = (output / config.name / "run.json").exists()
    show_result(api.train(config, overwrite=there, progress=console))
