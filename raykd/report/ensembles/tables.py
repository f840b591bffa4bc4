"""Lay out the ensemble report as tables, the same for terminal and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raykd.ensemble.contributions import Contribution
from raykd.report.ensembles.cost_tables import lay_out_prices, lay_out_sizes, lay_out_weights
from raykd.report.ensembles.report import Departure, Effect, EnsembleReport
from raykd.report.ensembles.sections import Section, format_interval, format_points
from raykd.report.formats import (
    ABSENT,
    format_metric,
    format_metric_name,
    use_minus_sign,
)
from raykd.tasks.scores.metrics import is_rate


def build_sections(report: EnsembleReport) -> tuple[Section, ...]:
    """Return the tables that the report has data for."""
    made = (
        _lay_out_contributions(report),
        _lay_out_classes(report),
        _lay_out_agreement(report),
        _lay_out_calibration(report),
        _lay_out_departures(report),
        lay_out_weights(report),
        lay_out_sizes(report),
        lay_out_prices(report),
        _lay_out_hardest(report),
    )
    return tuple(section for section in made if section is not None and section.lines)


def summarize_ensemble(report: EnsembleReport) -> str:
    """Return what was measured, in a sentence or two."""
    gold = "labelled validation rows" if report.labelled else "validation rows without gold labels"
    who = f"{len(report.teachers)} teachers ({', '.join(report.teachers)})"
    text = f"{who} on {report.rows:,} {gold}, weighting {report.weighting}"
    if report.base is None or report.guess is None:
        return f"{text}."
    how = (
        f"all {report.coalitions} coalitions"
        if report.exact
        else f"{report.coalitions:,} coalitions of drawn orders"
    )
    name = format_metric_name(report.metric)
    unit = " %" if is_rate(report.metric) else " nats per token"
    against = "" if report.labelled else " (agreement with all together)"
    return (
        f"{text}. All together {name} {format_metric(report.metric, report.base)}{unit}, a guess "
        f"{format_metric(report.metric, report.guess)}{unit}{against}; {how} were scored."
    )


def _lay_out_contributions(report: EnsembleReport) -> Section | None:
    """Return points per teacher, over all languages and in each."""
    means, metric = [c for c in report.contributions if c.group == "mean"], report.metric
    if not means:
        return None
    several = len(report.languages) > 1
    languages = report.languages if several else ()
    what = "points" if is_rate(metric) else "nats"
    heads = ["teacher", f"{what} [95 %]", *languages, "alone", "dropped"]
    lines = []
    for c in means:
        own = {d.name: d for d in report.contributions if d.teacher == c.teacher and d.group == "language"}
        cells = [ABSENT if own[x].alone is None else format_points(own[x].value, metric) for x in languages]
        # The score of NLL is its negative, so that more is better.
        score = c.alone if c.alone is None or is_rate(metric) else -c.alone
        alone = format_metric(metric, score)
        lines.append(
            [
                c.teacher,
                format_interval(c.value, c.low, c.high, metric),
                *cells,
                alone,
                format_points(c.without, metric),
            ]
        )
    retrained = report.retrained
    if retrained:
        heads.append("dropped, retrained")
        for line in lines:
            found = retrained.get(line[0])
            line.append(
                ABSENT if found is None else format_interval(found.value, found.low, found.high, metric)
            )
    name, verb = format_metric_name(metric), "adds" if is_rate(metric) else "takes away"
    remarks = (
        f"{what} of {name} that a teacher {verb}, on average over all orders in which teachers may join (Shapley); "
        "they add up from a guess to all together",
        f"alone: the teacher's own {name} in its languages, with a guess at what it does not cover; dropped: how all "
        "others change without it",
        "an estimate from stored answers: nothing was trained again",
        *(
            (
                "dropped, retrained: how students change that were trained without it (raykd compare), with the "
                "interval over their seeds",
                _compare_with_retrained(means, retrained, metric),
            )
            if retrained
            else ()
        ),
    )
    return Section(
        "contributions", f"{what.capitalize()} per teacher and language", heads, lines, remarks=remarks
    )


def _compare_with_retrained(
    means: Sequence[Contribution], retrained: Mapping[str, Effect], metric: str
) -> str:
    """Return how far the estimate and leave-one-out with retrained students agree, in a sentence."""
    both = [(c, retrained[c.teacher]) for c in means if c.teacher in retrained]
    inside = sum(effect.low <= c.without <= effect.high for c, effect in both)
    text = f"the two compared: the estimate lies in the interval of retraining for {inside} of {len(both)} teachers"
    if len(both) > 1:
        estimated = min(both, key=lambda pair: pair[0].without)[0].teacher
        trained = min(both, key=lambda pair: pair[1].value)[0].teacher
        by_both = (
            f"{estimated} by both"
            if estimated == trained
            else f"{estimated} by the estimate and {trained} by retraining"
        )
        text += f"; the teacher that is missed most is {by_both}"
    if not any(effect.low > 0 or effect.high < 0 for _, effect in both):
        text += "; no interval of retraining excludes 0, so its seeds show no teacher to be needed"
    return f"{text}. The estimate is of the teachers on validation rows, retraining of the student on held-out rows"


def _lay_out_classes(report: EnsembleReport) -> Section | None:
    """Return points per teacher and class."""
    found: dict[str, dict[str, Contribution]] = {}
    for c in report.contributions:
        if c.group == "class":
            found.setdefault(c.name, {})[c.teacher] = c
    heads = ["class", "rows", *report.teachers]
    lines = [
        [
            name,
            f"{next(iter(own.values())).rows:,}",
            *(format_points(own[t].value, report.metric) for t in report.teachers),
        ]
        for name, own in found.items()
    ]
    kind = "F1 of each type" if report.metric == "f1" else "the share of each label's rows that is right"
    return Section("classes", "Points per teacher and class", heads, lines, remarks=(f"points of {kind}",))


def _lay_out_agreement(report: EnsembleReport) -> Section:
    heads = ["first", "second", "shared", "same label %", "kappa", "errors", "same error %"]
    lines = [
        [
            p.first,
            p.second,
            f"{p.units:,}",
            f"{100 * p.share:.1f}",
            ABSENT if p.kappa is None else use_minus_sign(f"{p.kappa + 0.0:.2f}"),
            f"{p.wrong:,}",
            ABSENT if p.shared_errors is None else f"{100 * p.shared_errors:.0f}",
        ]
        for p in report.agreement
    ]
    remarks = (
        "kappa: agreement beyond chance (Cohen); same error: of the units on which either is wrong, both give the same "
        "wrong label. Copies share nearly all errors",
    )
    return Section("pairs", "How alike two teachers answer", heads, lines, 2, remarks)


def _lay_out_calibration(report: EnsembleReport) -> Section:
    heads = ["system", "units", "ECE %", "best T", "ECE % at T", "NLL", "NLL at T"]
    lines = [
        [
            c.system,
            f"{c.units:,}",
            f"{100 * c.ece:.1f}",
            f"{c.temperature:.2f}",
            f"{100 * c.ece_fitted:.1f}",
            f"{c.nll:.3f}",
            f"{c.nll_fitted:.3f}",
        ]
        for c in report.calibration
    ]
    remarks = (
        "best T: the temperature of the lowest NLL, above 1 for a system that is too sure; what stands after it was "
        "fitted on one half of the rows and measured on the other",
        "ECE is over all units at once here, because a temperature is fitted to all of them; the results show "
        "the mean over languages",
    )
    return Section(
        "calibration",
        "Calibration before and after combination and temperature",
        heads,
        lines,
        remarks=remarks,
    )


def _lay_out_departures(report: EnsembleReport) -> Section:
    heads = ["language", "units", "differ", "differ %", "student right", "teachers right", "neither"]
    lines = [_describe_departure(d) for d in report.departures]
    return Section(
        "departures", "Where the student departs from its teachers, and who is right", heads, lines
    )


def _describe_departure(d: Departure) -> list[str]:
    neither = d.differing - d.student_right - d.teachers_right
    share = f"{100 * d.differing / d.units:.1f}" if d.units else ABSENT
    counts = (d.differing, d.student_right, d.teachers_right, neither)
    differing, *others = (f"{count:,}" for count in counts)
    return [d.language or "all", f"{d.units:,}", differing, share, *others]


def _lay_out_hardest(report: EnsembleReport) -> Section:
    seen = {v.system for row in report.hardest for v in row.views}
    systems = [name for name in (*report.teachers, "ensemble", "student") if name in seen]
    texts = any(row.text is not None for row in report.hardest)
    heads = ["row", "language", "gold", *systems, *(["text"] if texts else [])]
    lines = []
    for row in report.hardest:
        views = {v.system: f"{v.label} {100 * v.gold_probability:.0f}" for v in row.views}
        shown = [_shorten(row.text or "")] if texts else []
        lines.append([row.row, row.language, row.gold, *(views.get(s, ABSENT) for s in systems), *shown])
    remarks = (
        "each system's choice, and behind it the probability, in %, that it gives to the gold label (of a tagged row "
        "the mean over its words). Some of these rows may have wrong gold labels",
        *(() if texts else ("texts are not shown (report.texts)",)),
    )
    title = "The rows that the teachers together find hardest"
    return Section("hardest", title, heads, lines, len(heads), remarks, brief=False, wraps=texts)


def _shorten(text: str, most: int = 200) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def list_advice(report: EnsembleReport) -> Sequence[str]:
    """Return the advice in words, or that there is none."""
    if not report.labelled or not report.contributions:
        return ()
    if not report.advice:
        return (
            "no change is worth making: every interval of an expected change holds 0 or speaks against it",
        )
    return tuple(line.line for line in report.advice)
