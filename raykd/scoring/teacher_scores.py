"""What teachers score on the validation rows before they teach, and whether the run may go on with them.

Decision record: a teacher with swapped labels teaches them, and no loss curve shows it. Its answers to the validation
rows are needed for the final table anyway, so they are asked for first; where a store keeps them they are read again
at the end, else they are held. Runs, sweeps, confirmations and `raykd label` call `review_teachers`. Scores are
compared on the languages that two teachers share, so that none is blamed for a hard language.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raykd.answers.source import AnswerSlots
from raykd.config import Run, RunConfig
from raykd.data.rows import Rows
from raykd.distill.signals import MASKED
from raykd.errors import ModelError
from raykd.folders.folder import RunFolder
from raykd.point import Point
from raykd.report.formats import format_metric
from raykd.report.results import Score
from raykd.scoring.poor_teachers import Complaint, make_complaint
from raykd.scoring.score import ask_teachers, collect_unit_answers, score_teachers
from raykd.scoring.unused_teachers import describe_unused_teachers, find_unused_teachers
from raykd.tasks.schemes import parse_scheme
from raykd.tasks.scores import entities
from raykd.tasks.scores.chance import Comparison, compare_with_constant_label
from raykd.tasks.scores.metrics import find_metric_title, is_rate
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo
from raykd.tracking import Tracker

log = logging.getLogger("raykd.runs")
FAR_BELOW = 0.20
"""How far a teacher may be below another one before a warning says so."""
SAID_EVERY_S = 15.0


@dataclass(frozen=True)
class TeacherReview:
    """What is known of a run's teachers before they teach.

    Attributes:
        scores: On the validation rows, by teacher.
        answers: Their answers to these, where no store keeps them.
        complaints: Of teachers that are no better than one label for everything, or right only with other
            labels.
        summary: All scores in a line.
        warnings: Complaints, teachers far below others or not judged.
        idle: Teachers that are never asked.
    """

    scores: Mapping[str, Score] = field(default_factory=dict)
    answers: Mapping[str, AnswerSlots] = field(default_factory=dict)
    complaints: tuple[Complaint, ...] = ()
    summary: str = ""
    warnings: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the run must know."""
        return (*self.warnings, *self.idle)

    @property
    def lines(self) -> tuple[str, ...]:
        """What to say before the teachers teach."""
        return (self.summary, *(f"warning: {warning}" for warning in self.warnings))

    def announce(self, say: Callable[[str], None]) -> None:
        """Say it, and write it to the log."""
        for line in self.lines:
            say(line)
        log.info("%s", self.summary)
        for warning in self.warnings:
            log.warning("%s", warning)

    def record(self, tracker: Tracker, task: str) -> None:
        """Record scores and complaints in MLflow, behind the name of their task."""
        values = {
            f"teacher/{name}/validation/{metric}": value
            for name, found in self.scores.items()
            for metric, value in (found.macro or {}).items()
        }
        tracker.log_points([Point(0, values).with_task(task)])
        if self.complaints:
            tracker.set_tags({f"raykd.teacher.{c.teacher}.poor": c.line for c in self.complaints})


def review_teachers(
    config: RunConfig,
    pool: TeacherPool,
    infos: Sequence[TeacherInfo],
    rows: Rows,
    languages: Iterable[str],
    say: Callable[[str], None],
    *,
    asked_alike: bool = True,
) -> TeacherReview:
    """Ask all teachers for the validation rows and judge them; stop nothing.

    Args:
        rows: Of the validation split.
        languages: Of the training rows.
        say: Takes lines while it takes long.
        asked_alike: Whether the run's own weighting decides who is asked; False where trials differ in that.
    """
    signals = ask_teachers(pool.handle, rows, _make_reporter(say))
    for name, line in pool.replicas.findings().items():
        log.info("teacher %s: %s", name, line)
    scores = {p.name: s for p, s in score_teachers(_without_writing(config), pool, signals, infos, rows)}
    idle = find_unused_teachers(config, languages) if asked_alike else {}
    complaints = _complaints(config, pool, infos, signals, scores, rows, idle)
    warnings = (
        *(c.line for c in complaints if not c.stops),  # what stops is told as an error
        *_far_below(config, scores, {c.teacher for c in complaints}),
        *_not_judged(config, scores, rows, set(languages)),
    )
    return TeacherReview(
        scores=scores,
        answers={} if config.serving.store is not None else {s.teacher: s for s in signals},
        complaints=complaints,
        summary=_summarise(config, scores),
        warnings=warnings,
        idle=describe_unused_teachers(idle),
    )


def refuse_poor_teachers(judged: Iterable[TeacherReview], config: Run, key: str = "teachers") -> None:
    """Raise ModelError where a teacher that is not good enough may not teach (`teachers[].on_poor`).

    Args:
        key: Where an override finds the run's teachers.
    """
    stopping = [c for part in judged for c in part.complaints if c.stops]
    if not stopping:
        return
    names = ", ".join(c.teacher for c in stopping)
    several = len(stopping) > 1
    places = [t.name for t in config.teachers]
    may = [f"{key}.{places.index(c.teacher)}.on_poor=warn" for c in stopping]

    def told(lines: list[str]) -> str:
        return "; ".join(f"{c.teacher}: {line}" if several else line
                         for c, line in zip(stopping, lines, strict=True))  # fmt: skip

    raise ModelError(
        f"teachers {names} are not good enough to teach" if several else stopping[0].what,
        got=told([c.got for c in stopping]),
        wanted=told([c.wanted for c in stopping]),
        next_step=f"{told([c.cause for c in stopping])}; {' '.join(may)} goes on all the same (train and sweep: with "
        "--resume)",
    )


