"""Draw a comparison: every seed of every arm, the differences, quality against cost, and curves over labelled rows.

Decision record: every seed is drawn, not only means and intervals. With five seeds a reader can see the one that makes
the difference. Arms keep their order in all plots, so that the eye finds them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykd.report.comparisons.costs import summarize_costs
from raykd.report.comparisons.differences import PairedDifference, find_scale
from raykd.report.comparisons.results import ArmResult, ComparisonReport
from raykd.report.drawing import (
    COLOURS,
    GREY,
    INK,
    add_halo,
    draw_legend,
    escape_math,
    make_panels,
    render_svg,
)
from raykd.report.formats import choose_unit, format_count, format_metric_name
from raykd.report.html import Pictures, add_captions
from raykd.tasks.scores.metrics import find_metric_title, is_higher_better

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEED, MEAN = COLOURS[1], INK
"""Colours of one seed and of a mean with its interval."""
BELOW = 0.22
"""How far below its mean a seed is drawn, in rows, so that the interval does not hide it."""
WIDE = 3.0
"""Costs that differ by this factor have a logarithmic axis."""
LONGEST_NAME = 30
"""Characters of an arm's name on an axis."""
CAPTIONS = {
    "arms": "Left: each arm's score, a dot for each seed. Right: the difference to the arm's partner, seed by seed. "
    "The black mark is the mean with Student's t 95 % interval.",
    "cost": "Quality against what a student costs, means over the seeds with 95 % intervals. The line joins the arms "
    "that no other arm beats in both; these and the baseline are named.",
    "budget": "Quality over the number of labelled rows per language, means over the seeds with 95 % intervals.",
}


def draw_comparison_figures(report: ComparisonReport) -> Pictures:
    """Draw all plots that there is data for."""
    drawn = {"arms": draw_arms(report), "cost": draw_costs(report), "budget": draw_budget(report)}
    return add_captions(drawn, CAPTIONS)


def draw_arms(report: ComparisonReport) -> str | None:
    """Draw the scores of all arms, and beside them the paired differences."""
    arms = [arm for arm in report.arms if report.average(arm) is not None]
    if not arms:
        return None
    scale = find_scale(report.metric)
    figure, (left, right) = make_panels(2, width=10.5, height=max(2.6, 1.1 + 0.34 * len(arms)), sharey=True)
    found = {d.arm: d for d in report.main_differences}
    for at, arm in enumerate(arms):
        score = report.average(arm)
        values = list(arm.read_scores(report.main_name).values())
        if score is not None:
            _draw_row(
                left, at, [scale * v for v in values], scale * score.mean, _scaled(score.interval, scale)
            )
        if arm.name in found:
            _draw_difference(right, at, report, arm, found[arm.name])
    left.set_yticks(range(len(arms)), [_shorten(arm.name) for arm in arms])
    left.invert_yaxis()
    left.set_xlabel(f"{report.split} {find_metric_title(report.metric)}")
    unit = choose_unit(report.metric)
    right.set_xlabel(f"difference {unit}".rstrip())
    right.axvline(0, color=INK, lw=0.8, ls=":")
    if scale == 100:
        left.set_xlim(*_within_rates(left.get_xlim()))
    for axes in (left, right):
        axes.margins(x=0.08)
        axes.grid(visible=False, axis="y")
    return render_svg(figure)


def _draw_difference(
    axes: Axes, at: int, report: ComparisonReport, arm: ArmResult, d: PairedDifference
) -> None:
    scale = d.scale
    apart = [scale * (one - two) for _, one, two in report.list_pairs(arm, report.main_name)]
    _draw_row(axes, at, apart, scale * d.mean, _scaled(d.interval, scale))


def _draw_row(
    axes: Axes, at: int, values: list[float], mean: float, interval: tuple[float, float] | None
) -> None:
    axes.scatter(values, [at + BELOW] * len(values), color=SEED, s=16, alpha=0.7, zorder=2, linewidths=0)
    if interval is not None:
        axes.plot(interval, [at, at], color=MEAN, lw=1.6, zorder=3)
    axes.scatter([mean], [at], marker="D", s=24, c=MEAN, zorder=4)


