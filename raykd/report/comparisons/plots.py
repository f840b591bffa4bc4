"""Draw a comparison: every seed of every arm, the differences, quality against cost, and curves over labelled rows.

Decision record: every seed is drawn, not only means and intervals. With five seeds a reader can see the one that makes
the difference. Arms keep their order in all charts, so that the eye finds them again.
"""

from __future__ import annotations

from collections.abc import Sequence

from raykd.report.charts import (
    COLOURS,
    GREY,
    INK,
    Charts,
    Spec,
    add_captions,
    choose_colours,
    draw_zero_rule,
    encode,
    give_all,
    join_panels,
    list_tips,
    name_rows,
    place_legend,
    round_number,
)
from raykd.report.classes import draw_confusions
from raykd.report.comparisons.costs import summarize_costs
from raykd.report.comparisons.differences import PairedDifference, find_scale
from raykd.report.comparisons.point_names import choose_corners, draw_names
from raykd.report.comparisons.results import ArmResult, ArmScore, ComparisonReport
from raykd.report.comparisons.tables import format_score
from raykd.report.formats import ABSENT, choose_unit, format_count
from raykd.tasks.scores.metrics import find_metric_title, is_higher_better

SEED = COLOURS[1]
"""Colour of one seed."""
BELOW = 6
"""How far below its mean a seed is drawn, in pixels, so that the interval does not hide it."""
WIDE = 3.0
"""Costs that differ by this factor have a logarithmic axis."""
FRONT, MARGIN = (410, 260), (40, 16)
"""Width and height in pixels of a chart of quality against cost, and what stays free at its sides."""
FEW = 5
"""Arms of which each is named in a chart."""
CAPTIONS = {
    "arms": "Left: each arm's score, a dot for each seed. Right: the difference to the arm's partner, seed by seed. "
    "The dark mark is the mean with Student's t 95 % interval.",
    "cost": "Quality against what a student costs, means over the seeds with 95 % intervals. The line joins the arms "
    "that no other arm beats in both; these and the baseline are named.",
    "confusions": "Arm {}, the one with the best mean, over all its seeds: which class of gold (down) is taken for "
    "which (across). Colours are shares of each row.",
    "budget": "Quality over the number of labelled rows per language, means over the seeds with 95 % intervals.",
}


def draw_comparison_figures(report: ComparisonReport) -> Charts:
    """Draw all charts that there is data for."""
    best = find_best_arm(report)
    drawn = {
        "arms": draw_arms(report),
        "cost": draw_costs(report),
        "budget": draw_budget(report),
        "confusions": None if best is None else draw_confusions(best.sum_classes()),
    }
    captions = {**CAPTIONS, "confusions": CAPTIONS["confusions"].format(best.name if best else "")}
    if any(references for *_, references in _list_cost_panels(report)):
        captions["cost"] += " Diamonds are the teachers."
    return add_captions(drawn, captions)


def find_best_arm(report: ComparisonReport) -> ArmResult | None:
    """Return the arm with the best mean; None where nothing was measured."""
    sign = 1 if is_higher_better(report.metric) else -1
    known = [(arm, score) for arm in report.arms if (score := report.average(arm)) is not None]
    return max(known, key=lambda one: sign * one[1].mean)[0] if known else None


def draw_arms(report: ComparisonReport) -> Spec | None:
    """Draw the scores of all arms, and beside them the paired differences."""
    arms = [arm for arm in report.arms if report.average(arm) is not None]
    if not arms:
        return None
    names, scale = [arm.name for arm in arms], find_scale(report.metric)
    means, seeds = [], []
    for arm in arms:
        score = report.average(arm)
        if score is not None:
            means.append(_describe_mean(report, arm.name, score))
        seeds += [
            {"arm": arm.name, "seed": seed, "value": round_number(scale * value),
             "shown": format_score(report.metric, value)}
            for seed, value in arm.read_scores(report.main_name).items()
        ]  # fmt: skip
    title = f"{report.split} {find_metric_title(report.metric)}"
    left = _draw_rows(names, means, seeds, title, "mean")
    found = [d for d in report.main_differences if d.arm in names]
    if not found:
        return left
    apart = [
        {"arm": d.arm, "seed": seed, "value": round_number(scale * (one - two)), "shown": d.format(one - two)}
        for d in found
        for seed, one, two in report.list_pairs(report.find_arm(d.arm), report.main_name)
    ]
    means = [_describe_difference(d) for d in found]
    title = f"difference {choose_unit(report.metric)}".rstrip()
    right = _draw_rows(names, means, apart, title, "mean difference", labels=False)
    right["layer"].append(draw_zero_rule())
    return join_panels([left, right])


