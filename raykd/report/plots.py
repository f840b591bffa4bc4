"""Draw the plots of a run, each as an SVG text, or None where there is nothing to draw.

Decision record: teachers, ensemble, baseline and student keep their colours through all plots. Bars start at zero and
carry their number, since the differences that matter are small. Languages are panels, not groups of bars, so that eight
systems in many languages stay readable. Texts are codes and names, never words of a language.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED
from raykd.point import Point
from raykd.report.drawing import (
    COLOURS,
    GREY,
    INK,
    STYLES,
    draw_legend,
    draw_line,
    escape_math,
    make_panels,
    render_svg,
    write_beside,
)
from raykd.report.formats import ABSENT
from raykd.report.results import Agreement, Predictions, Role
from raykd.report.table import ResultTable, format_system
from raykd.tasks.scores.classification import (
    ECE_BINS,
    compute_calibration_bins,
    log_softmax,
)
from raykd.tasks.scores.metrics import find_metric_title, is_rate

History = Mapping[str, Sequence[tuple[int, float]]]
"""Metric name to (step, value) in the order of steps."""
ROLE_COLOURS: Mapping[Role, str] = {
    "teacher": "#56B4E9", "ensemble": "#0072B2", "baseline": GREY, "student": "#D55E00",
}  # fmt: skip
LEAST_LABELLED = 8
"""Per cent of a stacked bar below which its number does not fit into it."""


def collect_curves(points: Sequence[Point]) -> dict[str, list[tuple[int, float]]]:
    """Return a curve for each metric. A resumed run may tell a step twice; the later value stays."""
    curves: dict[str, dict[int, float]] = {}
    for point in points:
        for name, value in point.values.items():
            curves.setdefault(name, {})[point.step] = float(value)
    return {name: sorted(values.items()) for name, values in curves.items()}


def draw_training_curves(curves: History) -> str | None:
    """Draw the training loss and its parts over steps."""
    names = _select(curves, "train/loss", "train/hard") + [n for n in curves if n.startswith("train/soft/")]
    lines = {name.removeprefix("train/"): name for name in names}
    panel = CurvePanel("loss / nats per unit", lines, thick="loss")
    return _draw_curves(curves, [panel], width=6.4, height=3.4)


def draw_evaluation_curves(curves: History, metrics: Sequence[str] = ("accuracy", "nll")) -> str | None:
    """Draw validation metrics over steps, a panel each: the mean over languages thick, each language thin."""
    panels = []
    for metric in metrics:
        names = [n for n in curves if n.startswith("eval/") and n.endswith(f"/{metric}")]
        # the mean comes first, so that it has the same colour in every panel
        names.sort(key=lambda name: name != f"eval/mean/{metric}")
        lines = {name.split("/")[1]: name for name in names}
        scale = 100.0 if is_rate(metric) else 1.0
        panels.append(CurvePanel(f"validation {find_metric_title(metric)}", lines, scale, thick="mean"))
    return _draw_curves(curves, panels, width=4.4, height=3.4)


def draw_schedule_curves(curves: History) -> str | None:
    """Draw alpha and lambda in one panel and the temperature in another, over steps."""
    shares = _select(curves, "train/alpha") + [n for n in curves if n.startswith("train/lambda/")]
    lines = {name.removeprefix("train/").replace("lambda/", "lambda "): name for name in shares}
    heat = {name.removeprefix("train/"): name for name in _select(curves, "train/temperature")}
    panels = [CurvePanel("weight", lines, least=0.0), CurvePanel("temperature", heat, least=0.0)]
    return _draw_curves(curves, panels, width=3.0, height=3.0)


def draw_language_bars(table: ResultTable) -> str | None:
    """Draw a panel for each language and for the mean, a bar for each system; what is not measured has no bar."""
    names, systems = table.languages, table.systems
    if not names:
        return None
    metric = table.metrics[0]
    scale, digits = (100.0, 1) if is_rate(metric) else (1.0, 3)
    panes = len(names) + 1
    figure, panels = make_panels(
        panes, width=2.6 + 1.75 * panes, height=1.0 + 0.32 * len(systems), sharey=True
    )
    for axes, name in zip(panels, [*names, "mean"], strict=True):
        for at, (p, s) in enumerate(systems):
            # a mean over fewer languages cannot be compared with the others
            mean = s.macro if len(s.by_language) == len(names) else None
            values = mean if name == "mean" else s.by_language.get(name)
            value = 0.0 if values is None else scale * values[metric]
            if values is not None:
                axes.barh(at, value, color=ROLE_COLOURS[p.role], height=0.72)
            write_beside(axes, ABSENT if values is None else f"{value:.{digits}f}", (value, at), (4, 0))
        axes.set_title(name, fontsize=10, color=INK)
        axes.margins(x=0.32)  # room for the numbers
        axes.set_xlim(left=0)
        if scale == 100:
            axes.set(xlim=(0, 128), xticks=[0, 50, 100])
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(systems)), [escape_math(format_system(p)) for p, _ in systems])
    panels[0].invert_yaxis()
    figure.supxlabel(find_metric_title(metric), fontsize=10, color=INK)
    return render_svg(figure)


def draw_reliability(systems: Sequence[Predictions]) -> str | None:
    """Draw accuracy over confidence in 15 bins (above) and how often each confidence occurs (below).

    The calibration error stands in the table, as a mean over languages; another one of all rows would contradict it.
    """
    sure = [(p, confidence_N, right_N) for p in systems for confidence_N, right_N in [_confidence(p)]]
    sure = [(p, confidence_N, right_N) for p, confidence_N, right_N in sure if len(confidence_N)]
    if not sure:
        return None
    figure, (upper, lower) = make_panels(2, width=5.4, height=5.4, rows=True)
    upper.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=":")
    for at, (p, confidence_N, right_N) in enumerate(sure, 1):
        colour, style = ROLE_COLOURS[p.role], STYLES[at % len(STYLES)]
        bins = [row for row in compute_calibration_bins(confidence_N, right_N) if row[0]]
        x, y = [100 * c for _, c, _ in bins], [100 * a for _, _, a in bins]
        label = escape_math(format_system(p))
        upper.plot(x, y, marker="o", ms=4, lw=1.6, label=label, color=colour, ls=style)
        counts, edges = np.histogram(confidence_N, bins=ECE_BINS, range=(0, 1))
        lower.stairs(100 * counts / len(confidence_N), 100 * edges, lw=1.6, color=colour, ls=style)
    # No prediction is less sure than chance, so the axis begins there.
    least = 100 / max(p.logits_NC.shape[1] for p, _, _ in sure)
    upper.set(ylabel="accuracy %", xlim=(least - 2, 101), ylim=(0, 102))
    confidence = f"confidence % ({ECE_BINS} bins)"
    lower.set(xlabel=confidence, ylabel="rows %", xlim=(least - 2, 101), ylim=(0, None))
    draw_legend(upper)
    return render_svg(figure)


def draw_agreement_map(matrix: Agreement, titles: Sequence[str]) -> str | None:
    """Draw a heat map of how often two systems choose the same label; a dash where they share no row."""
    size = len(matrix.names)
    if size < 2:
        return None
    figure, (axes,) = make_panels(1, width=2.4 + 0.72 * size, height=1.7 + 0.5 * size)
    share_SS = 100 * matrix.share_SS
    # at least five points of the scale, else systems that nearly agree would look far apart
    low = min(float(np.nanmin(share_SS)), 95.0)
    image = axes.imshow(share_SS, cmap="cividis", vmin=low, vmax=100, aspect="auto")
    for a, b in itertools.product(range(size), repeat=2):
        share = share_SS[a, b]
        unknown, dark = np.isnan(share), share < (low + 100) / 2
        text, colour = (ABSENT, INK) if unknown else (f"{share:.0f}", "white" if dark else "black")
        axes.text(b, a, text, ha="center", va="center", color=colour, fontsize=9)
    names = [escape_math(name) for name in titles]
    axes.set_xticks(range(size), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), names)
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, fraction=0.05)
    bar.set_label("same label, % of shared rows", color=INK)
    bar.ax.tick_params(colors=INK)
    return render_svg(figure)


def draw_weight_bars(weights: Mapping[str, Mapping[str, float]]) -> str | None:
    """Draw the mean weight of each teacher in each language, stacked to 100 %.

    Args:
        weights: Teacher to language to weight, in [0, 1].
    """
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
            if value >= LEAST_LABELLED:
                middle = left[row] + value / 2
                axes.text(middle, row, f"{value:.0f}", ha="center", va="center", fontsize=9, color="black")
        left += share
    axes.set_yticks(range(len(languages)), languages)
    axes.invert_yaxis()
    axes.set(xlabel="mean weight %", ylabel="language", xlim=(0, 100))
    axes.grid(visible=False, axis="y")
    draw_legend(axes, outside=True)
    return render_svg(figure)


def draw_weight_curves(curves: History) -> str | None:
    """Draw the mean weight of each teacher over steps."""
    lines = {n.split("/")[1]: n for n in curves if n.startswith("teacher/") and n.endswith("/weight")}
    panel = CurvePanel("mean weight %", lines, scale=100.0, least=0.0)
    return _draw_curves(curves, [panel], width=5.8, height=2.8, outside=True)


@dataclass(frozen=True)
class CurvePanel:
    """One panel of curves over optimizer steps.

    Attributes:
        title: Of the y axis.
        lines: Label to the name of the curve.
        scale: Factor of the values.
        least: Where the y axis begins; None lets the curves decide.
        thick: Label of the curve that stands out.
    """

    title: str
    lines: Mapping[str, str]
    scale: float = 1.0
    least: float | None = None
    thick: str = ""


def _draw_curves(
    curves: History, panels: Sequence[CurvePanel], *, width: float, height: float, outside: bool = False
) -> str | None:
    """Draw the panels that have a curve side by side, each ``width`` x ``height`` inches."""
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        return None
    figure, axes_list = make_panels(len(panels), width=width * len(panels) + 0.6, height=height)
    for axes, panel in zip(axes_list, panels, strict=True):
        for at, (label, name) in enumerate(panel.lines.items()):
            thickness = 2.2 if label == panel.thick else 1.3
            draw_line(axes, curves[name], label, at, scale=panel.scale, width=thickness)
        axes.set(xlabel="optimizer step", ylabel=panel.title)
        axes.set_ylim(bottom=panel.least)
        draw_legend(axes, outside)
    return render_svg(figure)


def _select(curves: History, *names: str) -> list[str]:
    """Return which of these curves have a point."""
    return [name for name in names if curves.get(name)]


def _confidence(p: Predictions) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return confidence and correctness of the covered, labelled units; empty where there are no labels."""
    counted_N = p.covered_N & (p.labels_N != UNLABELLED)
    if not counted_N.any() or not p.logits_NC.shape[1]:
        return np.zeros(0), np.zeros(0, dtype=bool)
    logp_NC = log_softmax(p.logits_NC[counted_N])
    return np.exp(logp_NC.max(axis=1)), logp_NC.argmax(axis=1) == p.labels_N[counted_N]
