"""Score the teachers on the validation rows before they teach, and decide whether the run may go on with them.

Decision record: a teacher with swapped labels teaches them, and no loss curve shows it. The final table may need the
answers to the validation rows anyway. With a store they are read again at the end, else they are kept in memory. Runs,
sweeps, experiments and `raykd label` call `review_teachers`. Two teachers are compared on the languages that both
speak, so that neither is blamed for a hard language.
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
from raykd.scoring.absent_teachers import describe_unused_teachers, find_unused_teachers
from raykd.scoring.ensembles.agreement import name_score
from raykd.scoring.poor_teachers import Complaint, find_poor_routes, find_wrong_scale, make_complaint
from raykd.scoring.score import ask_teachers, collect_unit_answers, score_teachers
from raykd.tasks.kinds.regression import get_values
from raykd.tasks.schemes import parse_scheme
from raykd.tasks.scores import entities
from raykd.tasks.scores.chance import Comparison, compare_with_constant_label
from raykd.tasks.scores.classification import is_known
from raykd.tasks.scores.metrics import find_metric_title, is_rate, name_agreement
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo
from raykd.tracking import Tracker

log = logging.getLogger("raykd.runs")
FAR_BELOW = 0.20
"""A teacher whose score is lower than another's by more than this is warned of."""
NO_GOLD = (
    "no validation row has a gold label, so teachers are not judged: scores are agreement with all together"
)
"""Warning of a review without gold labels."""
REPORT_EVERY_S = 15.0
"""Seconds between two lines while teachers answer."""


@dataclass(frozen=True)
class TeacherReview:
    """What is known of a run's teachers before they teach.

    Attributes:
        scores: Scores on the validation rows, by teacher.
        answers: Answers to these rows, by teacher; empty where a store keeps them.
        complaints: On teachers that are no better than one label for everything, or whose labels look swapped.
        summary: All scores in a line.
        warnings: On poor teachers, teachers far below others, and teachers that could not be judged.
        idle: On teachers that are never asked.
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
        """What the terminal shows before the teachers teach."""
        return (self.summary, *(f"warning: {warning}" for warning in self.warnings))

    def announce(self, say: Callable[[str], None]) -> None:
        """Show the lines, and write them to the log."""
        for line in self.lines:
            say(line)
        log.info("%s", self.summary)
        for warning in self.warnings:
            log.warning("%s", warning)

    def record(self, tracker: Tracker, task: str) -> None:
        """Record scores and complaints in MLflow.

        Args:
            tracker: The MLflow run.
            task: Prefix of the metrics; empty in a run of one task.
        """
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
    is_judged: bool = False,
) -> TeacherReview:
    """Score the teachers on the validation rows; raise nothing for poor scores.

    Args:
        config: The run of one task.
        pool: The opened teachers.
        infos: What each teacher says of itself.
        rows: The validation rows.
        languages: Languages of the training rows.
        say: Shows a line now and then while the teachers answer.
        asked_alike: Whether the run's own weighting decides who is asked; False where trials differ in that.
        is_judged: Whether the rows have no gold label but those of the teachers together: no teacher is poor by them.
    """
    signals = ask_teachers(pool.handle, rows, _make_reporter(say))
    for name, line in pool.replicas.findings().items():
        log.info("teacher %s: %s", name, line)
    scores = {p.name: s for p, s in score_teachers(_without_writing(config), pool, signals, infos, rows)}
    idle = find_unused_teachers(config, languages) if asked_alike else {}
    complaints: tuple[Complaint, ...] = ()
    warnings: tuple[str, ...]
    metric = config.task.metric_names[0]
    if is_judged:
        scores = {name: name_score(score) for name, score in scores.items()}
        metric, warnings = name_agreement(metric), (NO_GOLD,)
    else:
        complaints = _complaints(config, pool, infos, signals, scores, rows, idle)
        # What knows no more than the student is weak on purpose, and is beside no other teacher in its arm.
        own = {t.name for t in config.trained_teachers if t.training.labelled == "student"}
        warnings = (
            *(c.line for c in complaints if not c.stops),  # the others become an error
            *_far_below(config, scores, own | {c.teacher for c in complaints}),
            *(find_poor_routes(config, scores, set(languages)) if asked_alike else ()),
            *_not_judged(config, scores, rows, set(languages)),
        )
    return TeacherReview(
        scores=scores,
        answers={} if config.serving.store is not None else {s.teacher: s for s in signals},
        complaints=complaints,
        summary=_summarise(metric, scores),
        warnings=warnings,
        idle=describe_unused_teachers(idle),
    )


def refuse_poor_teachers(reviews: Iterable[TeacherReview], config: Run, key: str = "teachers") -> None:
    """Refuse to go on with teachers that are not good enough to teach (`teachers[].on_poor`).

    Args:
        reviews: Of all tasks.
        config: The run.
        key: Key of the run's teachers in an override.

    Raises:
        ModelError: Names the teachers and the reasons.
    """
    stopping = [c for review in reviews for c in review.complaints if c.stops]
    if not stopping:
        return
    names = ", ".join(c.teacher for c in stopping)
    several = len(stopping) > 1
    places = [t.name for t in config.teachers]
    # A name with a dot would be read as two keys of the override's path; its place in the list is not.
    items = [places.index(c.teacher) if "." in c.teacher else c.teacher for c in stopping]
    may = [f"{key}.{item}.on_poor=warn" for item in items]

    def join(part: str) -> str:
        """Return this part of all complaints, each behind its teacher's name where there are several."""
        return "; ".join((f"{c.teacher}: " if several else "") + str(getattr(c, part)) for c in stopping)

    raise ModelError(
        f"teachers {names} are not good enough to teach" if several else stopping[0].what,
        got=join("got"),
        wanted=join("wanted"),
        next_step=f"{join('cause')}; {' '.join(may)} goes on all the same (train and sweep: with --resume)",
    )


