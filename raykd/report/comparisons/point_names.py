"""Place the names of points in a chart so that they cover neither each other nor a point.

Decision record: Vega-Lite does not place names, and a name beside its point is read faster than a legend. Positions in
pixels are computed as the chart's scales will lay them out; a few pixels off are no harm. Names are placed from left to
right, each in the corner where it covers least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from raykd.report.charts import Spec

SIGN_WIDTH, LINE_HEIGHT = 6.0, 13.0
"""Pixels of a sign and of a line at the font size of the names."""
POINT = 5.0
"""Half the width of a point, pixels."""
CORNERS = {
    "upper right": {"align": "left", "dx": 7, "dy": -7},
    "upper left": {"align": "right", "dx": -7, "dy": -7},
    "lower right": {"align": "left", "dx": 7, "dy": 9},
    "lower left": {"align": "right", "dx": -7, "dy": 9},
}
"""Where a name may stand, in the order of preference."""

Box = tuple[float, float, float, float]


def choose_corners(
    points: Sequence[tuple[float, float, str]],
    ends: tuple[float, float],
    size: tuple[float, float],
    *,
    is_log: bool,
) -> list[str]:
    """Return the corner of each point's name.

    Args:
        points: Place on the x axis, place on the y axis, and the name (empty for none) of each point.
        ends: Lowest and highest value that is drawn on the y axis.
        size: Width and height in pixels of the area between the outermost points and these values.
        is_log: Whether the x axis is logarithmic.
    """
    costs = [math.log(x) if is_log else x for x, _, _ in points]
    xs = _scale(costs, (min(costs), max(costs)), size[0])
    ys = [size[1] - y for y in _scale([y for _, y, _ in points], ends, size[1])]
    taken = [(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in zip(xs, ys, strict=True)]
    corners = ["upper right"] * len(points)
    for at in sorted(range(len(points)), key=lambda i: xs[i]):
        if points[at][2]:
            boxes = {name: _draw_box(xs[at], ys[at], points[at][2], name) for name in CORNERS}
            inside = {name: box for name, box in boxes.items() if box[0] >= -30 and box[2] <= size[0] + 30}
            corners[at] = min(inside or boxes, key=lambda name: _sum_overlaps(boxes[name], taken))
            taken.append(boxes[corners[at]])
    return corners


def draw_names(field: str) -> list[Spec]:
    """Return a layer for each corner; rows hold the name under `field` and the corner under `corner`."""
    return [
        {
            "transform": [{"filter": f"datum.corner === '{corner}'"}],
            "mark": {"type": "text", "fontSize": 11, "limit": 180, **where},
            "encoding": {"text": {"field": field}},
        }
        for corner, where in CORNERS.items()
    ]


def _scale(values: Sequence[float], ends: tuple[float, float], length: float) -> list[float]:
    low, high = ends
    return [length * (value - low) / (high - low) if high > low else length / 2 for value in values]


def _draw_box(x: float, y: float, name: str, corner: str) -> Box:
    left = x + 7 if corner.endswith("right") else x - 7 - SIGN_WIDTH * len(name)
    middle = y - 7 if corner.startswith("upper") else y + 9
    return left, middle - LINE_HEIGHT / 2, left + SIGN_WIDTH * len(name), middle + LINE_HEIGHT / 2


def _sum_overlaps(box: Box, others: Sequence[Box]) -> float:
    """Return the area of the box that others cover, in square pixels."""
    return sum(
        max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        for other in others
    )
