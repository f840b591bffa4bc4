"""Build charts as Vega-Lite specifications: one description for the page, its values on hover, and the PNG.

Decision record: Vega-Lite, inlined in the page (``library/``, 0.7 MB), over a picture that Python draws. A chart is
data: the numbers that a reader hovers over are rows of the specification, and a test can compare them with the records.
Nothing is drawn while a run ends, which took 2 s with matplotlib. uPlot and Chart.js (0.05 and 0.2 MB) draw on a canvas
that cannot follow the page's colours and know no heat map or interval; Observable Plot (0.5 MB) needs a program for
each chart; Plotly is 4 MB. vl-convert makes the PNG from the same specification.

Everything that is not data has the page's text colour (``currentColor``), so one chart suits light, dark and paper.
Colours are Okabe and Ito's, which people with colour-blindness can tell apart; line styles differ as well. Names come
from data and are values of rows only, never part of an expression.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

Spec = dict[str, Any]
"""A Vega-Lite specification, or a part of one."""
Charts = Mapping[str, tuple[Spec, str]]
"""Name of a chart to its specification and its caption."""
INK = "currentColor"
GREY = "#999999"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", GREY)
DASHES: tuple[list[float], ...] = ([1, 0], [6, 3], [7, 3, 2, 3], [2, 2.5])
MOST_POINTS = 400
"""Points of a curve; longer ones are averaged over neighbouring steps."""
MOST_MARKED = 25
"""Points of a curve that are drawn with markers."""
_QUIET = {"grid": False, "domain": False, "ticks": False, "labelPadding": 6}
_INKED = {"labelColor": INK, "titleColor": INK, "domainColor": INK, "tickColor": INK}
CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Noto Sans CJK SC', sans-serif",
    "view": {"stroke": None},
    "axis": {
        **_INKED, "gridColor": "#8883", "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal",
        "labelLimit": 260,
    },
    "axisY": {"titlePadding": 8},
    "legend": {**_INKED, "labelFontSize": 12, "symbolStrokeWidth": 2.5, "symbolSize": 80, "labelLimit": 260,
               "title": None},
    "header": {**_INKED, "labelFontSize": 13, "title": None},
    "title": {"color": INK, "subtitleColor": INK, "anchor": "start", "fontSize": 15, "fontWeight": 600,
              "subtitleFontSize": 12, "offset": 12},
    "text": {"color": INK, "fontSize": 12},
    "rule": {"color": INK},
    "bar": {"tooltip": None},
}  # fmt: skip
"""The look of all charts."""


def add_captions(drawn: Mapping[str, Spec | None], captions: Mapping[str, str]) -> Charts:
    """Return the charts that there is data for, each with its caption."""
    return {name: (spec, captions[name]) for name, spec in drawn.items() if spec is not None}


def encode(field: str, title: str | None = None, kind: str = "quantitative", **more: object) -> Spec:
    """Return how a field of the rows is shown."""
    return {"field": field, "type": kind, "title": title, **more}


def name_rows(field: str, order: Iterable[str], title: str | None = None, **axis: object) -> Spec:
    """Return the encoding of names that stand below one another: all of these, in this order."""
    return encode(field, title, "nominal", scale={"domain": list(order)}, axis={**_QUIET, **axis})


def list_tips(**titles: str) -> list[Spec]:
    """Return what is shown on hover: the title of each field."""
    return [{"field": name, "type": "nominal", "title": title} for name, title in titles.items()]


def choose_colours(names: Sequence[str], colours: Sequence[str] = COLOURS) -> Spec:
    """Return the scale that gives each name a colour, over and over where there are more names."""
    return {"domain": list(names), "range": [colours[at % len(colours)] for at in range(len(names))]}


def place_legend(columns: int = 4, **more: object) -> Spec:
    """Return a legend above the panel."""
    return {"orient": "top", "direction": "horizontal", "columns": columns, "offset": 8, **more}


def pick_nearest(name: str) -> Spec:
    """Return the selection of the mark that lies nearest to the pointer, whose values are shown."""
    select = {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}
    return {"name": name, "select": select}


def thin_curve(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return a curve without what is not finite, averaged down to `MOST_POINTS` points.

    Args:
        points: (step, value).
    """
    steps, values = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(steps) > MOST_POINTS:
        groups = np.array_split(np.stack([steps, values]), MOST_POINTS, axis=1)
        steps, values = np.stack([group.mean(axis=1) for group in groups], axis=1)
    return list(zip(steps.tolist(), values.tolist(), strict=True))


