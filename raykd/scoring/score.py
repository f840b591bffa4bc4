"""Score every system of the final table on the same held-out rows.

Decision record: teachers answer through the pool. Students answer in the driver through the same `Teacher` class, in
float32, so that all systems are measured alike. Milliseconds per 1,000 texts come from `raykd.teachers.timing`. The
ensemble is what the student is taught: the run's weighting and mixture at temperature 1, without gold labels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.layout import StudentUnits, lay_out_answers, read_unit_logits
from raykd.answers.source import AnswerSlots
from raykd.config import ModelTeacher, RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import MASKED, UNLABELLED, Signals
from raykd.ensemble.mixing import mix_weighted
from raykd.errors import RaykdError
from raykd.pretrained.files import inspect_directory
from raykd.report.results import Predictions, Role, Score, score_rows
from raykd.report.sizes import Size
from raykd.scoring.language_answers import collect_student_answers, collect_teacher_answers
from raykd.student.prepare import get_language_codes
from raykd.tasks import SystemAnswers
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.teachers.teacher import Teacher
from raykd.teachers.timing import TIMED_TEXTS, Timing
from raykd.text.batch import TextBatch

ASKED_ROWS = 128
"""Rows per request of an evaluation."""
log = logging.getLogger("raykd.runs")
System = tuple[Predictions, Score]
"""What a system answered, and its scores."""


def ask_teachers(
    handle: PoolHandle, rows: Rows, report: Callable[[int, int], None] = lambda done, total: None
) -> list[AnswerSlots]:
    """Return each teacher's answers to all rows of its languages, in row order.

    Args:
        handle: The teachers.
        rows: What they are asked.
        report: Called with (rows answered, rows in all) after each batch.
    """
    source = PoolSource(handle)
    waiting = [
        source.submit(rows.take(range(begin, min(begin + ASKED_ROWS, len(rows)))))
        for begin in range(0, len(rows), ASKED_ROWS)
    ]
    parts = []
    for ticket in waiting:
        parts.append(ticket.result())
        report(min(len(parts) * ASKED_ROWS, len(rows)), len(rows))
    return [AnswerSlots.concat([part[m] for part in parts]) for m in range(len(handle.teachers))]


def measure_system(
    name: str,
    role: Role,
    config: RunConfig,
    answers: SystemAnswers,
    asked_B: NDArray[np.bool_],
    rows: Rows,
    parameters: int,
    ms_per_1000: float | None = None,
) -> System:
    """Score a system's answers by the task's metrics.

    Args:
        name: Name of the system.
        role: What the system is.
        config: The run of one task.
        answers: To all rows.
        asked_B: Rows that the system was asked for; others do not count.
        rows: The held-out rows.
        parameters: Of the model; of an ensemble the sum.
        ms_per_1000: Milliseconds per 1,000 texts; None if not measured.
    """
    scores = score_rows(
        rows.languages,
        rows.groups,
        asked_B & rows.labelled,
        lambda picked: config.task.compute_metrics(
            answers.take(picked), rows.take(picked), config.data.labels
        ),
    )
    plain = role == "student" and config.plain and config.peer is None
    if config.task.language or config.task.has_scale or config.task.vectors:
        # Numbers on a scale and vectors are no choices, and different vocabularies have no logits to compare.
        empty = np.empty((0, 0), np.float32), np.empty(0, bool), np.empty(0, np.int64), ()
        constant = _find_constant_text(answers.texts, rows)
        return Predictions(name, role, *empty, parameters, ms_per_1000, plain, constant), scores
    languages = np.repeat(np.asarray(rows.languages, dtype=object), answers.counts_B)
    predictions = Predictions(
        name,
        role,
        answers.logits_NC,
        answers.covered_N,
        config.task.list_unit_labels(rows.take(range(len(rows)))),
        tuple(languages.tolist()),
        parameters,
        ms_per_1000,
        plain,
    )
    counted = np.flatnonzero(asked_B & rows.labelled)
    classes = config.task.score_classes(answers.take(counted), rows.take(counted), config.data.labels)
    constant = _find_constant_label(config, predictions)
    return replace(predictions, constant=constant, classes=classes), scores


def _find_constant_label(config: RunConfig, answers: Predictions) -> str | None:
    """Return the label that a system gives to all units, in words; None if labels differ, or gold has only one."""
    if not config.task.labelled:
        return None
    counted_N = answers.covered_N & (answers.labels_N != UNLABELLED)
    if not counted_N.any() or len(set(answers.labels_N[counted_N].tolist())) == 1:
        return None
    given = set(answers.logits_NC[counted_N].argmax(axis=1).tolist())
    if len(given) != 1:
        return None
    (at,) = given
    label = config.task.name_choices(config.data.labels)[at]
    if config.task.form == "labels":
        return f"{'every' if at else 'no'} label"
    return "no entity" if label == "O" else f"label {label}"


def _find_constant_text(texts: Sequence[str] | None, rows: Rows) -> str | None:
    """Return the text that a system writes for all rows, in words; None if texts differ, or targets are all equal."""
    if texts is None or len(set(texts)) != 1 or len(set(rows.pairs or rows.texts)) < 2:
        return None
    return f"the text {texts[0][:40]!r}" if texts[0].strip() else "nothing is written"


def collect_unit_answers(config: RunConfig, signal: AnswerSlots, rows: Rows) -> SystemAnswers:
    """Return a teacher's answers to all rows in the form that a task measures."""
    batch = rows.take(range(len(rows)))
    counts_B = config.task.count_units(batch)
    choices = None if config.task.vectors else config.task.count_choices(batch, config.data.labels)
    logits_NC, covered_N = read_unit_logits(signal, counts_B, choices)
    return SystemAnswers(np.maximum(logits_NC, MASKED), counts_B, covered_N)


