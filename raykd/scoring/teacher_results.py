"""Collect what the teachers of a task did in a run: held-out scores, weights, times, costs and counters.

Decision record: a teacher that the run lost has no row in the table. It cannot be asked, and numbers of an earlier time
would describe another system than the one that taught. A note, a curve and a tag say since when it is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raykd.config import RunConfig
from raykd.distill.signals import Signals
from raykd.distill.weightings.base import LearnedWeighting
from raykd.driver.jobs import TaskJob
from raykd.keys import make_key_part
from raykd.point import Point
from raykd.report.costs import CostTable
from raykd.report.ensembles.report import EnsembleReport
from raykd.report.plots import collect_curves
from raykd.report.runs.report import TeacherFacts
from raykd.report.sizes import Size
from raykd.scoring.absent_teachers import describe_lost_teachers, drop_lost_teachers, find_loss_steps
from raykd.scoring.costs import list_system_sizes, make_cost_table, time_teachers
from raykd.scoring.ensembles.inputs import EnsembleInputs, ask_student, pick_rows
from raykd.scoring.ensembles.measure import make_ensemble_report
from raykd.scoring.score import System, ask_teachers
from raykd.scoring.teacher_scores import TeacherReview
from raykd.scoring.teacher_systems import measure_teacher_megabytes, score_teacher_systems
from raykd.student.matching.surpassed import hide_pairs, read_surpassed
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo

log = logging.getLogger("raykd.runs")
Counters = Mapping[str, Mapping[str, float]]
"""Counters of the teachers, by teacher."""


@dataclass(frozen=True)
class TeacherResults:
    """What is known of a task's teachers at the end of a run; empty for a run without teachers.

    Attributes:
        infos: What each remaining teacher says of itself.
        systems: Rows of the final table: each remaining teacher and their ensemble.
        facts: What the report page says of each remaining teacher.
        costs: The student beside its teachers.
        lost: Names of the teachers that the run lost.
        notes: What a reader must know of single teachers.
        counters: Rows that each teacher answered and forwarded, over all starts of the run.
        restarts: Restarts of each teacher's processes, of lost teachers too.
        processes: Names of the teachers that share a process.
        money: What the answers of each served teacher with a price cost.
        ensemble: What each remaining teacher adds; None where it could not be measured.
        together: Their answers to the held-out rows side by side; None where they have no common distribution.
    """

    infos: Sequence[TeacherInfo] = ()
    systems: Sequence[System] = ()
    facts: tuple[TeacherFacts, ...] = ()
    costs: CostTable | None = None
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    counters: Counters = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    processes: Sequence[Sequence[str]] = ()
    money: Mapping[str, float] = field(default_factory=dict)
    ensemble: EnsembleReport | None = None
    together: Signals | None = None

    def to_metrics(self) -> dict[str, float]:
        """Return what MLflow records once, at the student's last step."""
        values = {f"teacher/{name}/restarts": float(count) for name, count in self.restarts.items()}
        if self.restarts:
            # Teachers that share a process are restarted together, which counts once.
            values["teacher_restarts"] = float(sum(self.restarts[names[0]] for names in self.processes))
        for cost in () if self.costs is None else self.costs.teachers:
            found = {"x_smaller": cost.smaller, "x_faster": cost.faster, "texts_taught": float(cost.texts)}
            values |= {f"teacher/{cost.teacher}/{k}": v for k, v in found.items() if v is not None}
        for name, count in self.counters.items():
            values |= {f"teacher/{name}/rows_{k}": float(count[k]) for k in ("answered", "forwarded")}
            served = ("requests", "retries", "unusable_units", "few_units")
            values |= {f"teacher/{name}/{k}": float(count[k]) for k in served if k in count}
            if "requests" in count:
                values[f"teacher/{name}/tokens"] = float(count["real_tokens"])
        return values | {f"teacher/{name}/money": spent for name, spent in self.money.items()}


def collect_teacher_results(
    student: TaskJob,
    pool: TeacherPool,
    infos: Sequence[TeacherInfo],
    review: TeacherReview,
    curve: Sequence[Point],
    read_counters: Callable[[], Counters],
    size: Size,
) -> TeacherResults:
    """Score the teachers on the held-out rows and collect what is known of them.

    Args:
        student: Its rows and its saved model, which is timed beside the teachers.
        pool: The opened teachers.
        infos: What each teacher says of itself.
        review: What the teachers scored on the validation rows before they taught.
        curve: Points of the student.
        read_counters: Reads the counters of all teachers of the run, over all its starts.
        size: How large and fast the student is.
    """
    processes = [[spec.name for spec in g.specs] for g in pool.handle.groups]
    loss_steps = find_loss_steps(curve)
    config, pool, infos, lost = drop_lost_teachers(student.config, pool, infos, loss_steps)
    names, held_out = pool.handle.teachers, student.held_out
    # Without a test set the review has asked for these rows already.
    reviewed = student.data.test is None and all(name in review.answers for name in names)
    signals = [review.answers[name] for name in names] if reviewed else ask_teachers(pool.handle, held_out)
    times = time_teachers(pool, config, student.output, student.data.train, held_out)
    taken = {name: own for name, (own, _) in times.items() if own is not None}
    megabytes = measure_teacher_megabytes(pool)
    found = score_teacher_systems(config, pool, infos, signals, held_out, taken, megabytes)
    weights = average_weights(config, found.together, [info.name for info in infos], curve)
    counters = {name: values for name, values in read_counters().items() if name in names}
    costs = make_cost_table(
        config, pool, infos, times, size, student.data.train, held_out, megabytes, _average_tokens(counters)
    )
    return TeacherResults(
        infos=infos,
        systems=found.systems,
        facts=_list_facts(pool, infos, review, curve, weights),
        costs=costs,
        lost=lost,
        notes=(*describe_lost_teachers(loss_steps, lost), *review.notes, *describe_unusable_units(counters)),
        counters=counters,
        money=_sum_money(config, counters),
        restarts=pool.restarts(),
        processes=processes,
        ensemble=_explain_ensemble(config, student, pool, review, curve, costs),
        together=found.together,
    )


