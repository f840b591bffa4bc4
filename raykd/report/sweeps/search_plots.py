"""Draw the charts of a sweep over the searched keys: parallel coordinates and slices, as Vega-Lite or None.

Decision record: an inactive key is drawn at a dash below its axis, never at 0. The score is the last axis, and the best
five trials are drawn over the others in the colours they have in the learning curves. A slice shows the best score of
each trial over one key. Trials that were stopped early had less time, so they have another marker. Places on an axis
are computed here (`SearchAxis`) and its ticks are rows of data, because one axis may hold numbers, names and a dash.
"""

from __future__ import annotations

import numpy as np

from raykd.report.charts import (
    COLOURS,
    GREY,
    INK,
    Spec,
    choose_colours,
    encode,
    list_tips,
    place_legend,
    round_number,
)
from raykd.report.formats import format_metric, format_value
from raykd.report.sweeps.axes import INACTIVE, SearchAxis, build_search_axes
from raykd.report.sweeps.plots import (
    choose_limits,
    choose_scale,
    choose_score_axis,
    draw_trials,
    list_leaders,
    place_trials,
)
from raykd.report.sweeps.trial_table import format_score_title, strip_metric_path
from raykd.report.sweeps.trials import SweepReport, TrialRow

MOST_SLICES = 24
"""Keys that have a panel."""
SLICES_A_ROW = 3
LINE = 0.05
"""Height of a line of text, as a share of an axis."""
LANE = 112
"""Pixels from one vertical axis to the next; fewer where there are many."""