def draw_costs(report: ComparisonReport) -> str | None:
    """Draw quality against parameters, where they differ, and against the processor seconds of the training."""
    known_costs = summarize_costs(report)
    costs = [(arm, known_costs.get(arm.name)) for arm in report.arms if report.average(arm) is not None]
    known = [(arm, cost) for arm, cost in costs if cost is not None]
    sizes = {cost.parameters for _, cost in known}
    panels = []
    if len(sizes) > 1:
        panels.append(("parameters", [(arm, float(cost.parameters)) for arm, cost in known]))
    if len(known) > 1 and all(cost.cpu_s > 0 for _, cost in known):
        panels.append(("CPU seconds of a training", [(arm, cost.cpu_s) for arm, cost in known]))
    if not panels:
        return None
    figure, axes_list = make_panels(len(panels), width=5.25 * max(2, len(panels)), height=3.6, sharey=True)
    for axes, (label, points) in zip(axes_list, panels, strict=True):
        _draw_front(axes, report, points)
        _scale_costs(axes, label, [cost for _, cost in points])
        axes.margins(x=0.25, y=0.15)
    axes_list[0].set_ylabel(f"{report.split} {find_metric_title(report.metric)}")
    if find_scale(report.metric) == 100:
        axes_list[0].set_ylim(*_within_rates(axes_list[0].get_ylim()))
    return render_svg(figure)


def _scale_costs(axes: Axes, label: str, costs: list[float]) -> None:
    """Scale the axis of a cost: logarithmic where arms differ much, with plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    is_wide = max(costs) >= WIDE * min(costs)
    if is_wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        lambda value, at: format_count(round(value)) if value >= 1000 else f"{value:g}"
    )
    axes.set_xlabel(f"{label} (logarithmic)" if is_wide else label)


def _draw_front(axes: Axes, report: ComparisonReport, points: list[tuple[ArmResult, float]]) -> None:
    scale, sign = find_scale(report.metric), 1 if is_higher_better(report.metric) else -1
    placed = []
    for arm, cost in points:
        score = report.average(arm)
        if score is not None:
            placed.append((cost, scale * score.mean, _scaled(score.interval, scale), arm.name))
    placed.sort(key=lambda p: (p[0], -sign * p[1]))
    front, best = [], float("-inf")
    for cost, mean, _, _ in placed:
        if sign * mean > best:
            best = sign * mean
            front.append((cost, mean))
    axes.step(*zip(*front, strict=True), where="post", color=GREY, lw=1.0, zorder=1)
    for cost, mean, interval, name in placed:
        if interval is not None:
            axes.plot([cost, cost], interval, color=GREY, lw=1.0, zorder=2)
        on_front = (cost, mean) in front
        axes.scatter([cost], [mean], s=26, color=SEED if on_front else GREY, zorder=3)
        if not on_front and name != report.baseline:
            continue  # arms of one cost lie upon one another, and the table names them
        offset = (5, 3) if on_front else (5, -11)
        text = axes.annotate(
            escape_math(_shorten(name)),
            (cost, mean),
            offset,
            textcoords="offset points",
            fontsize=8,
            color=INK,
        )
        add_halo(text)


def draw_budget(report: ComparisonReport) -> str | None:
    """Draw quality over the number of labelled rows, a curve for each way to learn; None without such arms."""
    counts = {arm.labelled for arm in report.arms if arm.labelled is not None}
    if len(counts) < 2:
        return None
    scale = find_scale(report.metric)
    figure, (axes,) = make_panels(1, width=6.4, height=3.8)
    curves: dict[str, list[ArmResult]] = {}
    for arm in report.arms:
        if arm.labelled is not None:
            kind = arm.name.removeprefix(f"labelled_{arm.labelled}").strip("_").replace("_", " ")
            curves.setdefault(kind or "teachers of the run", []).append(arm)
    for at, (label, arms) in enumerate(curves.items()):
        points = []
        for arm in sorted(arms, key=lambda arm: arm.labelled or 0):
            score = report.average(arm)
            if score is not None and arm.labelled is not None:
                points.append((arm.labelled, scale * score.mean))
                if score.interval is not None:
                    ends = _scaled(score.interval, scale)
                    axes.plot([arm.labelled] * 2, ends or (), color=COLOURS[at], lw=1.4, alpha=0.7)
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, lw=1.3, color=COLOURS[at], label=label)
    axes.set_xscale("log")
    axes.set_xticks(
        sorted(c for c in counts if c is not None), [f"{c:,}" for c in sorted(c for c in counts if c)]
    )
    axes.minorticks_off()
    axes.set_xlabel("labelled rows per language (logarithmic)")
    axes.set_ylabel(
        f"{report.split} {format_metric_name(report.metric)} {choose_axis_unit(report.metric)}".rstrip()
    )
    draw_legend(axes)
    return render_svg(figure)


def choose_axis_unit(metric: str) -> str:
    """Return the unit of a metric on an axis."""
    return "%" if find_scale(metric) == 100 else ""


def _scaled(interval: tuple[float, float] | None, scale: float) -> tuple[float, float] | None:
    return None if interval is None else (scale * interval[0], scale * interval[1])


def _within_rates(ends: tuple[float, float]) -> tuple[float, float]:
    """Return the ends of an axis of per cent: a wide interval may reach where no rate is."""
    return max(ends[0], -2.0), min(ends[1], 102.0)


def _shorten(name: str) -> str:
    return escape_math(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…")
