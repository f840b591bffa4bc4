"""Score every student of an experiment on the held-out rows, for the first time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from raykd.config import Run, RunConfig
from raykd.config.multi import SCORE
from raykd.distill.signals import UNLABELLED
from raykd.driver.jobs import Job, name_peer_folder
from raykd.experiments.arms import ExperimentPlan
from raykd.keys import make_key_part
from raykd.report.comparisons.differences import GROUP, MACRO, PEER, SPLITS
from raykd.report.comparisons.results import (
    ArmResult,
    ComparisonReport,
    ReferenceSystem,
    TrainedStudent,
)
from raykd.report.comparisons.weak_teachers import describe_weak_teachers
from raykd.report.results import Predictions, Score
from raykd.scoring.ensembles.agreement import describe_agreement, name_score
from raykd.scoring.score import System, score_student
from raykd.tasks.scores.metrics import name_agreement
from raykd.teachers.timing import BUSY, describe_load, measure_load
from raykd.tracking import describe_environment
from raykd.tuning.journal import Journal, Trial

log = logging.getLogger("raykd.experiments")


def score_arms(
    experiment: ExperimentPlan,
    student: Job,
    journal: Journal,
    students: Path,
    notes: Sequence[str],
    report: Callable[[int, int], None] = lambda done, total: None,
    references: Mapping[str, Mapping[str, Sequence[System]]] = MappingProxyType({}),
) -> ComparisonReport:
    """Score every trained student on the held-out rows.

    Args:
        experiment: The arms.
        student: The rows that arms are compared on.
        journal: What was trained.
        students: Folder of the trained students.
        notes: What a reader must know about the teachers.
        report: Called with (students scored, students in all).
        references: Teachers and ensemble of each task on the held-out rows, by the arm whose they are; "" is the base.
    """
    found, units, load = _score_trainings(experiment, student, journal, students, report)
    compared = ComparisonReport(
        arms=tuple(
            ArmResult(
                arm.name,
                arm.changes,
                experiment.find_reference(arm),
                arm.labelled,
                {seed: found[arm.name][seed] for seed in experiment.seeds if seed in found[arm.name]},
                arm.left_out,
                _score_together(experiment.base, references.get(arm.name, {}), student),
            )
            for arm in experiment.arms
        ),
        seeds=experiment.seeds,
        metric=_name_metric(experiment, student),
        baseline=experiment.baseline,
        unit_languages=units,
        title=experiment.title or experiment.name,
        summary=f"{experiment.describe()[0].upper()}{experiment.describe()[1:]}.",
        notes=(
            *_describe_smoke(experiment),
            *notes,
            *_describe_rows(experiment, student),
            *_describe_agreement(student),
            *load,
        ),
        environment=describe_environment(),
        created=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        yaml=experiment.yaml,
        references=build_references(experiment.base, references.get("", {}), student),
    )
    plain = [arm.name for arm in experiment.arms if arm.run.plain]
    partial = [name_teacher(teacher.name) for teacher in experiment.base.active_teachers if teacher.missing]
    return replace(compared, notes=(*compared.notes, *describe_weak_teachers(compared, plain, partial)))


def _score_trainings(
    experiment: ExperimentPlan,
    student: Job,
    journal: Journal,
    students: Path,
    report: Callable[[int, int], None],
) -> tuple[dict[str, dict[int, TrainedStudent]], tuple[str, ...], tuple[str, ...]]:
    """Return students by arm and seed, the language of each unit of the rows, and a note if the machine was busy."""
    found: dict[str, dict[int, TrainedStudent]] = {arm.name: {} for arm in experiment.arms}
    finished = [
        trial
        for trial in journal.trials.values()
        if trial.status == "finished"
        and "trial" not in trial.sample
        and trial.sample["seed"] in experiment.seeds
    ]
    units: tuple[str, ...] = ()
    loads: list[float] = []
    for done, trial in enumerate(finished, start=1):
        arm, seed = str(trial.sample["arm"]), int(str(trial.sample["seed"]))
        if arm in found:
            run = experiment.build_run(trial.sample)
            # The folder has the name that Tune gave the training at its last start.
            found[arm][seed], own = _score_training(trial, students / trial.tune_ids[-1], run, student)
            units = units or own
            loads += [load for load in (measure_load(),) if load is not None]
        report(done, len(finished))
    busy = max(loads, default=0.0) > BUSY
    return found, units, (f"texts/s: {describe_load(loads)}",) if busy else ()


def _name_metric(experiment: ExperimentPlan, student: Job) -> str:
    """Return the metric by which arms are compared, as agreement where no held-out row has a gold label."""
    rows = student.data.get("")
    judged = rows is not None and rows.held_out in rows.judged
    return name_agreement(experiment.metric) if judged else experiment.metric


def _describe_smoke(experiment: ExperimentPlan) -> list[str]:
    """Return a note on a short copy."""
    of = experiment.base.smoke
    return [] if of is None else [
        f"a smoke run of {of}: a few rows and steps, so its scores and times say nothing"
    ]  # fmt: skip


def _describe_agreement(student: Job) -> list[str]:
    """Return a note per task whose held-out rows have the labels of the base's teachers."""
    return [
        f"{task}: {note}".removeprefix(": ")
        for task, part in student.tasks.items()
        for note in describe_agreement(part.config, part.data)
    ]


def _describe_rows(experiment: ExperimentPlan, student: Job) -> list[str]:
    """Return a note where no test rows decide."""
    if all(data.test is not None for data in student.data.values()):
        return []
    chosen = ", on which the winner was chosen" if experiment.role == "confirmation" else ""
    return [
        f"there is no test set: arms are compared on the validation rows{chosen}, which also chose each best step"
    ]


