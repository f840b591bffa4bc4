"""Write the page about a confirmation: a sentence, a plot, the table.

Decision record: the plot shows every seed, not only means and intervals. With five seeds a reader can see the one that
makes the difference. Lines join the two arms of a seed, since the seed, not the arm, explains most of the scatter.
"""

from __future__ import annotations

from pathlib import Path

from raykd.report.drawing import GREY, INK, escape_math, make_panels, render_svg
from raykd.report.formats import format_metric_name
from raykd.report.html import Pictures, add_captions, write_html
from raykd.report.sweeps.confirmation import MACRO, SPLITS, ConfirmationReport, PairedDifference
from raykd.tasks.scores.metrics import find_metric_title

CAPTIONS = {
    "confirmation": "Left: both arms, a line for each seed. Right: the differences; a dot is a seed, the black mark "
    "the mean with its 95 % interval."
}


def draw_confirmation_figures(report: ConfirmationReport) -> Pictures:
    """Draw the plot; none where no seed was measured in both arms."""
    return add_captions({"confirmation": draw_paired_dots(report)}, CAPTIONS)


def draw_paired_dots(report: ConfirmationReport) -> str | None:
    """Draw the scores of both arms joined by seed, and the paired differences of the mean and each language."""
    main = report.main_difference
    if main is None:
        return None
    metric, scale = main.metric, main.scale
    rows = [d for d in report.compute_differences() if d.metric == metric and d.split in SPLITS]
    figure, (left, right) = make_panels(2, width=9.6, height=max(2.8, 1.0 + 0.36 * len(rows)))
    for _, one, two in report.pair_scores(main.split, main.language, metric):
        left.plot([0, 1], [scale * two, scale * one], color=GREY, lw=1.0, zorder=1)
        left.scatter([0], [scale * two], color=GREY, s=30, zorder=2)
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
    names = [f"{d.split} {'mean' if d.language == MACRO else d.language}" for d in rows]
    right.set_yticks(range(len(rows)), names)
    right.invert_yaxis()
    right.margins(y=0.12)
    title = f"{report.arms[0]} − {report.arms[1]}, {format_metric_name(metric)} {main.unit}"
    right.set_xlabel(escape_math(title.rstrip()))
    right.grid(visible=False, axis="y")
    return render_svg(figure)


def write_confirmation_page(report: ConfirmationReport, path: Path, pictures: Pictures) -> Path:
    """Write the page, with what `draw_confirmation_figures` drew, and return its path."""
    main = report.main_difference
    missing = "; ".join(report.list_missing())
    return write_html(
        path,
        "confirmation.html.j2",
        pictures,
        report=report,
        headline=[] if main is None else _summarize(report, main),
        notes=[*report.notes, *([f"Not measured: {missing}; its partner is left out."] if missing else [])],
        table=report.to_cells(),
        roles=["student" if d == main else "" for d in report.compute_differences()],
    )


def _summarize(report: ConfirmationReport, d: PairedDifference) -> list[tuple[str, str, str]]:
    """What a reader looks for first, each as (what, number, remark)."""
    first, second = report.arms
    interval = "one seed, no interval"
    if d.interval is not None:
        interval = f"{d.unit}, 95 % interval {d.interval}".lstrip(", ")
    where = f"{d.split} {format_metric_name(d.metric)}, mean over languages and {d.seeds} seeds"
    percent = " %" if d.scale == 100 else ""
    return [
        (f"{first} − {second}", d.format(d.mean), interval),
        *((arm, mean + percent, where) for arm, mean in zip(report.arms, d.format_means(), strict=True)),
        ("seeds won", f"{d.wins} of {d.seeds}", f"by {first}" + (f", {d.ties} equal" if d.ties else "")),
    ]
