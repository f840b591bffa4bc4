"""Draw the plots of a sweep over trials, evaluations and rungs, each as an SVG text or None where nothing is to draw.

Decision record: a status is a marker and a colour, the same in all plots, because "stopped early" and "ran to the end"
must never be read as one cloud. The best five trials keep their colours through all plots. Trials without a score are
marked on the bad edge: that a setting breaks is a result. The axis of scores leaves out the worst scores if they lie so
far away that nothing else could be told apart, and the picture says how many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raykd.report.drawing import (
    COLOURS,
    GREY,
    INK,
    STYLES,
    draw_legend,
    escape_math,
    make_panels,
    render_svg,
    write_beside,
)
from raykd.report.formats import use_minus_sign
from raykd.report.sweeps.importance import LOW_R2, Importance
from raykd.report.sweeps.rungs import (
    Survival,
    compute_rank_correlations,
    compute_survival,
    count_trials_by_evaluation,
)
from raykd.report.sweeps.trial_table import format_score_title, strip_metric_path
from raykd.report.sweeps.trials import BROKEN, Status, SweepReport, TrialRow
from raykd.tasks.scores.metrics import is_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LEADERS = 5
"""Trials that are drawn in colour."""
MOST_NUMBERED = 20
"""Bars that carry their number."""
MOST_KEYS = 20
"""Keys in the plot of their importance."""
MARKS: Mapping[Status, tuple[str, str]] = {
    "finished": ("o", "#0072B2"),
    "stopped": ("v", "#E69F00"),
    "failed": ("x", "#D55E00"),
    "diverged": ("+", "#CC79A7"),
    "cut off": (">", "#009E73"),
    "waiting": ("_", GREY),
}
"""Marker and colour of each status."""


def choose_scale(report: SweepReport) -> float:
    """Return 100 for rates, which are drawn in per cent, else 1."""
    return 100.0 if is_rate(strip_metric_path(report.metric)) else 1.0


def list_leaders(report: SweepReport) -> list[TrialRow]:
    """Return the best five trials, or as many as there are."""
    return [t for t in report.rank_trials() if t.is_eligible][:MOST_LEADERS]


def draw_objective_by_trial(report: SweepReport) -> str | None:
    """Draw the best score of each trial in the order they were started, and the best so far."""
    scores = [choose_scale(report) * t.score for t in report.trials if t.score is not None]
    if not scores:
        return None
    figure, (axes,) = make_panels(1, width=7.4, height=3.3)
    so_far = _running_best(report)
    if so_far:
        x, y = zip(*so_far, strict=True)
        axes.step([*x, len(report.trials)], [*y, y[-1]], where="post", color=INK, lw=1.0, label="best so far")
    set_limits(axes, report, scores)
    draw_scatter(axes, report, [(float(at), t) for at, t in enumerate(report.trials, 1)])
    axes.set(
        xlabel="trial, in the order of starting",
        ylabel=f"best validation {format_score_title(report.metric)}",
        xlim=(0.4, len(report.trials) + 0.6),
    )
    _use_whole_numbers(axes)
    draw_legend(axes, outside=True)
    return render_svg(figure)


def draw_learning_curves(report: SweepReport) -> str | None:
    """Draw the score over steps: the best five trials in colour, the others grey."""
    best = list_leaders(report)
    if not best:
        return None
    curves = {
        t.name: [(e.step, choose_scale(report) * e.score) for e in t.evaluations if np.isfinite(e.score)]
        for t in report.trials
    }
    figure, (axes,) = make_panels(1, width=7.4, height=3.4)
    others = [t for t in report.trials if t not in best and curves[t.name]]
    for at, t in enumerate(others):
        x, y = zip(*curves[t.name], strict=True)
        axes.plot(x, y, color=GREY, lw=0.7, alpha=0.55, marker="." if len(x) == 1 else None, ms=3,
                  label=None if at else "others")  # fmt: skip
    for at, t in enumerate(best):
        x, y = zip(*curves[t.name], strict=True)
        axes.plot(x, y, color=COLOURS[at], ls=STYLES[at % len(STYLES)], lw=2.0, marker="o", ms=3.5,
                  label=escape_math(t.name), zorder=3)  # fmt: skip
    set_limits(axes, report, [y for points in curves.values() for _, y in points])
    title = f"validation {format_score_title(report.metric)}"
    axes.set(xlabel="optimizer step", ylabel=title, xlim=(0, None))
    draw_legend(axes, outside=True)
    return render_svg(figure)


def draw_rung_survival(report: SweepReport) -> str | None:
    """Draw how many trials reached each evaluation, and beside it the scores at each rung, survivors marked."""
    counts, rungs = count_trials_by_evaluation(report), compute_survival(report)
    if not report.rungs or not counts:
        return None
    figure, (left, right) = make_panels(2, width=9.6, height=3.5)
    x, n = zip(*counts, strict=True)
    left.bar(x, n, color=["#E69F00" if e in report.rungs else "#56B4E9" for e in x], width=0.75)
    for at, number in counts if len(counts) <= MOST_NUMBERED else []:
        write_beside(left, str(number), (at, number), (0, 2))
    left.set(xlabel="evaluation (rungs in orange)", ylabel="trials that reached it", ylim=(0, 1.12 * max(n)))
    _use_whole_numbers(left)
    set_limits(right, report, _draw_rung_scores(right, report, rungs))
    taus = {
        r.evaluation: use_minus_sign(f"τ {r.tau:.2f}, n {r.trials}")
        for r in compute_rank_correlations(report)
        if r.tau is not None
    }
    right.set_xticks(range(len(rungs)), [f"{s.evaluation}\n{taus.get(s.evaluation, '')}" for s in rungs])
    title = f"{format_score_title(report.metric)} there"
    right.set(xlabel="rung (evaluation)", ylabel=title, xlim=(-0.6, len(rungs) - 0.4))
    for axes in (left, right):
        axes.grid(visible=False, axis="x")
    draw_legend(right, outside=True)
    return render_svg(figure)


def draw_importance_bars(found: Importance | None) -> str | None:
    """Draw each key's share of the explained variance, with its 95 % interval; grey if little is explained."""
    if found is None or not found.keys:
        return None
    keys = found.keys[:MOST_KEYS]
    figure, (axes,) = make_panels(1, width=6.6, height=1.0 + 0.34 * len(keys))
    share, low, high = 100 * np.asarray([(k.share, k.low, k.high) for k in keys]).T
    rows = np.arange(len(keys))
    axes.barh(rows, share, color="#56B4E9" if found.explained >= LOW_R2 else GREY, height=0.66)
    axes.errorbar(
        share, rows, xerr=[share - low, high - share], fmt="none", ecolor=INK, elinewidth=1.1, capsize=3
    )
    for row, value in enumerate(share):
        text = use_minus_sign(f"{round(value):d}")
        axes.annotate(text, (1.0, row), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                      va="center", fontsize=9, color=INK)  # fmt: skip
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_yticks(rows, [escape_math(k.label) for k in keys])
    axes.invert_yaxis()
    limits = (min(-10.0, low.min() - 3), max(100.0, high.max()))
    axes.set(xlabel="share of the explained variance %", xlim=limits)
    axes.grid(visible=False, axis="y")
    return render_svg(figure)


