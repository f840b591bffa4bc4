"""The final table's numbers: every system's answers on the same held-out rows.

Decision record: teachers answer through the pool, students in the driver through the same `Teacher` class, in
float32, so that all are measured alike. Milliseconds for 1,000 texts are those of `raykd.teachers.timing`. The ensemble
is what the student is taught: the run's weighting and mixture at temperature 1, without gold labels.
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
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import MASKED, UNLABELLED, Signals
from raykd.distill.targets import Mixture, combine_logits
from raykd.errors import RaykdError
from raykd.report.results import Predictions, Role, Score, score_by_language
from raykd.scoring.language_answers import collect_student_answers, collect_teacher_answers
from raykd.student.prepare import get_language_codes
from raykd.tasks import SystemAnswers
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.teachers.teacher import Teacher
from raykd.teachers.timing import TIMED_TEXTS
from raykd.text.batch import TextBatch

ASKED_ROWS = 128
"""Rows of one request of an evaluation."""
log = logging.getLogger("raykd.runs")


System = tuple[Predictions, Score]
"""What a system answered, and how good that was."""


def ask_teachers(
    handle: PoolHandle, rows: Rows, report: Callable[[int, int], None] = lambda done, total: None
) -> list[AnswerSlots]:
    """Return every teacher's answers to all rows of its languages, in row order.

    Args:
        report: Takes (rows answered, rows in all) as it goes on.
    """
    source = handle.source(None)
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
    name: str, role: Role, config: RunConfig, said: SystemAnswers, asked_B: NDArray[np.bool_], rows: Rows,
    parameters: int, ms_per_1000: float | None = None,
) -> System:  # fmt: skip
    """Return what a system said to the rows it was asked for, measured by the task."""
    labels = config.data.labels
    found = score_by_language(
        rows.languages,
        asked_B & rows.labelled,
        lambda picked: config.task.compute_metrics(said.take(picked), rows.take(picked), labels),
    )
    if config.task.language:
        nothing = np.empty((0, 0), np.float32), np.empty(0, bool), np.empty(0, np.int64), ()
        plain, same = role == "student" and config.plain, _find_constant_text(said.texts, rows)
        return Predictions(name, role, *nothing, parameters, ms_per_1000, plain, same), found
    batch = rows.take(range(len(rows)))
    languages = tuple(np.repeat(np.asarray(rows.languages, dtype=object), said.counts_B).tolist())
    gold_N = config.task.list_unit_labels(batch)
    answers = Predictions(
        name, role, said.logits_NC, said.covered_N, gold_N, languages, parameters, ms_per_1000,
        role == "student" and config.plain,
    )  # fmt: skip
    return replace(answers, constant=_find_constant_label(config, answers)), found


def _find_constant_label(config: RunConfig, answers: Predictions) -> str | None:
    """The one label that a system gives to all units, in words; None where it gives several, or gold is one too."""
    if not config.task.labelled:
        return None
    counted_N = answers.covered_N & (answers.labels_N != UNLABELLED)
    if not counted_N.any() or len(set(answers.labels_N[counted_N].tolist())) == 1:
        return None
    given = set(answers.logits_NC[counted_N].argmax(axis=1).tolist())
    if len(given) != 1:
        return None
    (at,) = given
    label = config.data.labels[at] if at < len(config.data.labels) else str(at)
    return "no entity" if label == "O" else f"label {label}"


def _find_constant_text(texts: Sequence[str] | None, rows: Rows) -> str | None:
    """The one text that a system writes for all rows, in words; None where it writes several, or targets are one."""
    if texts is None or len(set(texts)) != 1 or len(set(rows.pairs or rows.texts)) < 2:
        return None
    return f"the text {texts[0][:40]!r}" if texts[0].strip() else "nothing is written"


def collect_unit_answers(config: RunConfig, signal: AnswerSlots, rows: Rows) -> SystemAnswers:
    """Return a teacher's answers to all rows as what a task measures."""
    batch = rows.take(range(len(rows)))
    counts_B = config.task.count_units(batch)
    logits_NC, covered_N = read_unit_logits(
        signal, counts_B, config.task.count_choices(batch, config.data.labels)
    )
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
    hidden_N = torch.full((int(counts_B.sum()),), UNLABELLED, dtype=torch.int64)
    choices = config.task.count_choices(batch, config.data.labels)
    return lay_out_answers(signals, languages, StudentUnits(hidden_N, counts_B, rows.languages, choices))


def score_teachers(
    config: RunConfig,
    pool: TeacherPool,
    signals: Sequence[AnswerSlots],
    infos: Sequence[TeacherInfo],
    rows: Rows,
    times: Mapping[str, float | None] | None = None,
) -> list[System]:
    """Return the teachers' rows of the table.

    Args:
        times: Milliseconds for 1,000 texts by teacher, where they are shown.
    """
    said = [
        collect_teacher_answers(pool, m, s, config, rows)
        if config.task.language
        else collect_unit_answers(config, s, rows)
        for m, s in enumerate(signals)
    ]
    return [
        measure_system(
            s.teacher, "teacher", config, what, s.answered_B, rows, i.parameters, (times or {}).get(s.teacher)
        )
        for what, s, i in zip(said, signals, infos, strict=True)
    ]


