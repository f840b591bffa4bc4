"""Draw the charts of a sweep over trials, evaluations and rungs, as Vega-Lite or None where nothing is to draw.

Decision record: a status is a marker and a colour, the same in all charts, because "stopped early" and "ran to the end"
must never be read as one cloud. The best five trials keep their colours through all charts. Trials without a score are
marked on the bad edge: that a setting breaks is a result. The axis of scores leaves out the worst scores if they lie so
far away that nothing else could be told apart, and the axis says how many. Pointing at a trial shows its whole sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raykd.report.charts import (
    GREY,
    INK,
    Spec,
    choose_colours,
    draw_lines,
    draw_zero_rule,
    encode,
    give_all,
    join_panels,
    list_tips,
    name_rows,
    pick_nearest,
    place_legend,
    round_number,
)
from raykd.report.formats import ABSENT, format_metric, use_minus_sign
from raykd.report.key_names import shorten_names
from raykd.report.sweeps.importance import LOW_R2, Importance
from raykd.report.sweeps.rungs import (
    Survival,
    compute_rank_correlations,
    compute_survival,
    count_trials_by_evaluation,
)
from raykd.report.sweeps.trial_table import describe_sample, format_score_title, strip_metric_path
from raykd.report.sweeps.trials import BROKEN, Status, SweepReport, TrialRow
from raykd.tasks.scores.metrics import is_rate

MOST_LEADERS = 5
"""Trials that are drawn in colour."""
MOST_NUMBERED = 20
"""Bars that carry their number."""
MOST_KEYS = 20
"""Keys in the plot of their importance."""
MARKS: Mapping[Status, tuple[str, str]] = {
    "finished": ("circle", "#0072B2"),
    "stopped": ("triangle-down", "#E69F00"),
    "failed": ("cross", "#D55E00"),
    "diverged": ("diamond", "#CC79A7"),
    "cut off": ("triangle-right", "#009E73"),
    "waiting": ("stroke", GREY),
}
"""Marker and colour of each status."""
TRIAL_TIPS = list_tips(trial="trial", status="status", shown="score", sample="values")


def choose_scale(report: SweepReport) -> float:
    """Return 100 for rates, which are drawn in per cent, else 1."""
    return 100.0 if is_rate(strip_metric_path(report.metric)) else 1.0


def list_leaders(report: SweepReport) -> list[TrialRow]:
    """Return the best five trials, or as many as there are."""
    return [t for t in report.rank_trials() if t.is_eligible][:MOST_LEADERS]


def draw_objective_by_trial(report: SweepReport) -> Spec | None:
    """Draw the best score of each trial in the order they were started, and the best so far."""
    scores = [choose_scale(report) * t.score for t in report.trials if t.score is not None]
    if not scores:
        return None
    axis = choose_score_axis(report, scores)
    so_far = [{"x": x, "y": round_number(y)} for x, y in _running_best(report)]
    if so_far:
        so_far.append({"x": len(report.trials), "y": so_far[-1]["y"]})
    points = [(float(at), t) for at, t in enumerate(report.trials, 1)]
    ends = {"domain": [0.4, len(report.trials) + 0.6], "nice": False}
    x = encode("x", "trial, in the order of starting", scale=ends,
               axis={"grid": False, "tickMinStep": 1, "format": "d"})  # fmt: skip
    best = {"type": "line", "interpolate": "step-after", "color": INK, "strokeWidth": 1, "clip": True}
    return {
        "width": 560,
        "height": 230,
        "encoding": {"x": x, "y": encode("y", f"best validation {axis['title']}", scale=axis["scale"])},
        "layer": [
            {"data": {"values": so_far}, "mark": best},
            draw_trials(place_trials(report, points, axis)),
        ],
    }


def draw_learning_curves(report: SweepReport) -> Spec | None:
    """Draw the score over steps: the best five trials in colour, the others grey."""
    best = list_leaders(report)
    if not best:
        return None
    scale = choose_scale(report)
    curves = {
        t.name: [(e.step, scale * e.score) for e in t.evaluations if np.isfinite(e.score)]
        for t in report.trials
    }
    axis = choose_score_axis(report, [y for points in curves.values() for _, y in points])
    others = [t.name for t in report.trials if t not in best and curves[t.name]]
    grey = [{"trial": name, "x": x, "y": round_number(y)} for name in others for x, y in curves[name]]
    x = "optimizer step"
    y = f"validation {axis['title']}"
    drawn = draw_lines({t.name: curves[t.name] for t in best}, at=0, x=x, y=y, size=(560, 240))
    drawn["encoding"]["y"]["scale"] = axis["scale"]
    behind: Spec = {
        "data": {"values": grey},
        "mark": {"type": "line", "strokeWidth": 0.8, "opacity": 0.6, "clip": True, "point": {"size": 8}},
        "encoding": {"color": {"value": GREY}, "detail": encode("trial", None, "nominal")},
    }
    return {**drawn, "layer": [behind, *drawn["layer"]]} if grey else drawn


def draw_rung_survival(report: SweepReport) -> Spec | None:
    """Draw how many trials reached each evaluation, and beside it the scores at each rung, survivors marked."""
    counts, rungs = count_trials_by_evaluation(report), compute_survival(report)
    if not report.rungs or not counts:
        return None
    bars = [{"at": e, "trials": n, "what": "rung" if e in report.rungs else "evaluation"} for e, n in counts]
    left: Spec = {
        "width": 330,
        "height": 230,
        "data": {"values": bars},
        "encoding": {
            "x": encode("at", "evaluation", "ordinal", axis={"labelAngle": 0, "labelOverlap": True}),
            "y": encode("trials", "trials that reached it"),
        },
        "layer": [
            {"mark": "bar", "encoding": {
                "color": encode("what", None, "nominal", legend=place_legend(),
                                scale=choose_colours(("evaluation", "rung"), ("#56B4E9", "#E69F00"))),
                "tooltip": list_tips(at="evaluation", trials="trials")}},
            *([{"mark": {"type": "text", "dy": -7}, "encoding": {"text": {"field": "trials"}}}]
              if len(counts) <= MOST_NUMBERED else []),
        ],
    }  # fmt: skip
    return join_panels([left, _draw_rung_scores(report, rungs)])


def draw_importance_bars(found: Importance | None) -> Spec | None:
    """Draw each key's share of the explained variance, with its 95 % interval; grey if little is explained."""
    if found is None or not found.keys:
        return None
    rows: list[Spec] = [
        {
            "key": k.label, "share": round_number(100 * k.share), "low": round_number(100 * k.low),
            "high": round_number(100 * k.high), "shown": use_minus_sign(f"{round(100 * k.share):d}"),
            "interval": use_minus_sign(f"{100 * k.low:.0f} to {100 * k.high:.0f}"),
        }
        for k in found.keys[:MOST_KEYS]
    ]  # fmt: skip
    ends = [min(-10.0, *(row["low"] - 3 for row in rows)), max(100.0, *(row["high"] for row in rows))]
    colour = "#56B4E9" if found.explained >= LOW_R2 else GREY
    return {
        "width": 400,
        "height": {"step": 26},
        "data": {"values": rows},
        "layer": [*give_all([
            {"mark": {"type": "bar", "color": colour, "height": {"band": 0.7}},
             "encoding": {"x": encode("share", "share of the explained variance %",
                                      scale={"domain": ends, "nice": False})}},
            {"mark": {"type": "rule", "strokeWidth": 1.3}, "encoding": {"x": encode("low"), "x2": {"field": "high"}}},
            {"mark": {"type": "text", "align": "left", "dx": 8},
             "encoding": {"x": {"value": "width"}, "text": {"field": "shown"}}},
        ], y=name_rows("key", [row["key"] for row in rows]),
            tooltip=list_tips(key="key", shown="share %", interval="95 % interval"),
        ), draw_zero_rule(strokeDash=[1, 0])],
    }  # fmt: skip


