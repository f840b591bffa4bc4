"""Lay out the ensemble report as tables, the same for terminal and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raykd.ensemble.contributions import Contribution
from raykd.report.costs import format_ratio
from raykd.report.ensembles.report import Departure, EnsembleReport, SystemSize
from raykd.report.fitted_table import FittedTable, build_form
from raykd.report.formats import (
    ABSENT,
    format_count,
    format_megabytes,
    format_metric,
    format_metric_name,
    format_speed,
    use_minus_sign,
)
from raykd.tasks.scores.metrics import is_rate

Cells = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Section:
    """One table of the report.

    Attributes:
        name: A short name, for links.
        title: What it shows.
        heads: Headings.
        lines: Cells.
        texts: How many columns, from the left, hold texts.
        remarks: How to read it, a sentence each.
        brief: Whether the terminal shows it, too.
        wraps: Whether the last column holds texts that take several lines.
    """

    name: str
    title: str
    heads: list[str]
    lines: list[list[str]]
    texts: int = 1
    remarks: tuple[str, ...] = ()
    brief: bool = True
    wraps: bool = False

    def to_rich(self) -> FittedTable:
        """Return the table for the terminal."""
        form = build_form(self.heads, self.lines, left=self.texts, title=self.title, remarks=self.remarks)
        form.title_justify = form.caption_justify = "left"
        return FittedTable((form,), self.heads, self.lines, title=self.title, remarks=self.remarks)


def build_sections(report: EnsembleReport) -> tuple[Section, ...]:
    """Return the tables that the report has data for."""
    made = (
        _lay_out_contributions(report),
        _lay_out_classes(report),
        _lay_out_agreement(report),
        _lay_out_calibration(report),
        _lay_out_departures(report),
        _lay_out_weights(report),
        _lay_out_sizes(report),
        _lay_out_prices(report),
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


def _format_points(value: float, metric: str) -> str:
    """Return a change: of a rate in percentage points, of NLL in nats."""
    digits, scaled = (1, 100 * value) if is_rate(metric) else (3, value)
    # Adding 0 turns a negative zero into a positive one.
    return use_minus_sign(f"{round(scaled, digits) + 0.0:+.{digits}f}")


def _format_interval(value: float, low: float, high: float, metric: str) -> str:
    return " ".join(
        (
            _format_points(value, metric),
            f"[{_format_points(low, metric)}, {_format_points(high, metric)}]",
        )
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
        cells = [ABSENT if own[x].alone is None else _format_points(own[x].value, metric) for x in languages]
        # The score of NLL is its negative, so that more is better.
        score = c.alone if c.alone is None or is_rate(metric) else -c.alone
        alone = format_metric(metric, score)
        lines.append(
            [
                c.teacher,
                _format_interval(c.value, c.low, c.high, metric),
                *cells,
                alone,
                _format_points(c.without, metric),
            ]
        )
    retrained = report.retrained
    if retrained:
        heads.append("dropped, retrained")
        for line in lines:
            found = retrained.get(line[0])
            line.append(
                ABSENT if found is None else _format_interval(found.value, found.low, found.high, metric)
            )
    name, verb = format_metric_name(metric), "adds" if is_rate(metric) else "takes away"
    remarks = (
        f"{what} of {name} that a teacher {verb}, on average over all orders in which teachers may join (Shapley); "
        "they add up from a guess to all together",
        f"alone: the teacher's own {name} in its languages; dropped: how all others change without it",
        "an estimate from stored answers: nothing was trained again",
        *(
            (
                "dropped, retrained: how students change that were trained without it (raykd compare), with the "
                "interval over their seeds",
            )
            if retrained
            else ()
        ),
    )
    return Section(
        "contributions", f"{what.capitalize()} per teacher and language", heads, lines, remarks=remarks
    )


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
            *(_format_points(own[t].value, report.metric) for t in report.teachers),
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
            ABSENT if p.kappa is None else f"{p.kappa:.2f}",
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


def _lay_out_weights(report: EnsembleReport) -> Section | None:
    weights = report.weights
    if not weights:
        return None
    shares = [share for share, _ in next(iter(weights.values()))]
    heads = ["teacher", *(f"{share:.0%} of steps" for share in shares)]
    lines = [[name, *(f"{100 * weight:.0f}" for _, weight in points)] for name, points in weights.items()]
    return Section("over_time", "Mean weight of each teacher over training, %", heads, lines)


def _lay_out_sizes(report: EnsembleReport) -> Section:
    heads = ["system", "parameters", "MB", "texts/s", "student's texts/s", "x smaller", "x faster"]
    lines = [
        [
            s.system,
            format_count(s.parameters),
            format_megabytes(s.megabytes),
            *(ABSENT if not v else format_speed(1e3 / v) for v in (s.texts_per_s, s.student_texts_per_s)),
            ABSENT if s.smaller is None else format_ratio(s.smaller),
            ABSENT if s.faster is None else format_ratio(s.faster),
        ]
        for s in report.sizes
    ]
    remarks = (
        "x smaller, x faster: the student beside this teacher; both were timed in one process, on the same texts and "
        "threads, tokenisation included",
    )
    return Section("sizes", "Size and speed", heads, lines, remarks=remarks)


def _lay_out_prices(report: EnsembleReport) -> Section:
    """Return what a point of each teacher costs."""
    points = {c.teacher: c for c in report.contributions if c.group == "mean" and is_rate(report.metric)}
    heads = ["teacher", "texts asked", "seconds", "points", "texts a point", "seconds a point"]
    lines = [
        _describe_price(s, points[s.system], report.metric)
        for s in report.sizes
        if s.system in points and s.texts is not None
    ]
    remarks = ("a dash a point: the interval of its points holds 0, or its time is not known",)
    return Section("prices", "What a point costs", heads, lines, remarks=remarks)


def _describe_price(s: SystemSize, c: Contribution, metric: str) -> list[str]:
    texts, points = s.texts or 0, 100 * c.value
    sure = c.low > 0
    return [
        s.system,
        f"{texts:,}",
        ABSENT if s.seconds is None else f"{s.seconds:,.1f}",
        _format_points(c.value, metric),
        f"{texts / points:,.0f}" if sure else ABSENT,
        f"{s.seconds / points:,.2f}" if sure and s.seconds is not None else ABSENT,
    ]


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
