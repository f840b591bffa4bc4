"""Write the page about one sweep.

Decision record: the page answers in the order in which a reader asks: what won and how to run it again, how the trials
went, which key mattered, whether stopping early was right, then everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from raykd.report.charts import Charts, add_captions
from raykd.report.formats import ABSENT, format_metric, format_metric_name, format_value, use_minus_sign
from raykd.report.html import write_html
from raykd.report.key_names import fold_sample, shorten_names
from raykd.report.record import SWEEP, write_record
from raykd.report.sweeps import plots, search_plots
from raykd.report.sweeps.importance import explain_missing_importance
from raykd.report.sweeps.rungs import RungAgreement, compute_rank_correlations, describe_rungs
from raykd.report.sweeps.trial_table import TrialTable, describe_sample, strip_metric_path
from raykd.report.sweeps.trials import BROKEN, SweepReport
from raykd.tasks.scores.metrics import is_rate

CAPTIONS: Mapping[str, str] = {
    "objective": "The best score of each trial, and the best so far of the trials that can win. Marks at the edge: no "
    "score, or one far outside.",
    "learning_curves": "The validation rows while the best five trials learn; the other trials are grey.",
    "importance": "How much of the score's predictable variance depends on each key, and the 95 % interval over "
    "trials. An interval that reaches 0 says that the key may not matter at all.",
    "parallel_coordinates": "A line is a trial, from its values to its score; the best five are in colour. A dash: the "
    "key is inactive in this trial.",
    "slices": "The best score of each trial over one key at a time. Trials that were stopped had less time to score.",
    "rungs": "Left: how many trials reached each evaluation. Right: the scores with which the scheduler judged. τ: "
    "Kendall's tau with the last scores of n trials that ran to their end.",
}


def draw_sweep_figures(report: SweepReport) -> Charts:
    """Draw every chart that this sweep has data for."""
    drawn = {
        "objective": plots.draw_objective_by_trial(report),
        "learning_curves": plots.draw_learning_curves(report),
        "importance": plots.draw_importance_bars(report.importance),
        "parallel_coordinates": search_plots.draw_parallel_coordinates(report),
        "slices": search_plots.draw_slices(report),
        "rungs": plots.draw_rung_survival(report),
    }
    return add_captions(drawn, CAPTIONS)


def write_sweep_page(report: SweepReport, path: Path) -> Path:
    """Write the page, and ``sweep.json`` beside it; return the page's path."""
    write_record(path.parent / SWEEP, report)
    found, table = report.importance, TrialTable(report)
    names, ranked = shorten_names(report.shown_keys), report.rank_trials()
    correlations = compute_rank_correlations(report)
    return write_html(
        path,
        "sweep.html.j2",
        draw_sweep_figures(report),
        report=report,
        headline=summarize_sweep(report),
        text=format_value,
        folded=fold_sample,
        importance_says=found.describe() if found else explain_missing_importance(report),
        rungs_say=describe_rungs(correlations),
        rungs=build_rung_cells(correlations),
        table=table.to_cells(),
        sizes=table.size_cells(),
        size_remarks=table.size_remarks,
        ranked=ranked,
        broken=BROKEN,
        paths={short: key for key, short in names.items()},
        errors=[(t, describe_sample(t.sample, names)) for t in ranked if t.status in BROKEN or t.error],
        teachers=build_teacher_cells(report),
    )


def summarize_sweep(report: SweepReport) -> list[tuple[str, str, str]]:
    """Return what a reader looks for first, each as (what, number, remark)."""
    best, name = report.best, strip_metric_path(report.metric)
    if best is None:
        cards = [("best trial", ABSENT, "no trial has a score that counts")]
    else:
        nll = "" if best.nll is None or name == "nll" else f", NLL {best.nll:.3f}"
        remark = f"validation {format_metric_name(name)}{nll}, at step {best.best_step:,}"
        score = format_metric(name, best.score, compared=True) + (" %" if is_rate(name) else "")
        cards = [(f"best trial: {best.name}", score, remark)]
    statuses = ", ".join(f"{n} {status}" for status, n in report.by_status.items())
    cards.append(("trials", str(len(report.trials)), statuses))
    run, planned = sum(t.last_step for t in report.trials), sum(t.total_steps for t in report.trials)
    if planned:
        remark = f"{run:,} of {planned:,} that all trials would take"
        cards.append(("steps that were run", f"{run / planned:.0%}", remark))
    passes = summarize_teacher_passes(report)
    return cards if passes is None else [*cards, passes]


def build_rung_cells(found: Sequence[RungAgreement]) -> list[list[str]]:
    """Return a row for each rung; none if nothing is known of any."""
    if all(r.tau is None for r in found):
        return []
    taus = [ABSENT if r.tau is None else use_minus_sign(f"{r.tau:.2f}") for r in found]
    return [[str(r.evaluation), tau, str(r.trials)] for r, tau in zip(found, taus, strict=True)]


def summarize_teacher_passes(report: SweepReport) -> tuple[str, str, str] | None:
    """Return how often a text went through a teacher and how often trials asked for one; None without counters.

    Where the number of distinct texts is not known, the forward passes are counted instead.
    """
    texts, forwarded, answered = (
        sum(float(counters.get(name, 0)) for counters in report.teachers.values())
        for name in ("texts", "forwarded", "answered")
    )
    if not answered or not any("forwarded" in counters for counters in report.teachers.values()):
        return None
    if texts:
        asked = f"trials asked {answered / texts:.1f} times"
        return "teacher passes per text", f"{forwarded / texts:.2f}", asked
    return "teacher forward passes", f"{forwarded:,.0f}", f"for {answered:,.0f} texts that were asked for"


def build_teacher_cells(report: SweepReport) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the teachers' counters as texts."""
    counters = list(dict.fromkeys(name for by in report.teachers.values() for name in by))
    heads = [name.replace("_rate", " %").replace("_", " ") for name in counters]
    lines = [
        [t, *(_format_counter(name, by.get(name)) for name in counters)] for t, by in report.teachers.items()
    ]
    return ["teacher", *heads], lines if counters else []


def _format_counter(name: str, value: float | None) -> str:
    if value is None:
        return ABSENT
    if name.endswith("_rate"):
        return f"{100 * value:.1f}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"