def place_trials(report: SweepReport, points: Sequence[tuple[float, TrialRow]], axis: Spec) -> list[Spec]:
    """Return a row for each trial that has a place at (x, best score).

    Those that lie outside the axis, and broken ones without a score, are placed on its edge.

    Args:
        report: The sweep.
        points: Trials and their x.
        axis: Of the scores (`choose_score_axis`).
    """
    names, scale = shorten_names(report.shown_keys), choose_scale(report)
    low, high = axis["scale"]["domain"]
    rows = []
    for x, t in points:
        if t.score is None and t.status not in BROKEN:
            continue
        worst = low if report.higher_is_better else high
        y = worst if t.score is None else min(max(scale * t.score, low), high)
        rows.append({
            "x": round_number(x), "y": round_number(y), "trial": t.name, "status": t.status,
            "shown": format_metric(strip_metric_path(report.metric), t.score, compared=True),
            "sample": describe_sample(t.sample, names) or ABSENT,
        })  # fmt: skip
    return rows


def draw_trials(rows: Sequence[Spec], at: int = 0) -> Spec:
    """Return the layer that draws trials, a marker and a colour for each status. Pointing shows the nearest one.

    Args:
        rows: The trials (`place_trials`).
        at: Number of the panel in its chart.
    """
    statuses = [status for status in MARKS if any(row["status"] == status for row in rows)]
    legend = place_legend(6)
    return {
        "data": {"values": list(rows)},
        "params": [pick_nearest(f"trial{at}")],
        "mark": {"type": "point", "filled": True, "size": 50, "opacity": 0.9},
        "encoding": {
            "color": encode("status", None, "nominal", legend=legend,
                            scale=choose_colours(statuses, [MARKS[s][1] for s in statuses])),
            "shape": encode("status", None, "nominal", legend=legend,
                            scale={"domain": statuses, "range": [MARKS[s][0] for s in statuses]}),
            "tooltip": TRIAL_TIPS,
        },
    }  # fmt: skip


