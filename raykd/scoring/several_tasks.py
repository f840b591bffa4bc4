"""Review the teachers of all tasks of a run, and conclude all its tasks.

Decision record: scores of different tasks cannot be compared, so each task is concluded like a run of its own, with a
table, a page and artifacts in a folder of its name. A run of several tasks adds one page that shows all tables.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from raykd.config import Run
from raykd.config.loading import dump_run
from raykd.driver.ending import find_ending
from raykd.driver.jobs import Job, TaskJob
from raykd.driver.recording import describe_results
from raykd.folders.folder import RunFolder
from raykd.keys import make_key_part
from raykd.point import Point
from raykd.report.runs.tasks_page import TASKS, JointScore, TasksReport, write_tasks_page
from raykd.report.time_bar import make_time_bar
from raykd.scoring.outcome import Outcome, conclude_task
from raykd.scoring.teacher_results import Counters
from raykd.scoring.teacher_scores import TeacherReview, review_teachers
from raykd.tasks import SystemAnswers
from raykd.tasks.scores.metrics import is_higher_better, is_rate
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo
from raykd.tracking import Tracker

log = logging.getLogger("raykd.runs")
Pools = Mapping[str, tuple[TeacherPool, list[TeacherInfo]]]
"""The pool of each task that has teachers, and what each teacher says of itself."""


def review_all_teachers(
    config: Run, student: Job, pools: Pools, say: Callable[[str], None], *, asked_alike: bool = True
) -> dict[str, TeacherReview]:
    """Score the teachers of every task on the validation rows.

    Args:
        config: The run.
        student: The job whose rows they are, by task.
        pools: The opened teachers.
        say: Takes lines for people.
        asked_alike: As in `review_teachers`.

    Returns:
        The reviews by task.
    """
    reviews = {}
    for task, (pool, infos) in pools.items():
        data = student.data[task]
        reviews[task] = review_teachers(
            config.members[task],
            pool,
            infos,
            data.validation,
            data.train.list_languages(),
            say,
            asked_alike=asked_alike,
            is_judged="validation" in data.judged,
        )
        reviews[task].announce(say)
    return reviews


def conclude_all(
    config: Run,
    folder: RunFolder,
    jobs: Sequence[Job],
    pools: Pools,
    reviews: Mapping[str, TeacherReview],
    curve: Sequence[Point],
    tracker: Tracker,
    read_counters: Callable[[], Counters],
) -> Outcome:
    """Score every system of every task on the held-out rows, write reports and record everything.

    Args:
        config: The run.
        folder: The run's folder.
        jobs: Baseline, if there is one, and student.
        pools: The opened teachers.
        reviews: What the teachers scored on the validation rows, by task.
        curve: Points of the student.
        tracker: The MLflow run.
        read_counters: Reads the counters of the teachers, over all starts of the run.
    """
    ending = find_ending(curve, jobs[-1].metric, jobs[-1].steps)
    outcomes: dict[str, Outcome] = {}
    for task in config.members:
        pool, infos = pools.get(task, (None, []))
        place = RunFolder(folder.path / TASKS / task, {}) if task else folder
        place.path.mkdir(parents=True, exist_ok=True)
        outcomes[task] = conclude_task(
            task,
            place,
            [job.tasks[task] for job in jobs],
            pool,
            infos,
            reviews.get(task, TeacherReview()),
            select_task_points(curve, task),
            tracker,
            ending,
            read_counters,
        )
    if "" in outcomes:
        return outcomes[""]
    return _conclude_run(config, folder, jobs[-1], outcomes, tracker)


def select_task_points(points: Sequence[Point], task: str) -> list[Point]:
    """Return a task's own curves beside those that all tasks share (learning rate, epoch)."""
    if not task:
        return list(points)
    found = []
    for point in points:
        own = {k.removeprefix(f"{task}/"): v for k, v in point.values.items() if k.startswith(f"{task}/")}
        shared = {k: v for k, v in point.values.items() if k in ("train/learning_rate", "train/epoch")}
        found.append(Point(point.step, {**shared, **own}))
    return found