def draw_parallel_coordinates(report: SweepReport) -> Spec | None:
    """Draw a line for each scored trial through its values to its score, the best five in colour."""
    axes_list = build_search_axes(report)
    scored = [t for t in report.trials if t.score is not None]
    if len(axes_list) < 2 or len(scored) < 2:
        return None
    best = [t.name for t in list_leaders(report)]
    score_axis = _score_axis(report, scored)
    lanes = [*axes_list, score_axis]
    rows = [row for t in scored for row in _place_trial(report, t, axes_list, score_axis)]
    others, leaders = (
        [row for row in rows if (row["trial"] in best) == is_best] for is_best in (False, True)
    )
    ticks = [
        {"lane": at, "y": round_number(place), "label": label}
        for at, lane in enumerate(lanes)
        for place, label in lane.ticks()
    ]
    heads = [
        {"lane": at, "label": part, "y": 1.06 + LINE * (len(parts) - line - 1)}
        for at, parts in enumerate(_wrap(lane.label) for lane in lanes)
        for line, part in enumerate(parts)
    ]
    width = max(70, min(LANE, 1080 // len(lanes)))
    ends = {"domain": [-0.55, len(lanes) - 0.7], "nice": False}
    x = encode("lane", None, scale=ends, axis=None)
    y = encode("y", None, axis=None, scale={"domain": [INACTIVE - 0.05, 1.02], "nice": False})
    detail = encode("trial", None, "nominal")
    tips = list_tips(trial="trial", key="key", shown="value")
    colour = encode("trial", None, "nominal", scale=choose_colours(best, COLOURS), legend={
        **place_legend(5), "orient": "bottom"})  # fmt: skip
    text = {"type": "text", "align": "right", "dx": -6, "fontSize": 11}
    return {
        "width": width * len(lanes),
        "height": 330,
        "encoding": {"x": x, "y": y},
        "layer": [
            {"data": {"values": others}, "mark": {"type": "line", "strokeWidth": 0.8, "color": GREY,
             "opacity": max(0.25, min(0.7, 20 / len(scored)))}, "encoding": {"detail": detail}},
            {"data": {"values": others}, "mark": {"type": "point", "filled": True, "size": 14, "color": GREY,
             "opacity": 0.5}, "encoding": {"tooltip": tips}},
            {"data": {"values": [{"lane": at, "y": 0, "end": 1} for at in range(len(lanes))]},
             "mark": {"type": "rule"}, "encoding": {"y2": {"field": "end"}}},
            {"data": {"values": leaders}, "mark": {"type": "line", "strokeWidth": 2.2},
             "encoding": {"color": colour, "detail": detail}},
            {"data": {"values": leaders}, "mark": {"type": "point", "filled": True, "size": 40, "opacity": 1},
             "encoding": {"color": colour, "tooltip": tips}},
            # a copy in the paper's colour, so that labels are read over lines
            {"data": {"values": ticks}, "mark": {**text, "stroke": "var(--paper, white)", "strokeWidth": 4},
             "encoding": {"text": {"field": "label"}}},
            {"data": {"values": ticks}, "mark": text, "encoding": {"text": {"field": "label"}}},
            {"data": {"values": heads}, "mark": {"type": "text"}, "encoding": {"text": {"field": "label"}}},
        ],
    }  # fmt: skip


def _place_trial(
    report: SweepReport, t: TrialRow, axes_list: list[SearchAxis], score_axis: SearchAxis
) -> list[Spec]:
    """Return a row for each lane that a trial's line goes through."""
    score = t.score or 0.0
    height = max(score_axis.place_value(choose_scale(report) * score), INACTIVE)
    shown = format_metric(strip_metric_path(report.metric), score, compared=True)
    places = [
        (axis.label, axis.place(t.sample), format_value(t.sample[axis.key]) if axis.key in t.sample else "inactive")
        for axis in axes_list
    ]  # fmt: skip
    return [
        {"trial": t.name, "lane": at, "y": round_number(y), "key": key, "shown": value}
        for at, (key, y, value) in enumerate([*places, (score_axis.label, height, shown)])
    ]


def draw_slices(report: SweepReport) -> Spec | None:
    """Draw the best score over the value of each searched key, a panel for each key."""
    axes_list = build_search_axes(report)[:MOST_SLICES]
    scored = [choose_scale(report) * t.score for t in report.trials if t.score is not None]
    if not axes_list or len(scored) < 2:
        return None
    rng = np.random.default_rng(0)
    score_axis = choose_score_axis(report, scored)
    return {
        "concat": [_draw_slice(report, axis, score_axis, rng, at) for at, axis in enumerate(axes_list)],
        "columns": SLICES_A_ROW,
        "spacing": {"row": 34, "column": 30},
    }


def _draw_slice(
    report: SweepReport, axis: SearchAxis, score_axis: Spec, rng: np.random.Generator, at: int
) -> Spec:
    """Draw one panel: the ticks of its x axis are data, since a key's values may be names."""
    least = INACTIVE - 0.1 if axis.inactive else -0.13
    x = encode("x", None, scale={"domain": [least, 1.13], "nice": False}, axis=None)
    rows = place_trials(report, [(_spread(axis, t, rng), t) for t in report.trials], score_axis)
    ticks = [{"x": round_number(place), "label": label} for place, label in axis.ticks(4)]
    trials, slanted = draw_trials(rows, at), len(axis.categories) > 3
    label: Spec = {"type": "text", "dy": 10, "fontSize": 11, "align": "right" if slanted else "center",
                   "angle": 335 if slanted else 0}  # fmt: skip
    return {
        "width": 270,
        "height": 150,
        "title": {"text": axis.label + (" (log)" if axis.log else ""), "fontSize": 12, "fontWeight": "normal",
                  "orient": "bottom", "anchor": "middle", "offset": 30 if slanted else 16},
        "layer": [
            {**trials, "encoding": {
                **trials["encoding"], "x": x,
                "y": encode("y", None if at % SLICES_A_ROW else score_axis["title"], scale=score_axis["scale"])}},
            {"data": {"values": ticks}, "mark": label,
             "encoding": {"x": x, "y": {"value": "height"}, "text": {"field": "label"}}},
            {"data": {"values": ticks}, "mark": {
                "type": "tick", "orient": "vertical", "bandSize": 6, "thickness": 1, "color": INK},
             "encoding": {"x": x, "y": {"value": "height"}}},
        ],
    }  # fmt: skip


def _spread(axis: SearchAxis, t: TrialRow, rng: np.random.Generator) -> float:
    """Where a trial lies on the axis; those of one category are moved apart at random."""
    place = axis.place(t.sample)
    if not axis.categories or place == INACTIVE:
        return place
    most = min(0.07, 0.2 / max(1, len(axis.categories) - 1))
    return place + float(rng.uniform(-most, most))


def _score_axis(report: SweepReport, scored: list[TrialRow]) -> SearchAxis:
    """The axis of scores, the better ones at the top."""
    values = [choose_scale(report) * t.score for t in scored if t.score is not None]
    bottom, top = choose_limits(report, values)
    kept = [v for v in values if bottom <= v <= top]
    flipped = not report.higher_is_better
    return SearchAxis("", format_score_title(report.metric), low=min(kept), high=max(kept), flipped=flipped)


def _wrap(label: str) -> list[str]:
    """A label over several lines, since lanes are narrow."""
    return label.replace(".", ".\n").replace("_", "_\n").replace(" ", "\n").split("\n")
