"""Explain a run from its folder: read the stored answers of its teachers and ask its student. No teacher is loaded.

The pages that hold the report, in the folder and in MLflow, are replaced.

Decision record: answers are read from the store by content, so a run explains itself as long as store, data and the
description of its teachers are there. Where answers are gone, the report that the run wrote at its end is shown and
said to be that; where there is none either, the error says how to get the answers again.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from raykd.answers.source import AnswerSlots
from raykd.checkpoint.curves import FILE, Curves
from raykd.config import Run, RunConfig
from raykd.config.home import EXPERIMENT, RUN, SPACE, find_folder, read_folder_state
from raykd.config.loading import load_any_run
from raykd.data.rows import Rows
from raykd.driver.jobs import find_trained_teachers, load_rows
from raykd.driver.pool import make_teacher_spec
from raykd.errors import ConfigError, RaykdError, TeacherError
from raykd.report.costs import CostTable
from raykd.report.ensembles.page import FILE as REPORT
from raykd.report.ensembles.page import write_ensemble_page
from raykd.report.ensembles.report import EnsembleReport, SystemSize, read_ensemble_report
from raykd.report.plots import collect_curves
from raykd.report.runs.tasks_page import TASKS
from raykd.report.side_by_side.rewrite import PAGE, rewrite_pages
from raykd.scoring.costs import list_system_sizes
from raykd.scoring.ensembles.comparison import add_retrained
from raykd.scoring.ensembles.inputs import EnsembleInputs, ask_student, pick_rows
from raykd.scoring.ensembles.measure import make_ensemble_report
from raykd.scoring.several_tasks import select_task_points
from raykd.tasks import SystemAnswers
from raykd.teachers.store import make_text_keys
from raykd.teachers.teacher import Teacher
from raykd.tracking import replace_files, resolve_tracking_uri

log = logging.getLogger("raykd.runs")


@dataclass(frozen=True)
class ExplainedTask:
    """The ensemble report of one task of a run.

    Attributes:
        task: Its name; empty in a run of one task.
        report: The report.
        page: The page that shows it.
        folder: Of the run.
        unrecorded: Why MLflow still holds the earlier pages; None where it has these.
    """

    task: str
    report: EnsembleReport
    page: Path
    folder: Path
    unrecorded: str | None = None


def explain_folder(run: Path, comparison: Path | None = None) -> list[ExplainedTask]:
    """Make the ensemble report of each task of a run, and write it into the run's folder.

    Args:
        run: The folder, or its name under ``runs``.
        comparison: Folder of an experiment over the same teachers whose arms leave them out (`raykd compare --preset
            ensemble`); None for none.

    Raises:
        ConfigError: It is not the folder of a run with teachers.
        TeacherError: Answers are gone, and there is no report of the run's end either.
        RaykdError: Data or models cannot be read.
    """
    folder = find_folder(run).resolve()
    _check_folder(folder, run)
    config = load_any_run(folder)
    taught = {task: member for task, member in config.members.items() if member.active_teachers}
    if not taught:
        raise ConfigError(
            f"{folder} has no teachers, so there is no ensemble to explain",
            got="a run without teachers",
            wanted="a run that distils teachers",
            next_step="raykd evaluate looks at a single model",
        )
    curves = Curves(folder / FILE).by_job.get("student", ())
    explained = []
    for task, member in taught.items():
        place = folder / TASKS / task if task else folder
        history = collect_curves(select_task_points(curves, task))
        try:
            report = _explain_task(member, load_rows(member)[""].validation, folder, task, history)
        except RaykdError as error:
            report = _read_earlier(place, error)
        if comparison is not None:
            report = add_retrained(report, find_folder(comparison).resolve(), task)
        page = write_ensemble_page(report, place)
        explained.append(ExplainedTask(task, report, page, folder))
    unrecorded = _record_again(config, folder, explained)
    return [replace(one, unrecorded=unrecorded) for one in explained]


def _record_again(config: Run, folder: Path, explained: Sequence[ExplainedTask]) -> str | None:
    """Write the run's own pages with the new reports, and give MLflow all of them; return why it has not got them."""
    files: dict[Path, str | None] = {}
    with contextlib.suppress(RaykdError):  # of a run that was cut off before its own pages
        files[rewrite_pages(folder)] = None
    for one in explained:
        place, artifacts = one.page.parent, one.task or None
        files |= dict.fromkeys([one.page, place / REPORT], artifacts)
        if one.task and (place / PAGE).is_file():
            files[place / PAGE] = artifacts
    run_id = (read_folder_state(folder) or {}).get("mlflow_run_id")
    if run_id is None:
        return None
    return replace_files(
        resolve_tracking_uri(config.tracking, Path(config.output).resolve()), str(run_id), folder, files
    )


