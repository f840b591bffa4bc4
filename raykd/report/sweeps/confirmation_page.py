"""One small page about a confirmation: a sentence, a plot, the table; see `page` for why it is a static file.

Decision record: the plot shows every seed, not only means and intervals: with five seeds a reader can see the one that
makes the difference. Lines join the two arms of a seed, since the seed, not the arm, explains most of the scatter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from raykd.report.drawing import INK, escape_math, make_panels, render_svg
from raykd.report.page import load_template
from raykd.report.sweeps.confirmation import (
    MACRO,
    SPLITS,
    ConfirmationReport,
    PairedDifference,
    format_difference,
)
from raykd.tasks.scores.metrics import find_metric_title

CAPTION = (
    "Left: both arms, a line for each seed. Right: the differences; a dot is a seed, the black mark the mean with its "
    "95 % interval."
)


def draw_confirmation_figures(report: ConfirmationReport) -> dict[str, tuple[str, str]]:
    """Name to (SVG, caption); empty where no seed was measured in both arms."""
    svg = draw_paired_dots(report)
    return {} if svg is None else {"confirmation": (svg, CAPTION)}


def draw_paired_dots(report: ConfirmationReport) -> str | None:
    """Scores of both arms joined by seed, and paired differences of the mean and each language."""
    main = report.main_difference
    if main is None:
        return None
    metric, scale = main.metric, main.unit[0]
    rows = [d for d in report.compute_differences() if d.metric == metric and d.split in SPLITS]
    figure, (left, right) = make_panels(2, width=9.6, height=max(2.8, 1.0 + 0.36 * len(rows)))
    for _, one, two in report.pair_scores(main.split, main.language, metric):
        left.plot([0, 1], [scale * two, scale * one], color="#999999", lw=1.0, zorder=1)
        left.scatter([0], [scale * two], color="#999999", s=30, zorder=2)
        left.scatter([1], [scale * one], color="#D55E00", s=30, zorder=2)
    left.set_xticks([0, 1], [escape_math(arm) for arm in reversed(report.arms)])
    left.set(xlim=(-0.4, 1.4), ylabel=f"{main.split} {find_metric_title(metric)}")
    left.grid(visible=False, axis="x")
    for at, d in enumerate(rows):
        apart = [scale * (one - two) for _, one, two in report.pair_scores(d.split, d.language, metric)]
        right.scatter(apart, [at] * len(apart), color="#D55E00", s=22, alpha=0.7, zorder=2)
        if d.low is not None and d.high is not None:
            right.plot([scale * d.low, scale * d.high], [at, at], color=INK, lw=1.6, zorder=3)
        right.scatter([scale * d.mean], [at], marker="D", s=26, c=INK, zorder=4)
    right.axvline(0, color=INK, lw=0.8, ls=":")
    right.set_yticks(
        range(len(rows)), [f"{d.split} {'mean' if d.language == MACRO else d.language}" for d in rows]
    )
    right.invert_yaxis()
    right.margins(y=0.12)
    right.set_xlabel(
        escape_math(f"{report.arms[0]} − {report.arms[1]}, {_title(metric)} {main.unit[1]}".rstrip())
    )
    right.grid(visible=False, axis="y")
    return render_svg(figure)


def write_confirmation_page(
    report: ConfirmationReport, path: Path, pictures: Mapping[str, tuple[str, str]] | None = None
) -> Path:
    """Write the page to ``path``, with ``pictures`` if `draw_confirmation_figures` drew them already."""
    from markupsafe import Markup

    main = report.main_difference
    missing = report.list_missing()
    notes = [
        *report.notes,
        *([f"Not measured: {'; '.join(missing)}; its partner is left out."] if missing else []),
    ]
    html = load_template("confirmation.html.j2").render(
        report=report,
        headline=[] if main is None else _headline(report, main),
        notes=notes,
        figures={
            k: (Markup(svg), caption)
            for k, (svg, caption) in (pictures or draw_confirmation_figures(report)).items()
        },
        table=report.to_cells(),
        roles=["student" if d == main else "" for d in report.compute_differences()],
        script="",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path


def _headline(report: ConfirmationReport, d: PairedDifference) -> list[tuple[str, str, str]]:
    """(what, number, remark) of what a reader looks for first."""
    interval = "one seed, no interval"
    if d.low is not None and d.high is not None:
        interval = f"{d.unit[1]}, 95 % interval {format_difference(d, d.low)} to {format_difference(d, d.high)}".lstrip(
            ", "
        )
    where = f"{d.split} {_title(d.metric)}, mean over languages and {d.seeds} seeds"
    scale = d.unit[0]
    means = [f"{scale * m:.2f} %" if scale == 100 else f"{m:.3f}" for m in d.means]
    return [
        (f"{report.arms[0]} − {report.arms[1]}", format_difference(d, d.mean), interval),
        *((arm, mean, where) for arm, mean in zip(report.arms, means, strict=True)),
        (
            "seeds won",
            f"{d.wins} of {d.seeds}",
            f"by {report.arms[0]}" + (f", {d.ties} equal" if d.ties else ""),
        ),
    ]


def _title(metric: str) -> str:
    return find_metric_title(metric).split()[0]