def _describe_mean(report: ComparisonReport, name: str, score: ArmScore) -> Spec:
    scale = find_scale(report.metric)
    low, high = score.interval or (score.mean, score.mean)
    return {
        "arm": name, "value": round_number(scale * score.mean), "low": round_number(_bound(scale * low, scale)),
        "high": round_number(_bound(scale * high, scale)), "shown": format_score(report.metric, score.mean),
        "interval": ABSENT if score.interval is None else
        f"{format_score(report.metric, low)} to {format_score(report.metric, high)}",
    }  # fmt: skip


def _describe_difference(d: PairedDifference) -> Spec:
    low, high = d.interval or (d.mean, d.mean)
    return {
        "arm": d.arm, "value": round_number(d.scale * d.mean), "low": round_number(d.scale * low),
        "high": round_number(d.scale * high), "shown": d.format(d.mean),
        "interval": d.format_interval(d.interval) or ABSENT,
    }  # fmt: skip


def _draw_rows(
    names: Sequence[str], means: list[Spec], seeds: list[Spec], title: str, what: str, *, labels: bool = True
) -> Spec:
    """Draw a line for each arm: its mean with the interval, and each seed a little below."""
    x = encode("value", title, scale={"zero": False})
    tips = list_tips(arm="arm", shown=what, interval="95 % interval")
    return {
        "width": 360,
        "height": {"step": 30},
        "layer": give_all([
            {
                "data": {"values": seeds},
                "mark": {"type": "point", "filled": True, "size": 26, "color": SEED, "opacity": 0.75, "yOffset": BELOW},
                "encoding": {"tooltip": list_tips(arm="arm", seed="seed", shown=title)},
            },
            {
                "data": {"values": means},
                "mark": {"type": "rule", "strokeWidth": 1.6},
                "encoding": {"x": encode("low", title), "x2": {"field": "high"}},
            },
            {
                "data": {"values": means},
                "mark": {"type": "point", "filled": True, "shape": "diamond", "size": 75, "color": INK, "opacity": 1},
                "encoding": {"tooltip": tips},
            },
        ], y=name_rows("arm", names, labels=labels), x=x),
    }  # fmt: skip


def draw_costs(report: ComparisonReport) -> Spec | None:
    """Draw quality against parameters, where they differ, and against the processor seconds of the training."""
    return join_panels([_draw_front(report, *panel) for panel in _list_cost_panels(report)])


def _list_cost_panels(
    report: ComparisonReport,
) -> list[tuple[str, list[tuple[ArmResult, float]], list[Spec]]]:
    """Return title, cost of each arm, and the teachers' points, of each chart of quality against cost."""
    known_costs = summarize_costs(report)
    costs = [(arm, known_costs.get(arm.name)) for arm in report.arms if report.average(arm) is not None]
    known = [(arm, cost) for arm, cost in costs if cost is not None]
    panels: list[tuple[str, list[tuple[ArmResult, float]], list[Spec]]] = []
    if len({cost.size.parameters for _, cost in known}) > 1:
        sizes = [(arm, float(cost.size.parameters or 0)) for arm, cost in known]
        panels.append(("parameters", sizes, _list_references(report)))
    if len(known) > 1 and all(cost.cpu_s > 0 for _, cost in known):
        panels.append(("CPU seconds of a training", [(arm, cost.cpu_s) for arm, cost in known], []))
    return panels


def _list_references(report: ComparisonReport) -> list[Spec]:
    """Return the teachers and their ensemble as points over their parameters."""
    found = [(one, one.scores.get(report.main_name)) for one in report.references]
    scale = find_scale(report.metric)
    return [
        {"arm": one.name, "value": round_number(scale * value), "shown": format_score(report.metric, value),
         "interval": ABSENT, "cost": float(one.parameters), "paid": format_count(one.parameters)}
        for one, value in found
        if value is not None
    ]  # fmt: skip