def draw_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    at: int,
    x: str,
    y: str,
    size: tuple[int, int],
    thick: str = "",
    least: float | None = None,
) -> Spec:
    """Draw curves in one panel. Pointing at a place shows the nearest point.

    Args:
        lines: Points of each curve by its name.
        at: Number of the panel in its chart.
        x: Title of the x axis.
        y: Title of the y axis.
        size: Width and height, in pixels.
        thick: Name of the curve that stands out.
        least: Where the y axis begins; None lets the curves decide.
    """
    thinned = {name: thin_curve(points) for name, points in lines.items()}
    rows = [
        {"line": name, "x": round_number(step), "y": round_number(value)}
        for name, points in thinned.items()
        for step, value in points
    ]
    names = list(lines)
    marked = max(map(len, thinned.values()), default=0) <= MOST_MARKED
    dashes = [DASHES[n // 2 % len(DASHES)] for n in range(len(names))]
    hover = f"nearest{at}"
    shown = {"condition": {"param": hover, "empty": False, "value": 1}, "value": 0.9 if marked else 0}
    legend = place_legend(symbolType="stroke", symbolSize=260)
    colour = encode("line", None, "nominal", scale=choose_colours(names), legend=legend)
    return {
        "width": size[0],
        "height": size[1],
        "data": {"values": rows},
        "encoding": {
            "x": encode("x", x, axis={"grid": False, "tickCount": 6}),
            "y": encode("y", y, scale={"zero": False} if least is None else {"domainMin": least}),
            "color": colour,
        },
        "layer": [
            {
                "mark": {"type": "line", "clip": True},
                "encoding": {
                    "strokeDash": encode("line", None, "nominal", scale={"domain": names, "range": dashes},
                                         legend=legend),
                    "strokeWidth": {
                        "condition": {"test": {"field": "line", "equal": thick}, "value": 2.8}, "value": 1.5},
                },
            },
            {
                "params": [pick_nearest(hover)],
                "mark": {"type": "point", "filled": True, "size": 34},
                "encoding": {"opacity": shown, "tooltip": list_tips(line="title", x=x, y=y)},
            },
        ],
    }  # fmt: skip


def join_panels(panels: Sequence[Spec]) -> Spec | None:
    """Return panels side by side, each with its own scales; None of no panel."""
    if not panels:
        return None
    if len(panels) == 1:
        return panels[0]
    apart = {"scale": {"color": "independent", "shape": "independent", "strokeDash": "independent"}}
    return {"concat": list(panels), "columns": len(panels), "spacing": 36, "resolve": apart}


def give_all(layers: Sequence[Spec], **encoding: object) -> list[Spec]:
    """Return layers that share an encoding, where a layer beside them does not."""
    return [{**layer, "encoding": {**encoding, **layer["encoding"]}} for layer in layers]


def draw_zero_rule(**mark: object) -> Spec:
    """Return an upright line at 0 of the x axis."""
    return {
        "data": {"values": [{"at": 0.0}]},
        "mark": {"type": "rule", "strokeWidth": 1, "strokeDash": [2, 2], **mark},
        "encoding": {"x": {"field": "at", "type": "quantitative"}},
    }


def round_number(value: float) -> float:
    """Return a number with six significant digits: a page needs no more, and they halve its size."""
    return float(f"{value:.6g}")


def choose_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers from low to high, at most this many and one."""
    raw = (high - low) / max(1, most)
    size = 10.0 ** np.floor(np.log10(raw))
    step = next(size * nice for nice in (1, 2, 2.5, 5, 10) if size * nice >= raw * (1 - 1e-9))
    first = np.ceil(low / step - 1e-9)
    count = int(np.floor(high / step + 1e-9) - first) + 1
    return [round_number(float((first + at) * step)) for at in range(count)]
