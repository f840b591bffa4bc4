"""Draw the charts of a run, each as a Vega-Lite specification, or None where there is nothing to draw.

Decision record: teachers, ensemble, baseline and student keep their colours through all charts. Bars start at zero and
carry their number, since the differences that matter are small. Languages are panels, not groups of bars, so that eight
systems in many languages stay readable. Texts are codes and names, never words of a language.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from raykd.point import Point
from raykd.report.charts import (
    COLOURS,
    DASHES,
    GREY,
    INK,
    Spec,
    choose_colours,
    draw_lines,
    encode,
    join_panels,
    list_tips,
    name_rows,
    place_legend,
    round_number,
)
from raykd.report.classes import draw_heat_map
from raykd.report.formats import ABSENT, format_metric
from raykd.report.results import Agreement, CalibrationCurve, Role
from raykd.report.table import ResultTable, format_system
from raykd.tasks.scores.metrics import find_metric_title, is_rate

History = Mapping[str, Sequence[tuple[int, float]]]
"""Metric name to (step, value) in the order of steps."""
ROLE_COLOURS: Mapping[Role, str] = {
    "teacher": "#56B4E9", "ensemble": "#0072B2", "baseline": GREY, "peer": "#E69F00",
    "student": "#D55E00",
}  # fmt: skip
LEAST_LABELLED = 8
"""Per cent of a stacked bar below which its number does not fit into it."""
PANELS_A_ROW = 6
"""Languages beside one another."""


def collect_curves(points: Sequence[Point]) -> dict[str, list[tuple[int, float]]]:
    """Return a curve for each metric. A resumed run may tell a step twice; the later value stays."""
    curves: dict[str, dict[int, float]] = {}
    for point in points:
        for name, value in point.values.items():
            curves.setdefault(name, {})[point.step] = float(value)
    return {name: sorted(values.items()) for name, values in curves.items()}


def draw_training_curves(curves: History) -> Spec | None:
    """Draw the training loss and its parts over steps."""
    names = _select(curves, "train/loss", "train/hard") + [n for n in curves if n.startswith("train/soft/")]
    lines = {name.removeprefix("train/"): curves[name] for name in names}
    return _draw_panels([("loss / nats per unit", lines)], (430, 230), thick="loss")


def draw_evaluation_curves(curves: History, metrics: Sequence[str] = ("accuracy", "nll")) -> Spec | None:
    """Draw validation metrics over steps, a panel each: the mean over languages thick, each language thin."""
    panels = []
    for metric in metrics:
        names = [n for n in curves if n.startswith("eval/") and n.endswith(f"/{metric}")]
        # the mean comes first, so that it has the same colour in every panel
        names.sort(key=lambda name: name != f"eval/mean/{metric}")
        scale = 100.0 if is_rate(metric) else 1.0
        lines = {name.split("/")[1]: [(x, scale * y) for x, y in curves[name]] for name in names}
        panels.append((f"validation {find_metric_title(metric)}", lines))
    return _draw_panels(panels, (430, 240), thick="mean")


def draw_schedule_curves(curves: History) -> Spec | None:
    """Draw alpha and lambda in one panel and the temperature in another, over steps."""
    shares = _select(curves, "train/alpha") + [n for n in curves if n.startswith("train/lambda/")]
    lines = {name.removeprefix("train/").replace("lambda/", "lambda "): curves[name] for name in shares}
    heat = {name.removeprefix("train/"): curves[name] for name in _select(curves, "train/temperature")}
    return _draw_panels([("weight", lines), ("temperature", heat)], (190, 200), least=0.0)


def draw_weight_curves(curves: History) -> Spec | None:
    """Draw the mean weight of each teacher over steps."""
    names = [n for n in curves if n.startswith("teacher/") and n.endswith("/weight")]
    lines = {n.split("/")[1]: [(x, 100 * y) for x, y in curves[n]] for n in names}
    return _draw_panels([("mean weight %", lines)], (430, 200), least=0.0)


def _draw_panels(
    panels: Sequence[tuple[str, History]],
    size: tuple[int, int],
    *,
    thick: str = "",
    least: float | None = None,
) -> Spec | None:
    """Draw the panels that have a curve side by side."""
    known = [(title, lines) for title, lines in panels if lines]
    return join_panels([
        draw_lines(lines, at=at, x="optimizer step", y=title, size=size, thick=thick, least=least)
        for at, (title, lines) in enumerate(known)
    ])  # fmt: skip


def draw_language_bars(table: ResultTable) -> Spec | None:
    """Draw a panel for each language and for the mean, a bar for each system; what is not measured has no bar."""
    names, systems = table.languages, table.systems
    if not names:
        return None
    metric = table.metrics[0]
    scale = 100.0 if is_rate(metric) else 1.0
    rows = []
    for name, (p, s) in itertools.product([*names, "mean"], systems):
        # a mean over fewer languages cannot be compared with the others
        mean = s.macro if len(s.by_language) == len(names) else None
        values = mean if name == "mean" else s.by_language.get(name)
        value = None if values is None else values[metric]
        rows.append({
            "panel": name, "system": format_system(p), "role": p.role, "shown": format_metric(metric, value),
            "value": 0.0 if value is None else round_number(scale * value),
        })  # fmt: skip
    colours = choose_colours(list(ROLE_COLOURS), list(ROLE_COLOURS.values()))
    order = [format_system(p) for p, _ in systems]
    return draw_bar_panels(rows, order, [*names, "mean"], metric, colours)


def draw_bar_panels(
    rows: Sequence[Spec], systems: Sequence[str], panels: Sequence[str], metric: str, colours: Spec
) -> Spec:
    """Draw panels of bars side by side: `value` of each `system` in each `panel`, coloured by `role`.

    Args:
        rows: The bars.
        systems: Their order from top to bottom.
        panels: The order of the panels.
        metric: What the values are.
        colours: Scale of the colours.
    """
    title = find_metric_title(metric)
    domain = {"domain": [0, 100], "nice": False} if is_rate(metric) else {"domainMin": 0}
    return {
        "data": {"values": list(rows)},
        "facet": {"field": "panel", "type": "nominal", "sort": list(panels), "title": title,
                  "header": {"titleAnchor": "start", "titleFontWeight": "normal", "titleFontSize": 12}},
        "columns": min(PANELS_A_ROW, len(panels)),
        "spacing": {"column": 34, "row": 16},
        "spec": {
            "width": 118,
            "height": {"step": 24},
            "encoding": {"y": name_rows("system", systems),
                         "x": encode("value", None, scale=domain, axis={"tickCount": 3})},
            "layer": [
                {
                    "mark": {"type": "bar", "height": {"band": 0.76}},
                    "encoding": {
                        "color": encode("role", None, "nominal", legend=None, scale=colours),
                        "tooltip": list_tips(system="title", panel="language", shown=title),
                    },
                },
                {
                    "mark": {"type": "text", "align": "left", "dx": 4},
                    "encoding": {"text": {"field": "shown"}},
                },
            ],
        },
    }  # fmt: skip


def draw_reliability(curves: Sequence[CalibrationCurve]) -> Spec | None:
    """Draw accuracy over confidence in 15 bins (above) and how often each confidence occurs (below).

    The calibration error stands in the table, as a mean over languages; another one of all rows would contradict it.
    """
    if not curves:
        return None
    rows: list[Spec] = [
        {
            "system": c.system, "confidence": round_number(100 * b.confidence), "right": round_number(100 * b.accuracy),
            "low": round_number(100 * b.low), "high": round_number(100 * b.high), "units": b.count,
            "share": round_number(100 * b.count / c.units),
        }
        for c in curves
        for b in c.bins
    ]  # fmt: skip
    names = [c.system for c in curves]
    # No prediction is less sure than chance, so the axis begins there.
    least = max(0.0, min(row["low"] for row in rows if row["units"]))
    scale = {"domain": [least, 100], "nice": False}
    colour = encode("system", None, "nominal", legend=place_legend(3),
                    scale=choose_colours(names, [ROLE_COLOURS[c.role] for c in curves]))  # fmt: skip
    dash = encode("system", None, "nominal", legend=place_legend(3),
                  scale={"domain": names, "range": [DASHES[at % len(DASHES)] for at in range(len(names))]})  # fmt: skip
    tips = list_tips(system="title", confidence="mean confidence %", right="accuracy %", units="units")
    known = {"transform": [{"filter": "datum.units > 0"}]}
    upper: Spec = {
        "width": 430, "height": 250, **known,
        "encoding": {"x": encode("confidence", None, scale=scale), "color": colour,
                     "y": encode("right", "accuracy %", scale={"domain": [0, 100]})},
        "layer": [
            {"data": {"values": [{"confidence": least, "right": least}, {"confidence": 100, "right": 100}]},
             "mark": {"type": "line", "color": INK, "strokeWidth": 1, "strokeDash": [2, 3]},
             "encoding": {"color": {"value": INK}}},
            {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"strokeDash": dash}},
            {"mark": {"type": "point", "filled": True, "size": 55, "opacity": 1}, "encoding": {"tooltip": tips}},
        ],
    }  # fmt: skip
    lower: Spec = {
        "width": 430, "height": 70,
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2, "clip": True},
        "encoding": {"x": encode("low", "confidence %", scale=scale), "color": colour, "strokeDash": dash,
                     "y": encode("share", "units %", axis={"tickCount": 3})},
    }  # fmt: skip
    return {"data": {"values": rows}, "vconcat": [upper, lower], "spacing": 14}


def draw_agreement_map(matrix: Agreement, titles: Mapping[str, str]) -> Spec | None:
    """Draw a heat map of how often two systems choose the same label; a dash where they share no row.

    Args:
        matrix: The shares.
        titles: How tables call each system.
    """
    names = [titles.get(name, name) for name in matrix.names]
    if len(names) < 2:
        return None
    share_SS = 100 * matrix.share_SS
    rows = [
        {
            "first": names[a], "second": names[b],
            "share": None if np.isnan(share_SS[a, b]) else round_number(float(share_SS[a, b])),
            "shown": ABSENT if np.isnan(share_SS[a, b]) else f"{share_SS[a, b]:.0f}",
        }
        for a, b in itertools.product(range(len(names)), repeat=2)
    ]  # fmt: skip
    # at least five points of the scale, else systems that nearly agree would look far apart
    low = min(float(np.nanmin(share_SS)), 95.0)
    tips = list_tips(first="first", second="second", shown="same label %")
    return draw_heat_map(
        rows, ("first", "second"), names, shown="shown", domain=(low, 100.0), tips=tips, titled=False
    )  # fmt: skip


def draw_weight_bars(weights: Mapping[str, Mapping[str, float]]) -> Spec | None:
    """Draw the mean weight of each teacher in each language, stacked to 100 %.

    Args:
        weights: Teacher to language to weight, in [0, 1].
    """
    languages = list(dict.fromkeys(language for by in weights.values() for language in by))
    if not languages:
        return None
    rows = []
    for language in languages:
        left = 0.0
        for teacher, by in weights.items():
            share = 100 * by.get(language, 0.0)
            rows.append({
                "teacher": teacher, "language": language, "low": round_number(left),
                "high": round_number(left + share), "middle": round_number(left + share / 2),
                "shown": f"{share:.1f}", "inside": f"{share:.0f}" if share >= LEAST_LABELLED else "",
            })  # fmt: skip
            left += share
    x = encode("low", "mean weight %", scale={"domain": [0, 100]}, axis={"tickCount": 5})
    return {
        "data": {"values": rows},
        "width": 430,
        "height": {"step": 28},
        "encoding": {
            "y": name_rows("language", languages),
            "tooltip": list_tips(teacher="teacher", language="language", shown="mean weight %"),
        },
        "layer": [
            {
                "mark": {"type": "bar", "height": {"band": 0.78}},
                "encoding": {
                    "x": x, "x2": {"field": "high"},
                    "color": encode("teacher", None, "nominal", scale=choose_colours(list(weights), COLOURS),
                                    legend=place_legend()),
                },
            },
            {
                "mark": {"type": "text"},
                "encoding": {"x": encode("middle"), "text": {"field": "inside"}, "color": {"value": "black"}},
            },
        ],
    }  # fmt: skip


def _select(curves: History, *names: str) -> list[str]:
    """Return which of these curves have a point."""
    return [name for name in names if curves.get(name)]