def _draw_front(
    report: ComparisonReport, label: str, points: list[tuple[ArmResult, float]], references: list[Spec]
) -> Spec:
    """Draw arms over a cost, the line of those that no other arm beats in both, and the teachers."""
    sign = 1 if is_higher_better(report.metric) else -1
    rows = []
    for arm, cost in points:
        score = report.average(arm)
        if score is not None:
            shown = format_count(round(cost)) if cost >= 1000 else f"{cost:.3g}"
            rows.append(
                {**_describe_mean(report, arm.name, score), "cost": round_number(cost), "paid": shown}
            )
    rows.sort(key=lambda row: (row["cost"], -sign * row["value"]))
    best = float("-inf")
    for row in rows:
        row["front"] = sign * row["value"] > best
        best = max(best, sign * row["value"])
        # many arms of one cost lie upon one another, and the table names them
        is_named = row["front"] or row["arm"] == report.baseline or len(rows) <= FEW
        row["named"] = row["arm"] if is_named else ""
    costs = [row["cost"] for row in (*rows, *references)]
    is_wide = max(costs) >= WIDE * min(costs)
    _place_names(rows, references, is_log=is_wide)
    scale = {"type": "log" if is_wide else "linear", "zero": False, "nice": False, "padding": MARGIN[0]}
    axis = {"format": "~s", "tickCount": 5, "grid": False}
    x = encode("cost", f"{label} (logarithmic)" if is_wide else label, scale=scale, axis=axis)
    title = f"{report.split} {find_metric_title(report.metric)}"
    y = encode("value", title, scale={"zero": False, "padding": MARGIN[1]})
    colour = {"condition": {"test": "datum.front", "value": SEED}, "value": GREY}
    return {
        "width": FRONT[0],
        "height": FRONT[1],
        "data": {"values": rows},
        "encoding": {"x": x, "y": y},
        "layer": [
            {"transform": [{"filter": "datum.front"}],
             "mark": {"type": "line", "interpolate": "step-after", "color": GREY, "strokeWidth": 1}},
            {"mark": {"type": "rule", "color": GREY}, "encoding": {"y": encode("low", title), "y2": {"field": "high"}}},
            {"mark": {"type": "point", "filled": True, "size": 55, "opacity": 1}, "encoding": {
                "color": colour,
                "tooltip": list_tips(arm="arm", paid=label, shown=title, interval="95 % interval")}},
            *draw_names("named"),
            *_draw_references(references, label, title),
        ],
    }  # fmt: skip


def _place_names(rows: list[Spec], references: list[Spec], *, is_log: bool) -> None:
    """Write into each point where its name stands."""
    points = [(row["cost"], row["value"], row.get("named", row["arm"])) for row in (*rows, *references)]
    drawn = [
        value for row in (*rows, *references) for value in (row["value"], row.get("low"), row.get("high"))
    ]
    known = [value for value in drawn if value is not None]
    size = (FRONT[0] - 2.0 * MARGIN[0], FRONT[1] - 2.0 * MARGIN[1])
    corners = choose_corners(points, (min(known), max(known)), size, is_log=is_log)
    for row, corner in zip((*rows, *references), corners, strict=True):
        row["corner"] = corner


def _draw_references(references: list[Spec], label: str, title: str) -> list[Spec]:
    """Return the layers of the teachers: diamonds with their names beside them."""
    if not references:
        return []
    data = {"values": references}
    tips = list_tips(arm="system", paid=label, shown=title)
    return [
        {"data": data, "mark": {"type": "point", "shape": "diamond", "filled": True, "size": 75, "color": INK,
         "opacity": 1}, "encoding": {"tooltip": tips}},
        *({"data": data, **layer} for layer in draw_names("arm")),
    ]  # fmt: skip


def draw_budget(report: ComparisonReport) -> Spec | None:
    """Draw quality over the number of labelled rows, a curve for each way to learn; None without such arms."""
    counts = sorted({arm.labelled for arm in report.arms if arm.labelled is not None})
    if len(counts) < 2:
        return None
    rows = []
    for arm in report.arms:
        score = report.average(arm)
        if arm.labelled is not None and score is not None:
            kind = arm.name.removeprefix(f"labelled_{arm.labelled}").strip("_").replace("_", " ")
            group = kind or "teachers of the run"
            rows.append({**_describe_mean(report, arm.name, score), "group": group, "labelled": arm.labelled})
    title = f"{report.split} {find_metric_title(report.metric)}"
    groups = list(dict.fromkeys(row["group"] for row in rows))
    scale = {"type": "log", "nice": False, "padding": 20}
    axis = {"values": counts, "format": ",d", "grid": False}
    x = encode("labelled", "labelled rows per language (logarithmic)", scale=scale, axis=axis)
    return {
        "width": 430,
        "height": 270,
        "data": {"values": rows},
        "encoding": {
            "x": x,
            "y": encode("value", title, scale={"zero": False}),
            "color": encode("group", None, "nominal", scale=choose_colours(groups, COLOURS), legend=place_legend()),
        },
        "layer": [
            {"mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.7},
             "encoding": {"y": encode("low", title), "y2": {"field": "high"}}},
            {"mark": {"type": "line", "strokeWidth": 1.6}},
            {"mark": {"type": "point", "filled": True, "size": 55, "opacity": 1}, "encoding": {"tooltip": list_tips(
                arm="arm", labelled="labelled rows per language", shown=title, interval="95 % interval")}},
        ],
    }  # fmt: skip


def _bound(value: float, scale: float) -> float:
    """Return an end of an interval as it is drawn: a wide one may reach where no rate is."""
    return min(max(value, 0.0), 100.0) if scale == 100 else value