def draw_scatter(axes: Axes, report: SweepReport, points: Sequence[tuple[float, TrialRow]]) -> None:
    """Draw trials at (x, best score), a marker for each status.

    Those that lie outside the axis, and broken ones without a score, are drawn on its edge.
    """
    bottom, top = axes.get_ylim()
    worst = 0.02 if report.higher_is_better else 0.98
    for status, (marker, colour) in MARKS.items():
        members = [(x, t.score) for x, t in points if t.status == status]
        scored = [(x, choose_scale(report) * score) for x, score in members if score is not None]
        inside = [(x, y) for x, y in scored if bottom <= y <= top]
        edge = [(x, 0.02 if y < bottom else 0.98) for x, y in scored if not bottom <= y <= top]
        edge += [(x, worst) for x, score in members if status in BROKEN and score is None]
        # x of the edge in data, y as a share of the axis
        for placed, transform in ((inside, axes.transData), (edge, axes.get_xaxis_transform())):
            if placed:
                x, y = zip(*placed, strict=True)
                label = None if placed is edge and inside else status
                axes.scatter(x, y, s=26, lw=1.3, zorder=3, marker=marker, c=colour, label=label,
                             transform=transform, clip_on=placed is inside)  # fmt: skip


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


def set_limits(axes: Axes, report: SweepReport, scores: Sequence[float]) -> None:
    """Set these limits, and say in a corner how many values lie outside."""
    finite = [s for s in scores if np.isfinite(s)]
    if not finite:
        return
    low, high = choose_limits(report, finite)
    axes.set_ylim(low, high)
    if outside := sum(not low <= s <= high for s in finite):
        y, va = (0.02, "bottom") if report.higher_is_better else (0.98, "top")
        text = f"{outside} worse outside"
        axes.text(0.99, y, text, transform=axes.transAxes, fontsize=8, color=INK, va=va, ha="right")


def _use_whole_numbers(axes: Axes) -> None:
    """Put the ticks of the x axis at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


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


def _draw_rung_scores(axes: Axes, report: SweepReport, rungs: Sequence[Survival]) -> list[float]:
    """Draw the scores at each rung, survivors right of the tick and stopped ones left of it; return them."""
    rng = np.random.default_rng(0)  # moves points apart that would lie on each other
    groups = (
        ("went on", [s.survived for s in rungs], "o", "#0072B2", 0.15),
        ("stopped here", [s.stopped for s in rungs], "v", "#E69F00", -0.15),
        ("open or broken", [s.open for s in rungs], "x", GREY, 0.0),
    )
    scores: list[float] = []
    for label, members, marker, colour, shift in groups:
        points = [
            (at + shift + float(rng.uniform(-0.09, 0.09)), choose_scale(report) * score)
            for at, (s, trials) in enumerate(zip(rungs, members, strict=True))
            for t in trials
            if (score := t.score_at(s.evaluation)) is not None
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, marker=marker, color=colour, s=20, alpha=0.85, label=label)
            scores += y
    return scores