def stack_signals(
    config: RunConfig,
    signals: Sequence[AnswerSlots],
    languages: Sequence[frozenset[str] | None],
    rows: Rows,
) -> Signals:
    """Return the teachers' answers to all rows as the objective sees them, without gold labels."""
    batch = rows.take(range(len(rows)))
    counts_B = config.task.count_units(batch)
    # Without gold labels: the ensemble must not know more than its teachers.
    hidden_N = torch.full((int(counts_B.sum()),), UNLABELLED, dtype=torch.int64)
    choices = config.task.count_choices(batch, config.data.labels)
    return lay_out_answers(
        signals,
        languages,
        StudentUnits(hidden_N, counts_B, rows.languages, choices, groups=rows.groups or ()),
    )


def score_teachers(
    config: RunConfig,
    pool: TeacherPool,
    signals: Sequence[AnswerSlots],
    infos: Sequence[TeacherInfo],
    rows: Rows,
    times: Mapping[str, float | None] | None = None,
) -> list[System]:
    """Return the table's row of each teacher, with its answers to the held-out rows in `signals`.

    `times` are milliseconds per 1,000 texts, by teacher; None shows no times.
    """
    answers = [
        collect_teacher_answers(pool, m, s, config, rows)
        if config.task.language
        else collect_unit_answers(config, s, rows)
        for m, s in enumerate(signals)
    ]
    found = []
    for a, s, i in zip(answers, signals, infos, strict=True):
        predictions, score = measure_system(
            s.teacher, "teacher", config, a, s.answered_B, rows, i.parameters, (times or {}).get(s.teacher)
        )
        unknown = {
            label for label, columns in zip(config.data.labels, i.columns, strict=False) if not columns
        }
        if predictions.classes is not None and unknown:
            classes = predictions.classes.leave_out(unknown, config.data.labels)
            predictions = replace(predictions, classes=classes)
        found.append((predictions, score))
    return found


def score_ensemble(
    config: RunConfig,
    signals: Signals,
    asked_B: NDArray[np.bool_],
    teachers: Sequence[Predictions],
    rows: Rows,
) -> System:
    """Return the table's row of the ensemble: the combined target at temperature 1, as log-probabilities.

    Args:
        config: The run of one task.
        signals: The teachers' answers to all units (`stack_signals`).
        asked_B: Rows that some teacher was asked for.
        teachers: The teachers' rows of the table.
        rows: The held-out rows.
    """
    weighting = config.objective.weighting
    weights_MN, mixture = weighting.weights(signals), config.objective.mixture
    target = mix_weighted(signals, weights_MN, mixture)
    answers = SystemAnswers(
        (target.logits_NK if config.task.has_scale else target.logp_NK).numpy().astype(np.float32),
        config.task.count_units(rows.take(range(len(rows)))),
        target.covered_N.numpy(),
    )
    return measure_ensemble(config, answers, asked_B, signals.teacher_languages, teachers, rows)