def average_weights(
    config: RunConfig, together: Signals | None, teachers: Sequence[str], curve: Sequence[Point]
) -> list[dict[str, float]]:
    """Return each teacher's mean weight by language, on the held-out rows.

    What a weighting has learned stands in the curves alone, at its last; what it reads off the student nowhere. A
    teacher that the student had surpassed at the end counts nothing in that language.

    Args:
        config: The run.
        together: The answers over the labels that all know; None where there are none.
        teachers: Their names.
        curve: Points of the student.

    Returns:
        Nothing of a teacher whose weight is not known.
    """
    weighting = config.objective.weighting
    if isinstance(weighting.inner, LearnedWeighting) or weighting.inner.reads_student:
        last = {name: value for point in curve for name, value in point.values.items()}
        names = {language: make_key_part(language) for language in config.data.languages}
        return [
            {
                code: last[key]
                for code, part in names.items()
                if (key := f"teacher/{name}/weight/{part}") in last
            }
            for name in teachers
        ]
    if together is None:
        return [{} for _ in teachers]
    left_out = read_surpassed(curve, teachers, config.data.languages)
    weights_MN = weighting.weights(hide_pairs(together, left_out)).numpy()
    return [_average_by_language(weights_N, together.languages) for weights_N in weights_MN]


def _list_facts(
    pool: TeacherPool,
    infos: Sequence[TeacherInfo],
    review: TeacherReview,
    curve: Sequence[Point],
    weights: Sequence[dict[str, float]],
) -> tuple[TeacherFacts, ...]:
    specs = {spec.name: spec for g in pool.handle.groups for spec in g.specs}
    counted = pool.counters()
    return tuple(
        TeacherFacts(
            name=info.name,
            languages=tuple(sorted(languages or ())),
            path=specs[info.name].teacher.model_path or "",
            fingerprint=info.fingerprint,
            parameters=info.parameters,
            validation=dict(review.scores[info.name].macro or {}),
            latency_ms=_average_latency_ms(curve, info.name),
            store_hit_rate=1.0 - counted[info.name]["forwarded"] / max(1, counted[info.name]["answered"]),
            weights=own,
        )
        for info, languages, own in zip(infos, pool.handle.teacher_languages, weights, strict=True)
    )


def _average_tokens(counters: Counters) -> dict[str, float]:
    """Return the tokens of a text for each teacher that counts them."""
    return {
        name: own["real_tokens"] / own["forwarded"]
        for name, own in counters.items()
        if own.get("forwarded") and own.get("real_tokens")
    }


def _sum_money(config: RunConfig, counters: Counters) -> dict[str, float]:
    """Return what the answers of each teacher with a price cost."""
    prices = {teacher.name: teacher.price for teacher in config.active_teachers}
    return {
        name: price.per_million_tokens * counters[name].get("real_tokens", 0) / 1e6
        for name, price in prices.items()
        if name in counters and price is not None and price.per_million_tokens is not None
    }


def describe_unusable_units(counters: Counters) -> tuple[str, ...]:
    """Return a sentence per served teacher whose replies could not all be used as they were asked for."""
    lines = []
    for name, count in counters.items():
        unusable, few = count.get("unusable_units", 0), count.get("few_units", 0)
        if unusable:
            lines.append(
                f"teacher {name}: {unusable:,.0f} units had no usable answer of its server and are not taught by it"
            )
        if few:
            lines.append(
                f"teacher {name}: for {few:,.0f} units its server gave fewer log-probabilities than asked for; what is "
                "missing is in their tail"
            )
    return tuple(lines)


def _explain_ensemble(
    config: RunConfig,
    student: TaskJob,
    pool: TeacherPool,
    review: TeacherReview,
    curve: Sequence[Point],
    costs: CostTable,
) -> EnsembleReport | None:
    """Make the ensemble report; None, and a line in the log, where that fails: the run is done all the same."""
    names, validation = pool.handle.teachers, student.data.validation
    picked = pick_rows(validation)
    rows = validation.select(picked)
    if "validation" in student.data.judged:
        rows = rows.without_labels()
    missing: list[str] = []
    try:
        if all(name in review.answers for name in names):
            answers = [review.answers[name].pick(picked.tolist()) for name in names]
        else:  # the store has them
            answers = ask_teachers(pool.handle, rows)
        own = ask_student(config, student.output, rows, missing) if config.task.labelled else None
        return make_ensemble_report(
            EnsembleInputs(
                config,
                rows,
                answers,
                pool.handle.teacher_languages,
                own,
                collect_curves(curve),
                list_system_sizes(costs, config),
                tuple(missing),
            )
        )
    except (
        Exception
    ):  # whatever it is, a run of hours must not end without its table for the sake of this report
        log.warning("the ensemble report was not made", exc_info=True)
        return None


def _average_latency_ms(curve: Sequence[Point], teacher: str) -> float | None:
    """Return the mean milliseconds that the teacher spent on a batch; None if the student never asked it."""
    name = f"teacher/{teacher}/latency_s"
    values = [p.values[name] for p in curve if name in p.values]
    return 1e3 * float(np.mean(values)) if values else None


def _average_by_language(weights_N: NDArray[np.float32], languages: Sequence[str]) -> dict[str, float]:
    codes = np.asarray(languages)
    return {lang: float(weights_N[codes == lang].mean()) for lang in sorted(set(languages))}
