"""Lay out what teachers weigh, how large and fast they are, and what a point of each costs."""

from __future__ import annotations

from raykd.ensemble.contributions import Contribution
from raykd.report.ensembles.report import EnsembleReport, SystemSize
from raykd.report.ensembles.sections import Section, format_points
from raykd.report.formats import ABSENT, format_speed
from raykd.report.sizes import RATIO_HEADS, RATIO_REMARK, SIZE_HEADS, format_ratios, format_size
from raykd.tasks.scores.metrics import is_rate


def lay_out_weights(report: EnsembleReport) -> Section | None:
    """Return the mean weights over training; None where no curve is known."""
    weights = report.weights
    if not weights:
        return None
    shares = [share for share, _ in next(iter(weights.values()))]
    heads = ["teacher", *(f"{share:.0%} of steps" for share in shares)]
    lines = [[name, *(f"{100 * weight:.0f}" for _, weight in points)] for name, points in weights.items()]
    return Section("over_time", "Mean weight of each teacher over training, %", heads, lines)


def lay_out_sizes(report: EnsembleReport) -> Section:
    """Return size and speed of each teacher, of all together and of the student."""
    together = next((s.size for s in report.sizes if s.role == "ensemble" and s.size.is_known), None)
    heads = ["system", *SIZE_HEADS, "student's texts/s", *(RATIO_HEADS if together else [])]
    lines = [
        [
            s.system,
            *format_size(s.size),
            ABSENT if not s.student_texts_per_s else format_speed(1e3 / s.student_texts_per_s),
            *(format_ratios(together, s.size) if together else []),
        ]
        for s in report.sizes
    ]
    remarks = (
        *([RATIO_REMARK] if together else []),
        "student's texts/s: in the teacher's process, on the same texts and threads, tokenisation included",
    )
    return Section("sizes", "Size and speed", heads, lines, remarks=remarks)


def lay_out_prices(report: EnsembleReport) -> Section:
    """Return what a point of each teacher costs."""
    points = {c.teacher: c for c in report.contributions if c.group == "mean" and is_rate(report.metric)}
    heads = ["teacher", "texts asked", "seconds", "points", "texts a point", "seconds a point"]
    priced = any(s.price is not None for s in report.sizes)
    heads += ["price", "price a point"] if priced else []
    lines = [
        _describe_price(s, points[s.system], report.metric, priced=priced)
        for s in report.sizes
        if s.system in points and s.texts is not None
    ]
    remarks: tuple[str, ...] = (
        "a dash per point: the interval of its points holds 0, or its time or price is not known",
    )
    if priced:
        remarks += ("price: of answering the texts asked once, by teachers[].price of the run file",)
    return Section("prices", "What a point costs", heads, lines, remarks=remarks)


def _describe_price(s: SystemSize, c: Contribution, metric: str, *, priced: bool) -> list[str]:
    """Return a teacher's line: texts, seconds and money in all and per point."""
    texts, points = s.texts or 0, 100 * c.value
    sure = c.low > 0
    money = [
        ABSENT if s.price is None else f"{s.price:,.4g}",
        ABSENT if s.price is None or not sure else f"{s.price / points:,.4g}",
    ]
    return [
        s.system,
        f"{texts:,}",
        ABSENT if s.seconds is None else f"{s.seconds:,.1f}",
        format_points(c.value, metric),
        f"{texts / points:,.0f}" if sure else ABSENT,
        f"{s.seconds / points:,.2f}" if sure and s.seconds is not None else ABSENT,
        *(money if priced else []),
    ]
