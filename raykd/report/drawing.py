"""How plots are drawn: figures, curves, legends, SVG.

Decision record: matplotlib's `Figure` objects, not pyplot, whose state is global and whose backend may want
a screen. SVG, because it stays sharp, is inlined in the page without a network, and can take the page's
text colour: everything that is not data is drawn in one ink that is replaced by ``currentColor``, so that
one picture suits light and dark. Glyphs are drawn as paths, so no font is needed where the page is read.
Colours are Okabe and Ito's, which people with colour-blindness can tell apart; line styles differ as well.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

INK = "#010203"
"""Stands for the page's text colour in a drawing."""
PAPER = "#fdfcfe"
"""Stands for the page's background in a drawing; white where there is no page."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#999999")
STYLES = ("-", "--", "-.", ":")
MOST_POINTS = 400
"""Points of a curve; longer ones are averaged over neighbouring steps."""
_serial = itertools.count()


def draw_line(
    axes: Axes,
    points: Sequence[tuple[int, float]],
    label: str,
    at: int,
    scale: float = 1.0,
    width: float = 1.3,
) -> None:
    """A curve, thinned to `MOST_POINTS` by averaging; a curve of a few points has markers."""
    steps, values = np.asarray(points, dtype=np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(steps) > MOST_POINTS:
        groups = np.array_split(np.arange(len(steps)), MOST_POINTS)
        steps = np.asarray([steps[g].mean() for g in groups])
        values = np.asarray([values[g].mean() for g in groups])
    axes.plot(
        steps, scale * values, label=escape_math(label), lw=width, color=COLOURS[at % len(COLOURS)],
        ls=STYLES[(at // 2) % len(STYLES)], marker="o" if len(steps) <= 25 else None, ms=3,
    )  # fmt: skip


def make_panels(
    panels: int, *, width: float, height: float, rows: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure (inches) with panels in a row, or one above the other."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
    shape = (panels, 1) if rows else (1, panels)
    ratios: dict[str, object] = {"height_ratios": [3] + [1] * (panels - 1)} if rows else {}
    grid = figure.subplots(*shape, squeeze=False, sharey=sharey, sharex=rows, gridspec_kw=ratios)
    axes_list = list(grid.ravel())
    figure.patch.set_alpha(0)
    for axes in axes_list:
        _dress(axes)
    return figure, axes_list


def make_grid(panels: int, *, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with panels of ``width`` x ``height`` inches in rows of ``columns``, which share the y axis."""
    import matplotlib.figure

    across = min(columns, panels)
    down = -(-panels // columns)
    figure = matplotlib.figure.Figure(figsize=(width * across, height * down), layout="constrained")
    axes_list = list(figure.subplots(down, across, squeeze=False, sharey=True).ravel())
    figure.patch.set_alpha(0)
    for axes in axes_list[panels:]:
        axes.remove()
    for axes in axes_list[:panels]:
        _dress(axes)
    return figure, axes_list[:panels]


def _dress(axes: Axes) -> None:
    """Ink, ticks, two spines and a faint grid."""
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set(color=INK, size=10)
    axes.yaxis.label.set(color=INK, size=10)
    for side, spine in axes.spines.items():
        spine.set(color=INK, visible=side in ("left", "bottom"), linewidth=0.8)
    axes.grid(visible=True, color="#8888", linewidth=0.4)
    axes.set_axisbelow(True)


def draw_legend(axes: Axes, outside: bool = False) -> None:
    """A legend where it covers least, or right of the panel."""
    place: dict[str, Any] = (
        {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if outside else {"loc": "best"}
    )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, **place)


def escape_math(text: str) -> str:
    """A name as it is: matplotlib reads ``$`` as the start of a formula."""
    return text.replace("$", r"\$")


def add_halo(text: Text) -> None:
    """Makes a text readable over lines."""
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=3, foreground=PAPER)])


def render_svg(figure: Figure) -> str:
    """The figure as an SVG element: no XML header, no metadata, ids of its own, the page's ink."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "raykd"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    own = f"f{next(_serial)}-"
    text = re.sub(r'(\bid=")', rf"\1{own}", text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{own}", text)
    text = text.replace(INK, "currentColor").replace(PAPER, "var(--paper, white)")
    return re.sub(r"\n\s*\n", "\n", text).strip()