def _conclude_run(
    config: Run, folder: RunFolder, job: Job, parts: Mapping[str, Outcome], tracker: Tracker
) -> Outcome:
    """Write and record the page that shows the tables of all tasks."""
    names = ", ".join(parts)
    joint = compute_joint_scores(job.tasks, parts)
    summary = (
        f"One {config.student.kind} encoder learns {len(parts)} tasks ({names}) from {len(config.active_teachers)} "
        f"teachers; tasks are drawn by rows ** {config.task_power:g}."
    )
    created = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    whole = TasksReport(config.name, summary, tuple(parts), created, make_time_bar(), joint)
    page = write_tasks_page(whole, folder.path / "report.html")
    tracker.log_file(page)
    tracker.log_text(dump_run(config), "run.yaml")
    notes = [f"{task}: {note}" for task, part in parts.items() for note in part.notes]
    notes += describe_joint_scores(joint)
    student = job.output
    places = [f"student  {student} (a folder a task: {names})"]
    lines = describe_results(notes, page, tracker, folder, places=places)
    _log_joint_scores(joint, job.steps, tracker)
    tables = [table.with_title(task) for task, part in parts.items() for table in part.tables]
    first = next(iter(parts.values()))
    return replace(
        first,
        tables=tuple(tables),
        lines=lines,
        student=student,
        report=page,
        parts=dict(parts),
    )


def compute_joint_scores(jobs: Mapping[str, TaskJob], parts: Mapping[str, Outcome]) -> tuple[JointScore, ...]:
    """Return how often each student is right in every task about the same text: an order's intent and its slots.

    A row is right where its share of the task's first metric is whole. Nothing is returned where the tasks are tested
    on other texts, or a task's metric is no share of rows.
    """
    found = []
    for role in ("baseline", "student"):
        right = [_list_right_rows(job, parts[task], role) for task, job in jobs.items()]
        common = set.intersection(*map(set, right))
        if 2 * len(common) < max(1, *map(len, right)):
            continue
        by_language: dict[str, list[bool]] = {}
        for key in sorted(common):
            by_language.setdefault(key[0], []).append(all(own[key] for own in right))
        shares = {language: sum(rows) / len(rows) for language, rows in by_language.items()}
        name = "undistilled student" if role == "baseline" else "student"
        found.append(JointScore(name, role, len(common), shares))
    return tuple(found)


def _list_right_rows(job: TaskJob, part: Outcome, role: str) -> dict[tuple[str, ...], bool]:
    """Return whether a system is right about each labelled text, by its language and signs; blanks do not count."""
    task, rows = job.config.task, job.held_out
    system = next((p for p, _ in part.table.systems if p.role == role), None)
    first = task.metric_names[0]
    if system is None or not (is_rate(first) and is_higher_better(first)):
        return {}
    labelled = np.flatnonzero(rows.labelled)
    picked = rows.take(labelled)
    every = rows.take(range(len(rows)))
    answers = SystemAnswers(system.logits_NC, task.count_units(every), system.covered_N).take(labelled)
    shares = task.compute_row_shares(answers, picked, job.config.data.labels)
    if shares is None:
        return {}
    texts = zip(picked.languages, picked.texts, picked.pairs or [""] * len(picked), strict=True)
    keys = [(language, "".join(text.split()), "".join(pair.split())) for language, text, pair in texts]
    return dict(zip(keys, (shares.numerator_B == shares.denominator_B).tolist(), strict=True))


def describe_joint_scores(joint: Sequence[JointScore]) -> list[str]:
    """Return a line that says how often each student is right in every task; none without such scores."""
    if not joint:
        return []
    said = "; ".join(f"{one.system} {one.mean:.1%} ({one.describe()})" for one in joint)
    return [f"right in every task, of {joint[0].rows:,} texts that all tasks test: {said}"]


def _log_joint_scores(joint: Sequence[JointScore], step: int, tracker: Tracker) -> None:
    for one in joint:
        prefix = "test" if one.role == "student" else "baseline/test"
        values = {
            f"{prefix}/{make_key_part(code)}/all_right": share for code, share in one.by_language.items()
        }
        tracker.log_points([Point(step, values | {f"{prefix}/mean/all_right": one.mean})])