def measure_ensemble(
    config: RunConfig,
    answers: SystemAnswers,
    asked_B: NDArray[np.bool_],
    spoken: Sequence[frozenset[str] | None],
    teachers: Sequence[Predictions],
    rows: Rows,
) -> System:
    """Return the table's row of the ensemble by its answers.

    Its time is the sum over the teachers that are asked, each weighted by the share of rows that it is asked for.
    Other arguments are those of `score_ensemble`; `spoken` has the languages that each teacher was declared for.
    """
    size = join_sizes(
        [t.size for t in teachers], share_texts(config, [t.name for t in teachers], spoken, rows)
    )
    spent = None if size.ms is None else 1e3 * size.ms
    predictions, scores = measure_system(
        "teacher ensemble", "ensemble", config, answers, asked_B, rows, size.parameters or 0, spent
    )
    return replace(predictions, megabytes=size.megabytes, timed_on=size.timed_on), scores


def share_texts(
    config: RunConfig, names: Sequence[str], spoken: Sequence[frozenset[str] | None], rows: Rows
) -> list[float]:
    """Return the share of rows that each teacher is asked for.

    Args:
        config: The run of one task.
        names: Of the teachers.
        spoken: The languages that each was declared for; None for any.
        rows: The rows.
    """
    ask, groups = config.objective.weighting.may_need, rows.groups or (None,) * len(rows)
    asked = [ask(x, tuple(names), tuple(spoken), g) for x, g in zip(rows.languages, groups, strict=True)]
    shares: list[float] = np.asarray(asked).mean(axis=0).tolist()
    return shares


def join_sizes(sizes: Sequence[Size], shares: Sequence[float]) -> Size:
    """Return teachers as one system, whose time for a text is that of the teachers it goes to.

    Args:
        sizes: Of each teacher.
        shares: The share of texts that each is asked for.
    """
    needed = [(size, share) for size, share in zip(sizes, shares, strict=True) if share]
    times = [size.ms * share for size, share in needed if size.ms is not None]
    places = {size.timed_on for size, _ in needed}
    megabytes = [size.megabytes for size in sizes if size.megabytes is not None]
    counts = [size.parameters for size in sizes if size.parameters]
    return Size(
        sum(counts) if len(counts) == len(sizes) else None,  # one without weights is no part of a sum
        sum(megabytes) if len(megabytes) == len(sizes) else None,
        sum(times) if times and len(times) == len(needed) else None,
        places.pop() if len(places) == 1 else None,
    )


def make_student_spec(directory: Path, config: RunConfig) -> TeacherSpec:
    """Return the spec by which a saved student is loaded and asked like a teacher, in float32."""
    codes = get_language_codes(config) if config.task.language else {}
    # Not the name of its row, which may hold what a teacher's name may not.
    student = ModelTeacher(name="student", languages="all", path=str(directory), language_codes=dict(codes))
    return TeacherSpec(student, config.data.labels, config.task, dtype="float32")


def score_student(name: str, role: Role, directory: Path, config: RunConfig, rows: Rows) -> System:
    """Return the table's row of a saved student, loaded from the files that a user gets."""
    # The driver may be a notebook, which gets its number of threads back.
    before = torch.get_num_threads()
    torch.set_num_threads(config.workers.threads)
    try:
        saved = config.task.with_settings(inspect_directory(directory).settings)
        config = config.model_copy(update={"task": saved})
        student = Teacher(make_student_spec(directory, config))
        if config.task.language:
            answers, parameters = collect_student_answers(directory, config, rows)
            all_B = np.ones(len(rows), dtype=bool)
        else:
            info = student.open()
            signal = student.answer(rows.take(range(len(rows))))
            answers, parameters, all_B = (
                collect_unit_answers(config, signal, rows),
                info.parameters,
                signal.answered_B,
            )
        timing = time_student(student, rows)
    finally:
        torch.set_num_threads(before)
    spent = None if timing is None else 1e3 * timing.ms
    predictions, scores = measure_system(name, role, config, answers, all_B, rows, parameters, spent)
    return replace(predictions, timed_on=None if timing is None else timing.place), scores


def time_student(student: Teacher, rows: Rows) -> Timing | None:
    """Return what a text takes a student; None if it cannot be asked like a teacher."""
    try:
        student.load()
        return student.measure_time(sample_texts(rows))
    except RaykdError as error:
        log.warning("the time of %s was not measured: %s", student.name, error)
        return None


def sample_texts(rows: Rows, languages: Collection[str] | None = None) -> TextBatch:
    """Return the texts that a model is timed on, spread evenly over the rows of these languages (None: all)."""
    picked = [i for i, language in enumerate(rows.languages) if languages is None or language in languages]
    picked = picked or list(range(len(rows)))
    count = min(TIMED_TEXTS, len(picked))
    return rows.take([picked[i * len(picked) // count] for i in range(count)])