def _check_folder(folder: Path, given: Path) -> None:
    state = read_folder_state(folder)
    if (
        state is not None
        and (folder / RUN).is_file()
        and not any((folder / x).is_file() for x in (SPACE, EXPERIMENT))
    ):
        return
    got = "no run.json of a run" if state is None else "a sweep or a comparison of runs"
    raise ConfigError(
        f"{given} is not the folder of a run",
        got=got,
        wanted="output/NAME of a run with teachers, for example runs/NAME",
        next_step="raykd train BEST.yaml trains the best of a sweep, and that run can be explained",
    )


def _read_earlier(place: Path, error: RaykdError) -> EnsembleReport:
    """Return the report that the run wrote at its end; raise the error where there is none."""
    file = place / REPORT
    if not file.is_file():
        raise error
    report = read_ensemble_report(file.read_text(encoding="utf-8"), str(file))
    line = " ".join(str(error).split())
    note = (
        f"this is the report of {report.created or 'an earlier time'}, which could not be made anew: {line}"
    )
    kept = tuple(m for m in report.missing if not m.startswith("this is the report of "))
    return replace(report, missing=(note, *kept))


def _explain_task(
    config: RunConfig,
    validation: Rows,
    folder: Path,
    task: str,
    history: Mapping[str, list[tuple[int, float]]],
) -> EnsembleReport:
    trained = find_trained_teachers(
        config,
        f"raykd train {folder} --resume trains them again; answers are looked up by what their folders hold",
    )
    rows = validation.select(pick_rows(validation))
    answers = [_read_answers(config, name, trained, rows, folder) for name in _names(config)]
    place = folder / TASKS / task if task else folder
    student = folder / "student" / task if task else folder / "student"
    missing: list[str] = []
    own: SystemAnswers | None = None
    if config.task.labelled:
        own = ask_student(config, student, rows, missing)
    sizes = _read_sizes(config, place, missing)
    return make_ensemble_report(
        EnsembleInputs(
            config,
            rows,
            answers,
            [t.language_set for t in config.active_teachers],
            own,
            history,
            sizes,
            tuple(missing),
        )
    )


def _names(config: RunConfig) -> list[str]:
    return [t.name for t in config.active_teachers]


def _read_answers(
    config: RunConfig, name: str, trained: Mapping[str, Path], rows: Rows, folder: Path
) -> AnswerSlots:
    """Return a teacher's stored answers to the rows of its languages.

    Raises:
        TeacherError: Some are not stored.
    """
    teacher = next(t for t in config.active_teachers if t.name == name)
    spec = make_teacher_spec(config, teacher, trained)
    spec = replace(spec, device="cuda" if teacher.actor.num_gpus > 0 else "cpu")
    if spec.store is None:
        raise _lost_answers(name, "serving.store is null: the run kept no answers", config, folder)
    reader = Teacher(spec)
    try:
        reader.open()
        batch = rows.without_labels()
        spoken = [own is None or x in own for own in [spec.languages] for x in rows.languages]
        asked = np.flatnonzero(spoken)
        keys = make_text_keys(batch.take(asked.tolist()))
        gone = sum(not reader.holds([key]) for key in keys)
        if gone:
            raise _lost_answers(
                name,
                f"{gone:,} of {len(keys):,} validation rows have no answer in {spec.store}",
                config,
                folder,
            )
        return reader.answer(batch)
    finally:
        reader.close()


def _lost_answers(name: str, got: str, config: RunConfig, folder: Path) -> TeacherError:
    return TeacherError(
        f"the stored answers of teacher {name} are gone",
        got=got,
        wanted="an answer to every validation row",
        next_step=f"raykd label {folder} --all computes them again, then raykd explain {folder}"
        if config.serving.store is not None
        else "set serving.store in run.yaml, then raykd label RUN --all",
    )


def _read_sizes(config: RunConfig, place: Path, missing: list[str]) -> tuple[SystemSize, ...]:
    """Return sizes and speeds as the run measured them at its end."""
    try:
        found = json.loads((place / "report.json").read_text(encoding="utf-8"))
        table = TypeAdapter(CostTable).validate_python(found["cost_table"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        missing.append(
            f"sizes and speeds are not shown: report.json of the run cannot be read ({type(error).__name__})"
        )
        return ()
    return list_system_sizes(table, config)
