"""Draw the plots of a sweep over the searched keys: parallel coordinates and slices, each as an SVG text or None.

Decision record: an inactive key is drawn at a dash below its axis, never at 0. The score is the last axis, and the best
five trials are drawn over the others in the colours they have in the learning curves. A slice shows the best score of
each trial over one key. Trials that were stopped early had less time, so they have another marker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raykd.report.drawing import (
    COLOURS,
    GREY,
    INK,
    STYLES,
    add_halo,
    escape_math,
    make_grid,
    make_panels,
    render_svg,
)
from raykd.report.sweeps.axes import INACTIVE, SearchAxis, build_search_axes
from raykd.report.sweeps.plots import (
    choose_limits,
    choose_scale,
    draw_scatter,
    list_leaders,
    set_limits,
)
from raykd.report.sweeps.trial_table import format_score_title
from raykd.report.sweeps.trials import SweepReport, TrialRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SLICES = 24
"""Keys that have a panel."""
SLICES_A_ROW = 3


def draw_parallel_coordinates(report: SweepReport) -> str | None:
    """Draw a line for each scored trial through its values to its score, the best five in colour."""
    axes_list = build_search_axes(report)
    scored = [t for t in report.trials if t.score is not None]
    if len(axes_list) < 2 or len(scored) < 2:
        return None
    step = min(1.15, max(0.72, 10.4 / (len(axes_list) + 1)))
    figure, (axes,) = make_panels(1, width=0.9 + step * (len(axes_list) + 1), height=4.6)
    best = list_leaders(report)
    score_axis = _score_axis(report, scored)
    lanes = [*axes_list, score_axis]

    def heights(t: TrialRow) -> list[float]:
        score = choose_scale(report) * (t.score or 0.0)
        return [a.place(t.sample) for a in axes_list] + [max(score_axis.place_value(score), INACTIVE)]

    x = range(len(lanes))
    for t in scored:
        if t not in best:
            axes.plot(x, heights(t), color=GREY, lw=0.8, alpha=max(0.2, min(0.6, 20 / len(scored))))
    for at, t in reversed(list(enumerate(best))):
        axes.plot(x, heights(t), color=COLOURS[at], ls=STYLES[at % len(STYLES)], lw=2.0, marker="o", ms=3.5,
                  label=escape_math(t.name))  # fmt: skip
    for at, lane in enumerate(lanes):
        _draw_lane(axes, at, lane)
    axes.set_xticks(list(x), [_wrap(lane.label) for lane in lanes])
    axes.set(yticks=[], ylim=(INACTIVE - 0.09, 1.04), xlim=(-0.6, len(lanes) - 0.6))
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)
    axes.tick_params(length=0, labelsize=9)
    axes.xaxis.tick_top()
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], frameon=False, fontsize=9, labelcolor=INK, ncols=5,
                  loc="outside lower left")  # fmt: skip
    return render_svg(figure)


def draw_slices(report: SweepReport) -> str | None:
    """Draw the best score over the value of each searched key, a panel for each key."""
    axes_list = build_search_axes(report)[:MOST_SLICES]
    scored = [choose_scale(report) * t.score for t in report.trials if t.score is not None]
    if not axes_list or len(scored) < 2:
        return None
    figure, panels = make_grid(len(axes_list), columns=SLICES_A_ROW, width=3.7, height=2.5)
    rng = np.random.default_rng(0)
    set_limits(panels[0], report, scored)
    for at, (panel, axis) in enumerate(zip(panels, axes_list, strict=True)):
        draw_scatter(panel, report, [(_spread(axis, t, rng), t) for t in report.trials])
        ticks = axis.ticks(4)
        panel.set_xticks([place for place, _ in ticks], [escape_math(label) for _, label in ticks])
        if len(axis.categories) > 3:
            panel.tick_params(axis="x", rotation=25)
        label = escape_math(axis.label + (" (log)" if axis.log else ""))
        panel.set(xlabel=label, xlim=(INACTIVE - 0.1 if axis.inactive else -0.13, 1.13))
        if at % SLICES_A_ROW == 0:
            panel.set_ylabel(format_score_title(report.metric))
    handles = {label: h for p in panels for h, label in zip(*p.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=6, frameon=False,
                  fontsize=9, labelcolor=INK)  # fmt: skip
    return render_svg(figure)


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


def _draw_lane(axes: Axes, at: int, lane: SearchAxis) -> None:
    """Draw one vertical axis with its ticks at its left side."""
    axes.plot([at, at], [0, 1], color=INK, lw=0.9, zorder=4)
    for place, label in lane.ticks():
        axes.plot([at - 0.03, at], [place, place], color=INK, lw=0.9, zorder=4)
        add_halo(axes.text(at - 0.06, place, escape_math(label), ha="right", va="center", fontsize=8.5,
                           color=INK, zorder=5))  # fmt: skip


def _wrap(label: str) -> str:
    """A label over several lines, since lanes are narrow."""
    return escape_math(label).replace(".", ".\n").replace("_", "_\n").replace(" ", "\n")