def score_ensemble(
    config: RunConfig,
    signals: Signals,
    asked_B: NDArray[np.bool_],
    teachers: Sequence[Predictions],
    rows: Rows,
) -> System:
    """Return what the student is taught: the combined target at temperature 1, as log-probabilities.

    Args:
        signals: Of all units.
        asked_B: Rows that some teacher was asked for.
    """
    weighting = config.objective.weighting
    weights_MN, mixture = weighting.weights(signals), config.objective.mixture
    target = combine_logits(complete_logits(signals, weights_MN, mixture), weights_MN, 1.0, mixture)
    names, spoken = signals.teachers, signals.teacher_languages
    times = [t.ms_per_1000 for t in teachers]
    shares = np.asarray([weighting.may_need(lang, names, spoken) for lang in rows.languages]).mean(axis=0)
    said = SystemAnswers(
        target.logp_NK.numpy().astype(np.float32),
        config.task.count_units(rows.take(range(len(rows)))),
        target.covered_N.numpy(),
    )
    parameters = sum(t.parameters for t in teachers)
    needed = [(t, share) for t, share in zip(times, shares.tolist(), strict=True) if share]
    known = [t * share for t, share in needed if t is not None]
    spent = sum(known) if len(known) == len(needed) else None
    return measure_system("teacher ensemble", "ensemble", config, said, asked_B, rows, parameters, spent)


def complete_logits(signals: Signals, weights_MN: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    """Logits ``[M, N, C]`` of teachers that all answer for all labels.

    What a teacher of a subset does not know it takes from those that know all labels: their probabilities for these
    labels, and what is left of their mass for its own. Where nobody knows them they have no probability.
    """
    logits_MNC = signals.logits_MNC.float().clone()
    whole = [m for m in range(len(logits_MNC)) if signals.columns(m) is None]
    sum_N = weights_MN[whole].sum(dim=0)
    helped_N1 = (sum_N > 0.0).unsqueeze(1)
    known = (
        combine_logits(logits_MNC[whole], weights_MN[whole] / sum_N.clamp_min(1e-9), 1.0, mixture)
        if whole
        else None
    )
    for m, logits_NC in enumerate(logits_MNC):
        columns = signals.columns(m)
        if columns is None:
            continue
        own_NK = logits_NC[:, list(columns)].log_softmax(dim=1)
        filled_NC = torch.full_like(logits_NC, MASKED)
        if known is not None:
            filled_NC = torch.where(helped_N1, known.logp_NK, filled_NC)
            mass_N1 = known.logp_NK[:, list(columns)].logsumexp(dim=1, keepdim=True)
            own_NK = torch.where(helped_N1, own_NK + mass_N1, own_NK)
        filled_NC[:, list(columns)] = own_NK
        logits_MNC[m] = filled_NC
    return logits_MNC


def make_student_spec(name: str, directory: Path, config: RunConfig) -> TeacherSpec:
    """Return a saved student as a teacher that answers for itself, in float32."""
    codes = get_language_codes(config) if config.task.language else {}
    return TeacherSpec(
        name, str(directory), config.data.labels, config.task, language_codes=dict(codes), dtype="float32"
    )


def score_student(name: str, role: Role, directory: Path, config: RunConfig, rows: Rows) -> System:
    """Return a saved student's answers, from the files that a user gets."""
    threads = max(1, int(config.workers.num_cpus + 1e-6))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        student = Teacher(make_student_spec(name, directory, config))
        if config.task.language:
            said, parameters = collect_student_answers(directory, config, rows)
            everything_B = np.ones(len(rows), dtype=bool)
            return measure_system(
                name, role, config, said, everything_B, rows, parameters, _time_student(student, rows)
            )
        info = student.open()
        signal = student.answer(rows.take(range(len(rows))))
        spent = _time_student(student, rows)
    finally:
        torch.set_num_threads(before)
    said = collect_unit_answers(config, signal, rows)
    return measure_system(name, role, config, said, signal.answered_B, rows, info.parameters, spent)


def _time_student(student: Teacher, rows: Rows) -> float | None:
    """Milliseconds for 1,000 texts of a student; None where it cannot be asked as a teacher is."""
    try:
        student.load()
        timing = student.measure_time(sample_texts(rows))
    except RaykdError as error:
        log.warning("the time of %s was not measured: %s", student.name, error)
        return None
    return None if timing is None else 1e3 * timing.ms


def sample_texts(rows: Rows, languages: Collection[str] | None = None) -> TextBatch:
    """Return the texts that a model is timed on: some of all rows, or of those in these languages."""
    picked = [i for i, language in enumerate(rows.languages) if languages is None or language in languages]
    picked = picked or list(range(len(rows)))
    count = min(TIMED_TEXTS, len(picked))
    return rows.take([picked[i * len(picked) // count] for i in range(count)])