def _score_training(
    trial: Trial, folder: Path, config: Run, student: Job
) -> tuple[TrainedStudent, tuple[str, ...]]:
    """Return what a trained student scores on all held-out rows, and the language of each unit that is counted.

    With several tasks, a language is named after its task, and ``split/macro/score`` is the mean over tasks.
    """
    values: dict[str, float] = {}
    last: Predictions | None = None
    for split in SPLITS[::-1]:  # the test rows come last, and give costs, classes and units
        rates = []
        for task, member in config.members.items():
            rows = getattr(student.data[task], split)
            if rows is None:
                continue
            last, found = score_student(trial.name, "student", folder / task, member, rows)
            metric = member.metric
            if split in student.data[task].judged:
                found, metric = name_score(found), name_agreement(metric)
            values |= _name_task_scores(task, split, found)
            if member.peer is not None:
                _, beside = score_student(trial.name, "peer", name_peer_folder(folder), member, rows)
                beside = name_score(beside) if split in student.data[task].judged else beside
                named = _name_task_scores(task, split, beside)
                values |= {f"{PEER}/{name}": value for name, value in named.items()}
            if found.macro:
                rates.append(found.macro[metric])
        if config.metric == SCORE and len(rates) == len(config.members):
            values[f"{split}/{MACRO}/{SCORE}"] = sum(rates) / len(rates)
    assert last is not None, "there are validation rows"
    counted_N = last.labels_N != UNLABELLED
    has_units = isinstance(config, RunConfig) and config.metric == "accuracy" and last.logits_NC.shape[1] > 0
    right_N = (last.logits_NC.argmax(axis=1) == last.labels_N)[counted_N] if has_units else None
    units = tuple(np.asarray(last.languages, dtype=object)[counted_N].tolist()) if has_units else ()
    return TrainedStudent(
        scores=values,
        classes=last.classes,
        parameters=last.parameters,
        megabytes=sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6,
        ms_per_1000=last.ms_per_1000,
        cpu_s=trial.cpu_s,
        right_N=right_N,
        timed_on=last.timed_on,
    ), units


def build_references(
    base: Run, systems: Mapping[str, Sequence[System]], student: Job
) -> tuple[ReferenceSystem, ...]:
    """Return the teachers and their ensemble as lines beside the arms, with scores named as those of students.

    Of several tasks the ensembles are one line: the mean over tasks of what each earns by its own metric.

    Args:
        base: The run whose teachers they are.
        systems: Teachers and ensemble, by task.
        student: The rows that all are measured on.
    """
    found: list[ReferenceSystem] = []
    together: list[tuple[str, Predictions, dict[str, float]]] = []
    rates: list[float] = []
    for task, own in systems.items():
        data, member = student.data[task], base.members[task]
        metric = name_agreement(member.metric) if data.held_out in data.judged else member.metric
        for predictions, score in own:
            values = _name_task_scores(task, data.held_out, score)
            if predictions.role == "ensemble":
                together.append((task, predictions, values))
                rates += [] if score.macro is None else [score.macro[metric]]
            else:
                found.append(_make_reference(predictions, values))
    if together and len(together) == len(base.members):
        values = {name: value for _, _, own_values in together for name, value in own_values.items()}
        split = student.data[together[0][0]].held_out
        if base.metric == SCORE and len(rates) == len(together):
            values[f"{split}/{MACRO}/{SCORE}"] = sum(rates) / len(rates)
        found.append(_join_ensembles([predictions for _, predictions, _ in together], values))
    return tuple(found)


def _score_together(base: Run, systems: Mapping[str, Sequence[System]], student: Job) -> Mapping[str, float]:
    """Return what an arm's own teachers score together; nothing where it has none, or they write texts."""
    found = build_references(base, systems, student)
    return found[-1].scores if found and (len(found) == 1 or found[-1].role == "ensemble") else {}


def _name_task_scores(task: str, split: str, score: Score) -> dict[str, float]:
    """Return scores by ``split/language/metric`` and ``split/group/value/metric``.

    With several tasks, a language is named after its task.
    """
    by_language = {make_key_part(f"{task} {name}".lstrip()): own for name, own in score.by_language.items()}
    if score.macro:
        by_language[f"{task} mean" if task else MACRO] = score.macro
    by_group = {f"{GROUP}/{make_key_part(f'{task} {g}'.lstrip())}": own for g, own in score.by_group.items()}
    return {
        f"{split}/{part}/{metric}": value
        for part, metrics in (by_language | by_group).items()
        for metric, value in metrics.items()
    }


def name_teacher(name: str) -> str:
    """Return what a teacher is called beside the arms."""
    return f"teacher {name}"


def _make_reference(p: Predictions, scores: Mapping[str, float]) -> ReferenceSystem:
    name = "teachers' ensemble" if p.role == "ensemble" else name_teacher(p.name)
    return ReferenceSystem(name, p.role, scores, p.parameters, p.megabytes, p.ms_per_1000, p.timed_on)


def _join_ensembles(parts: Sequence[Predictions], scores: Mapping[str, float]) -> ReferenceSystem:
    """Return the ensembles of all tasks as one line; their times are of different texts and do not add up."""
    if len(parts) == 1:
        return _make_reference(parts[0], scores)
    sizes = [p.megabytes for p in parts if p.megabytes is not None]
    megabytes = sum(sizes) if len(sizes) == len(parts) else None
    parameters = sum(p.parameters for p in parts)
    return ReferenceSystem("teachers' ensembles", "ensemble", scores, parameters, megabytes)