def record_reviews(reviews: Mapping[str, TeacherReview], tracker: Tracker, folder: RunFolder) -> None:
    """Record the reviews in the MLflow run, unless an earlier start has done so.

    Args:
        reviews: By task; the only task of a run has an empty name.
        tracker: The MLflow run.
        folder: The run's folder; its state keeps what was recorded.
    """
    if folder.state.get("teachers_scored_in") == tracker.run_id:
        return
    for task, review in reviews.items():
        review.record(tracker, task)
    folder.write_state(teachers_scored_in=tracker.run_id)


def _without_writing(config: RunConfig) -> RunConfig:
    """Return the run without metrics of written texts, since writing is slow: the held-out rows measure it once."""
    if not config.task.language:
        return config
    return config.model_copy(update={"task": config.task.model_copy(update={"written": ()})})


def _make_reporter(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Return a report for `ask_teachers` that shows a line every `REPORT_EVERY_S`."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if done < total and time.monotonic() - last >= REPORT_EVERY_S:
            last = time.monotonic()
            say(f"teachers answer the validation rows: {done:,} of {total:,}")

    return report


def compare_with_one_label(config: RunConfig, signal: AnswerSlots, rows: Rows) -> Comparison | None:
    """Compare a teacher with one that gives the same label to everything: the most frequent one, for taggers O.

    Returns:
        None for a task without labels, or of several labels a text (a teacher that never gives a rare one may be right
        more often than one that knows it), or without a labelled row that the teacher answered.
    """
    picked = np.flatnonzero(signal.answered_B & rows.labelled)
    if not config.task.labelled or config.task.form == "labels" or not len(picked):
        return None
    answers, batch = collect_unit_answers(config, signal, rows).take(picked), rows.take(picked)
    gold_N, labels = config.task.list_unit_labels(batch), config.data.labels
    if not len(gold_N):
        return None
    if config.task.form != "words":
        # Only rows whose label it knows: one that it lacks is not taught by it, so it cannot be wrong there.
        known_N = is_known(answers.logits_NC[np.arange(len(gold_N)), gold_N])
        if not known_N.any():
            return None
        chosen_N = answers.logits_NC.argmax(axis=1)
        return compare_with_constant_label(chosen_N[known_N], gold_N[known_N], len(labels))
    scheme = parse_scheme(labels)
    # A word that the teacher does not cover counts as O, like a word that it finds no entity in.
    outside = np.where(np.arange(len(labels)) == scheme.outside, 0.0, MASKED)
    logits_NC = np.where(answers.covered_N[:, None], answers.logits_NC, outside)
    tags_N = entities.decode_tags(logits_NC, answers.counts_B, scheme)
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
    specs = {spec.name: spec for g in pool.handle.groups for spec in g.specs}
    chosen = {t.name: t.on_poor for t in config.teachers}
    complaints = []
    for info, signal in zip(infos, signals, strict=True):
        name, found = info.name, compare_with_one_label(config, signal, rows)
        on_poor = "warn" if name in idle else chosen[name]  # a teacher that is never asked can do no harm
        if config.task.has_scale and (picked := np.flatnonzero(signal.answered_B & rows.labelled)).size:
            values_N1 = collect_unit_answers(config, signal, rows).take(picked).logits_NC
            complaints.append(
                find_wrong_scale(name, values_N1[:, 0], get_values(rows.take(picked)), on_poor=on_poor)
            )
        if found is not None:
            complaints.append(make_complaint(config, specs[name], info, found, scores[name], on_poor=on_poor))
    return tuple(complaint for complaint in complaints if complaint is not None)


def _far_below(config: RunConfig, scores: Mapping[str, Score], left_out: set[str]) -> list[str]:
    """Return a warning per teacher that is far below another one on the languages that both are measured in.

    Teachers that know other labels are not compared: each is wrong at the labels of the other.
    """
    missing = {teacher.name: set(teacher.missing) for teacher in config.active_teachers}
    metric = config.task.metric_names[0]
    if not is_rate(metric):
        return []
    notes = []
    for name, own in scores.items():
        if name in left_out:
            continue
        gaps = []
        for other, theirs in scores.items():
            shared = [lang for lang in own.by_language if lang in theirs.by_language]
            if other != name and shared and missing.get(other) == missing.get(name):
                mine, best = (
                    float(np.mean([s.by_language[x][metric] for x in shared])) for s in (own, theirs)
                )
                gaps.append((best - mine, mine, best, other, shared))
        if gaps and max(gaps)[0] > FAR_BELOW:
            gap, mine, best, other, shared = max(gaps)
            notes.append(
                f"teacher {name} is {100 * gap:.1f} points below teacher {other} on the validation rows in "
                f"{', '.join(shared)}: {find_metric_title(metric).removesuffix(' %')} {100 * mine:.1f} against "
                f"{100 * best:.1f} %"
            )
    return notes


def _not_judged(config: RunConfig, scores: Mapping[str, Score], rows: Rows, languages: set[str]) -> list[str]:
    """Return a warning per language that a teacher teaches and could not be judged in."""
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


def _summarise(metric: str, scores: Mapping[str, Score]) -> str:
    each = [
        f"{name} {format_metric(metric, None if s.macro is None else s.macro[metric])} "
        f"({', '.join(s.by_language) or 'none'})"
        for name, s in scores.items()
    ]
    return f"teachers on the validation rows, {find_metric_title(metric)}: {', '.join(each)}"
