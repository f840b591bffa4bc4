"""The plots of a run, each as an SVG text, or None where there is nothing to draw.

Decision record: teachers, ensemble, baseline and student keep their colours through all plots. Bars start
at zero and carry their number, since the differences that matter are small; languages are panels, not
groups of bars, so that eight systems in many languages stay readable. Texts are codes and names, never
words of a language.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED
from raykd.point import Point
from raykd.report.drawing import (
    COLOURS,
    INK,
    STYLES,
    draw_legend,
    draw_line,
    escape_math,
    make_panels,
    render_svg,
)
from raykd.report.results import Agreement, Predictions, Role
from raykd.report.table import ResultTable, format_system
from raykd.tasks.scores.classification import (
    ECE_BINS,
    compute_calibration_bins,
    compute_calibration_error,
    log_softmax,
)
from raykd.tasks.scores.metrics import find_metric_title, is_rate

History = Mapping[str, Sequence[tuple[int, float]]]
"""Metric name to (step, value) in the order of steps."""
ROLE_COLOURS: Mapping[Role, str] = {
    "teacher": "#56B4E9", "ensemble": "#0072B2", "baseline": "#999999", "student": "#D55E00",
}  # fmt: skip


def collect_curves(points: Sequence[Point]) -> dict[str, list[tuple[int, float]]]:
    """Curves out of points; of two values for one metric and step (a resumed run) the later one stays."""
    curves: dict[str, dict[int, float]] = {}
    for point in points:
        for name, value in point.values.items():
            curves.setdefault(name, {})[point.step] = float(value)
    return {name: sorted(values.items()) for name, values in curves.items()}


def draw_training_curves(curves: History) -> str | None:
    """Loss and its parts over steps; None if there is nothing to draw."""
    names = _present(curves, "train/loss", "train/hard") + [n for n in curves if n.startswith("train/soft/")]
    if not names:
        return None
    figure, (axes,) = make_panels(1, width=7.0, height=3.4)
    for at, name in enumerate(names):
        draw_line(
            axes, curves[name], name.removeprefix("train/"), at, width=2.0 if name == "train/loss" else 1.3
        )
    axes.set(xlabel="optimizer step", ylabel="loss / nats a unit")
    draw_legend(axes)
    return render_svg(figure)


def draw_evaluation_curves(curves: History, metrics: Sequence[str] = ("accuracy", "nll")) -> str | None:
    """Validation metrics over steps, a panel each: the mean over languages thick, each language thin."""
    shown = [m for m in metrics if any(n.startswith("eval/") and n.endswith(f"/{m}") for n in curves)]
    if not shown:
        return None
    figure, panels = make_panels(len(shown), width=4.4 * len(shown) + 0.6, height=3.4)
    for axes, metric in zip(panels, shown, strict=True):
        scale = 100.0 if is_rate(metric) else 1.0
        names = [
            n for n in curves if n.startswith("eval/") and n.endswith(f"/{metric}") and "/mean/" not in n
        ]
        for at, name in enumerate(names):
            draw_line(axes, curves[name], name.split("/")[1], at + 1, scale=scale)
        if f"eval/mean/{metric}" in curves:
            draw_line(axes, curves[f"eval/mean/{metric}"], "mean", 0, scale=scale, width=2.4)
        axes.set(xlabel="optimizer step", ylabel=f"validation {find_metric_title(metric)}")
        draw_legend(axes)
    return render_svg(figure)


def draw_schedule_curves(curves: History) -> str | None:
    """Alpha and lambda in one panel, temperature in another, over steps."""
    shares = _present(curves, "train/alpha") + [n for n in curves if n.startswith("train/lambda/")]
    groups = [(shares, "weight"), (_present(curves, "train/temperature"), "temperature")]
    groups = [(names, title) for names, title in groups if names]
    if not groups:
        return None
    figure, panels = make_panels(len(groups), width=3.0 * len(groups) + 0.6, height=3.0)
    for axes, (names, title) in zip(panels, groups, strict=True):
        for at, name in enumerate(names):
            label = name.removeprefix("train/").replace("lambda/", "lambda ")
            draw_line(axes, curves[name], label, at)
        axes.set(xlabel="optimizer step", ylabel=title, ylim=(0, None))
        draw_legend(axes)
    return render_svg(figure)


def draw_language_bars(table: ResultTable, metric: str | None = None) -> str | None:
    """A panel for each language and for the mean, a bar for each system; what is not measured has no bar."""
    names = table.languages
    metric = metric or (table.metrics[0] if table.metrics else None)
    if metric is None or not names:
        return None
    systems = table.systems
    figure, panels = make_panels(
        len(names) + 1, width=2.6 + 1.75 * (len(names) + 1), height=1.0 + 0.32 * len(systems), sharey=True
    )
    scale = 100.0 if is_rate(metric) else 1.0
    for axes, name in zip(panels, [*names, "mean"], strict=True):
        for at, (p, s) in enumerate(systems):
            whole = len(s.by_language) == len(names)
            values = (s.macro if whole else None) if name == "mean" else s.by_language.get(name)
            value = None if values is None else scale * values[metric]
            if value is not None:
                axes.barh(at, value, color=ROLE_COLOURS[p.role], height=0.72)
            text = "–" if value is None else f"{value:.1f}" if scale == 100 else f"{value:.3f}"
            axes.annotate(
                text, (value or 0, at), (4, 0), textcoords="offset points", va="center", fontsize=9, color=INK
            )
        axes.set_title(name, fontsize=10, color=INK)
        axes.margins(x=0.32)
        axes.set_xlim(left=0)
        if scale == 100:
            axes.set_xlim(0, 128)
            axes.set_xticks([0, 50, 100])
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(systems)), [escape_math(format_system(p)) for p, _ in systems])
    panels[0].invert_yaxis()
    figure.supxlabel(find_metric_title(metric), fontsize=10, color=INK)
    return render_svg(figure)


def draw_reliability(systems: Sequence[Predictions]) -> str | None:
    """Accuracy over confidence in 15 bins (above) and how often each confidence occurs (below)."""
    figure, panels = make_panels(2, width=5.4, height=5.4, rows=True)
    upper, lower = panels
    upper.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=":")
    drawn = 0
    for p in systems:
        confidence_N, correct_N = _confidence(p)
        if not len(confidence_N):
            continue
        drawn += 1
        bins = [row for row in compute_calibration_bins(confidence_N, correct_N) if row[0]]
        ece = 100 * compute_calibration_error(confidence_N, correct_N)
        style: dict[str, Any] = {"color": ROLE_COLOURS[p.role], "ls": STYLES[drawn % len(STYLES)]}
        x, y = [100 * c for _, c, _ in bins], [100 * a for _, _, a in bins]
        upper.plot(
            x, y, marker="o", ms=4, lw=1.6, label=f"{escape_math(format_system(p))}, ECE {ece:.1f} %", **style
        )
        shares, edges = np.histogram(confidence_N, bins=ECE_BINS, range=(0, 1))
        lower.stairs(100 * shares / len(confidence_N), 100 * edges, lw=1.6, **style)
    # no prediction is less sure than chance
    least = 100 / max((p.logits_NC.shape[1] for p in systems if p.logits_NC.shape[1]), default=1)
    upper.set(ylabel="accuracy %", xlim=(least - 2, 101), ylim=(0, 102))
    lower.set(
        xlabel=f"confidence % ({ECE_BINS} bins)", ylabel="rows %", xlim=(least - 2, 101), ylim=(0, None)
    )
    draw_legend(upper)
    return render_svg(figure) if drawn else None


def draw_agreement_map(matrix: Agreement, titles: Sequence[str] | None = None) -> str | None:
    """Heat map of how often two systems choose the same label; empty where they share no row."""
    size = len(matrix.names)
    if size < 2:
        return None
    figure, (axes,) = make_panels(1, width=2.4 + 0.72 * size, height=1.7 + 0.5 * size)
    low = float(np.nanmin(matrix.share_SS)) * 100
    image = axes.imshow(100 * matrix.share_SS, cmap="cividis", vmin=min(low, 95.0), vmax=100, aspect="auto")
    for a, b in itertools.product(range(size), repeat=2):
        share = 100 * matrix.share_SS[a, b]
        light = np.isfinite(share) and share < (min(low, 95.0) + 100) / 2
        colour = INK if np.isnan(share) else "white" if light else "black"
        axes.text(
            b,
            a,
            "–" if np.isnan(share) else f"{share:.0f}",
            ha="center",
            va="center",
            color=colour,
            fontsize=9,
        )
    names = [escape_math(name) for name in titles or matrix.names]
    axes.set_xticks(range(size), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), names)
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, fraction=0.05)
    bar.set_label("same label, % of shared rows", color=INK)
    bar.ax.tick_params(colors=INK)
    return render_svg(figure)


def draw_weight_bars(weights: Mapping[str, Mapping[str, float]]) -> str | None:
    """Mean weight of each teacher in each language (``weights[teacher][language]``), stacked to 100 %."""
    languages = list(dict.fromkeys(language for by in weights.values() for language in by))
    if not languages:
        return None
    figure, (axes,) = make_panels(1, width=6.4, height=1.3 + 0.42 * len(languages))
    left = np.zeros(len(languages))
    for at, (teacher, by) in enumerate(weights.items()):
        share = np.asarray([100 * by.get(language, 0.0) for language in languages])
        axes.barh(range(len(languages)), share, left=left, color=COLOURS[at % len(COLOURS)], height=0.7,
                  label=escape_math(teacher), hatch="//" if at >= len(COLOURS) else None)  # fmt: skip
        for row, value in enumerate(share):
            if value >= 8:
                axes.text(
                    left[row] + value / 2,
                    row,
                    f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="black",
                )
        left += share
    axes.set_yticks(range(len(languages)), languages)
    axes.invert_yaxis()
    axes.set(xlabel="mean weight %", ylabel="language", xlim=(0, 100))
    axes.grid(visible=False, axis="y")
    draw_legend(axes, outside=True)
    return render_svg(figure)


def draw_weight_curves(curves: History) -> str | None:
    """Mean weight of each teacher over steps."""
    names = [n for n in curves if n.startswith("teacher/") and n.endswith("/weight")]
    if not names:
        return None
    figure, (axes,) = make_panels(1, width=6.4, height=2.8)
    for at, name in enumerate(names):
        draw_line(axes, curves[name], name.split("/")[1], at, scale=100)
    axes.set(xlabel="optimizer step", ylabel="mean weight %", ylim=(0, None))
    draw_legend(axes, outside=True)
    return render_svg(figure)


def _present(curves: History, *names: str) -> list[str]:
    return [name for name in names if curves.get(name)]


def _confidence(p: Predictions) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence and correctness of the covered, labelled units."""
    counted_N = p.covered_N & (p.labels_N != UNLABELLED)
    if not counted_N.any() or not p.logits_NC.shape[1]:
        return np.zeros(0), np.zeros(0, dtype=bool)
    logp_NC = log_softmax(p.logits_NC[counted_N])
    return np.exp(logp_NC.max(axis=1)), logp_NC.argmax(axis=1) == p.labels_N[counted_N]