def record_reviews(judged: Mapping[str, TeacherReview], tracker: Tracker, folder: RunFolder) -> None:
    """Log what was found to the MLflow run, which a resume does not do again.

    Args:
        judged: By task; the name is empty in a run of one task.
    """
    if folder.state.get("teachers_scored_in") == tracker.run_id:
        return
    for task, part in judged.items():
        part.record(tracker, task)
    folder.write_state(teachers_scored_in=tracker.run_id)


def _without_writing(config: RunConfig) -> RunConfig:
    """Return the run, measured by likelihoods alone: what teachers write is measured once, on the held-out rows."""
    if not config.task.language:
        return config
    return config.model_copy(update={"task": config.task.model_copy(update={"written": ()})})


def _make_reporter(say: Callable[[str], None]) -> Callable[[int, int], None]:
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if done < total and time.monotonic() - last >= SAID_EVERY_S:
            last = time.monotonic()
            say(f"teachers answer the validation rows: {done:,} of {total:,}")

    return report


def compare_with_one_label(config: RunConfig, signal: AnswerSlots, rows: Rows) -> Comparison | None:
    """Return a teacher beside one label for everything; None where a task has no labels, or nothing can be compared.

    A tagger is compared with O everywhere, by words.
    """
    picked = np.flatnonzero(signal.answered_B & rows.labelled)
    if not config.task.labelled or not len(picked):
        return None
    said, batch = collect_unit_answers(config, signal, rows).take(picked), rows.take(picked)
    gold_N, labels = config.task.list_unit_labels(batch), config.data.labels
    if not len(gold_N):
        return None
    if config.task.form != "words":
        return compare_with_constant_label(said.logits_NC.argmax(axis=1), gold_N, len(labels))
    scheme = parse_scheme(labels)
    outside = np.where(np.arange(len(labels)) == scheme.outside, 0.0, MASKED)
    logits_NC = np.where(said.covered_N[:, None], said.logits_NC, outside)
    tags_N = entities.decode_tags(logits_NC, said.counts_B, scheme)
    chosen_N = logits_NC.argmax(axis=1)
    return compare_with_constant_label(tags_N, gold_N, len(labels), label=scheme.outside, chosen_N=chosen_N)


def _complaints(
    config: RunConfig,
    pool: TeacherPool,
    infos: Sequence[TeacherInfo],
    signals: Sequence[AnswerSlots],
    scores: Mapping[str, Score],
    rows: Rows,
    idle: Mapping[str, str],
) -> tuple[Complaint, ...]:
    specs = {spec.name: spec for g in pool.groups for spec in g.specs}
    chosen = {t.name: t.on_poor for t in config.teachers}
    complaints = []
    for info, signal in zip(infos, signals, strict=True):
        name, found = info.name, compare_with_one_label(config, signal, rows)
        if found is not None:
            stops = chosen[name] == "stop" and name not in idle
            complaint = make_complaint(config, specs[name], info, found, scores[name], stops=stops)
            complaints += [] if complaint is None else [complaint]
    return tuple(complaints)


def _far_below(config: RunConfig, scores: Mapping[str, Score], left_out: set[str]) -> list[str]:
    """Teachers far below another one on the languages that both are measured on, each beside the best of those."""
    metric = config.task.metric_names[0]
    if not is_rate(metric):
        return []
    notes = []
    for name, own in scores.items():
        gaps = []
        for other, theirs in scores.items():
            shared = [lang for lang in own.by_language if lang in theirs.by_language]
            if other != name and shared:
                mine, best = (
                    float(np.mean([s.by_language[x][metric] for x in shared])) for s in (own, theirs)
                )
                gaps.append((best - mine, mine, best, other, shared))
        if gaps and name not in left_out and max(gaps)[0] > FAR_BELOW:
            gap, mine, best, other, shared = max(gaps)
            notes.append(
                f"teacher {name} is {100 * gap:.1f} points below teacher {other} on the validation rows in "
                f"{', '.join(shared)}: {find_metric_title(metric).removesuffix(' %')} {100 * mine:.1f} against "
                f"{100 * best:.1f} %"
            )
    return notes


def _not_judged(config: RunConfig, scores: Mapping[str, Score], rows: Rows, languages: set[str]) -> list[str]:
    """Teachers that taught languages are not judged in, by what is missing there."""
    labelled = {lang for lang, has in zip(rows.languages, rows.labelled.tolist(), strict=True) if has}
    missing: dict[tuple[str, ...], list[str]] = {}
    notes = []
    for teacher in config.active_teachers:
        own = languages if teacher.language_set is None else teacher.language_set & languages
        if without := tuple(sorted(own - labelled)):
            missing.setdefault(without, []).append(teacher.name)
        if unanswered := sorted((own & labelled) - set(scores[teacher.name].by_language)):
            notes.append(
                f"teacher {teacher.name} could not be judged in {', '.join(unanswered)}: it did not answer"
            )
    for without, names in missing.items():
        who = f"teacher {names[0]}" if len(names) == 1 else f"teachers {', '.join(names)}"
        notes.append(
            f"{who} could not be judged in {', '.join(without)}: no validation row there has a label"
        )
    return notes


def _summarise(config: RunConfig, scores: Mapping[str, Score]) -> str:
    metric = config.task.metric_names[0]
    each = [
        f"{name} {format_metric(metric, None if s.macro is None else s.macro[metric])} "
        f"({', '.join(s.by_language) or 'none'})"
        for name, s in scores.items()
    ]
    return f"teachers on the validation rows, {find_metric_title(metric)}: {', '.join(each)}"
