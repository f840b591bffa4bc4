"""Make figures, draw curves and legends, and turn a figure into SVG.

Decision record: matplotlib's `Figure` objects, not pyplot, whose state is global and whose backend may want a screen.
SVG stays sharp, is inlined in the page without a network, and can take the page's text colour: everything that is not
data is drawn in one ink that is replaced by ``currentColor``, so one picture suits light and dark pages. Glyphs are
drawn as paths, so no font is needed where the page is read. Colours are Okabe and Ito's, which people with
colour-blindness can tell apart; line styles differ as well.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

INK = "#010203"
"""Stands for the page's text colour; a colour that no data has, so that it can be replaced in the SVG."""
PAPER = "#fdfcfe"
"""Stands for the page's background; white where there is no page."""
GREY = "#999999"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", GREY)
STYLES = ("-", "--", "-.", ":")
MOST_POINTS = 400
"""Points of a curve; longer ones are averaged over neighbouring steps."""
MOST_MARKED = 25
"""Points of a curve that are drawn with markers."""
_serial = itertools.count()


def draw_line(
    axes: Axes,
    points: Sequence[tuple[int, float]],
    label: str,
    at: int,
    scale: float = 1.0,
    width: float = 1.3,
) -> None:
    """Draw a curve, thinned to `MOST_POINTS` by averaging.

    Args:
        axes: The panel.
        points: (step, value); values that are not finite are left out.
        label: Name in the legend.
        at: Number of the curve in its panel, which decides its colour and style.
        scale: Factor of the values.
        width: Of the line, in points.
    """
    steps, values = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(steps) > MOST_POINTS:
        groups = np.array_split(np.stack([steps, values]), MOST_POINTS, axis=1)
        steps, values = np.stack([group.mean(axis=1) for group in groups], axis=1)
    axes.plot(
        steps, scale * values, label=escape_math(label), lw=width, color=COLOURS[at % len(COLOURS)],
        ls=STYLES[(at // 2) % len(STYLES)], marker="o" if len(steps) <= MOST_MARKED else None, ms=3,
    )  # fmt: skip


def make_panels(
    panels: int, *, width: float, height: float, rows: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels side by side.

    Args:
        panels: How many.
        width: Of the whole figure, in inches.
        height: Of the whole figure, in inches.
        rows: Panels one above the other instead, the first three times as high as the others.
        sharey: Whether they share the y axis.
    """
    ratios = [3] + [1] * (panels - 1) if rows else None
    return _make_figure((panels, 1) if rows else (1, panels), (width, height), rows, sharey, ratios)


def make_grid(panels: int, *, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Make a figure with panels of ``width`` x ``height`` inches in rows of ``columns``, which share the y axis."""
    across, down = min(columns, panels), -(-panels // columns)
    figure, axes_list = _make_figure((down, across), (width * across, height * down), False, True, None)
    for axes in axes_list[panels:]:
        axes.remove()
    return figure, axes_list[:panels]


def _make_figure(
    shape: tuple[int, int],
    size: tuple[float, float],
    sharex: bool,
    sharey: bool,
    ratios: Sequence[int] | None,
) -> tuple[Figure, list[Axes]]:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    grid = figure.subplots(*shape, squeeze=False, sharey=sharey, sharex=sharex, height_ratios=ratios)
    axes_list = list(grid.ravel())
    for axes in axes_list:
        _style_axes(axes)
    return figure, axes_list


def _style_axes(axes: Axes) -> None:
    """Set ink, ticks, two spines and a faint grid."""
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=INK, size=10)
    for side, spine in axes.spines.items():
        spine.set(color=INK, visible=side in ("left", "bottom"), linewidth=0.8)
    axes.grid(visible=True, color="#8888", linewidth=0.4)
    axes.set_axisbelow(True)


def draw_legend(axes: Axes, outside: bool = False) -> None:
    """Draw a legend where it covers least, or right of the panel."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            frameon=False, fontsize=9, labelcolor=INK,
            loc="upper left" if outside else "best", bbox_to_anchor=(1.01, 1.0) if outside else None,
        )  # fmt: skip


def write_beside(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float]) -> None:
    """Write a number beside a bar.

    Args:
        axes: The panel.
        text: The number.
        at: In the panel's data.
        offset: From there, in points; to the right, or above.
    """
    right = offset[0] > 0
    axes.annotate(
        text, at, offset, textcoords="offset points", fontsize=9, color=INK,
        ha="left" if right else "center", va="center" if right else "baseline",
    )  # fmt: skip


def escape_math(text: str) -> str:
    """Return a name as matplotlib shows it unchanged: a ``$`` would start a formula."""
    return text.replace("$", r"\$")


def add_halo(text: Text) -> None:
    """Make a text readable over lines."""
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=3, foreground=PAPER)])


def render_svg(figure: Figure) -> str:
    """Return the figure as an SVG element: no XML header, no metadata, ids of its own, the page's ink."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "raykd"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    # Several drawings share one page, and matplotlib gives each the same ids.
    own = f"f{next(_serial)}-"
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{own}", text)
    text = text.replace(INK, "currentColor").replace(PAPER, "var(--paper, white)")
    return re.sub(r"\n\s*\n", "\n", text).strip()