def choose_limits(report: SweepReport, scores: Sequence[float]) -> tuple[float, float]:
    """Return the limits of an axis of scores; far outliers on the bad side lie outside."""
    sign = 1.0 if report.higher_is_better else -1.0
    values = np.asarray(scores, dtype=np.float64)
    low, median, best = np.quantile(sign * values, (0.1, 0.5, 1.0))
    # An outlier lies further below the tenth percentile than 1.5 times the distance from there to the best.
    floor = min(low, median) - 1.5 * max(best - min(low, median), 1e-9)
    kept = values[sign * values >= floor]
    room = 0.08 * float(np.ptp(kept)) or 0.01 * max(0.1, abs(float(kept.max())))
    return float(kept.min()) - room, float(kept.max()) + room


def choose_score_axis(report: SweepReport, scores: Sequence[float]) -> Spec:
    """Return the title of an axis of scores, which says how many lie outside, and its scale."""
    finite = [s for s in scores if np.isfinite(s)]
    low, high = choose_limits(report, finite)
    outside = sum(not low <= s <= high for s in finite)
    title = format_score_title(report.metric) + (f" ({outside} worse outside)" if outside else "")
    return {"title": title, "scale": {"domain": [round_number(low), round_number(high)], "nice": False}}


def _running_best(report: SweepReport) -> list[tuple[int, float]]:
    """(number of the trial, best score so far) wherever it changes; broken trials do not count."""
    best: TrialRow | None = None
    found = []
    for at, t in enumerate(report.trials, 1):
        # by score and NLL, without the name: of two equal trials the earlier one stays the best
        if t.is_eligible and t.score is not None and (best is None or t.order[:2] < best.order[:2]):
            best = t
            found.append((at, choose_scale(report) * t.score))
    return found


def _draw_rung_scores(report: SweepReport, rungs: Sequence[Survival]) -> Spec:
    """Draw the scores at each rung, survivors right of the tick and stopped ones left of it."""
    rng = np.random.default_rng(0)  # moves points apart that would lie on each other
    taus = {
        r.evaluation: use_minus_sign(f"τ {r.tau:.2f}, n {r.trials}")
        for r in compute_rank_correlations(report)
        if r.tau is not None
    }
    marks = {"went on": ("circle", "#0072B2", 0.15), "stopped here": ("triangle-down", "#E69F00", -0.15),
             "open or broken": ("cross", GREY, 0.0)}  # fmt: skip
    names, rows, scores = shorten_names(report.shown_keys), [], []
    for at, rung in enumerate(rungs):
        for (what, (_, _, shift)), trials in zip(
            marks.items(), (rung.survived, rung.stopped, rung.open), strict=True
        ):
            for t in trials:
                score = t.score_at(rung.evaluation)
                if score is not None:
                    scores.append(choose_scale(report) * score)
                    rows.append({
                        "x": round_number(at + shift + float(rng.uniform(-0.09, 0.09))), "y": round_number(scores[-1]),
                        "trial": t.name, "status": what, "sample": describe_sample(t.sample, names) or ABSENT,
                        "shown": format_metric(strip_metric_path(report.metric), score, compared=True),
                    })  # fmt: skip
    there = [what for what in marks if any(row["status"] == what for row in rows)]
    axis = choose_score_axis(report, scores) if scores else {"title": "", "scale": {}}
    ticks = [
        {"x": at, "rung": str(rung.evaluation), "tau": taus.get(rung.evaluation, "")}
        for at, rung in enumerate(rungs)
    ]
    ends = {"domain": [-0.6, len(rungs) - 0.4], "nice": False}
    x = encode("x", None, scale=ends, axis=None)
    legend = place_legend(3)
    below: Spec = {"data": {"values": ticks}, "encoding": {"x": x, "y": {"value": "height"}}}
    return {
        "width": 430,
        "height": 230,
        "layer": [
            {
                "data": {"values": rows},
                "mark": {"type": "point", "filled": True, "size": 40, "opacity": 0.85, "clip": True},
                "encoding": {
                    "x": x, "y": encode("y", f"{axis['title']} at the rung", scale=axis["scale"]),
                    "color": encode("status", None, "nominal", legend=legend,
                                    scale=choose_colours(there, [marks[w][1] for w in there])),
                    "shape": encode("status", None, "nominal", legend=legend,
                                    scale={"domain": there, "range": [marks[w][0] for w in there]}),
                    "tooltip": TRIAL_TIPS,
                },
            },
            {**below, "mark": {"type": "text", "dy": 14}, "encoding": {**below["encoding"], "text": {"field": "rung"}}},
            {**below, "mark": {"type": "text", "dy": 30, "fontSize": 11},
             "encoding": {**below["encoding"], "text": {"field": "tau"}}},
        ],
    }  # fmt: skip
