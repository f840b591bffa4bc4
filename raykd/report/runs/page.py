"""Write the page about one run, and the same as JSON beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from raykd.report.charts import Charts, add_captions
from raykd.report.classes import (
    draw_confusions,
    list_class_cells,
    list_frequent_confusions,
    name_classes,
)
from raykd.report.costs import COST_TITLE
from raykd.report.ensembles.page import build_page_values
from raykd.report.forgetting import FORGETTING_TITLE
from raykd.report.formats import ABSENT, format_count, format_metric, format_metric_name
from raykd.report.html import write_html
from raykd.report.plots import (
    draw_agreement_map,
    draw_evaluation_curves,
    draw_language_bars,
    draw_reliability,
    draw_schedule_curves,
    draw_training_curves,
    draw_weight_bars,
    draw_weight_curves,
)
from raykd.report.record import RUN, write_record
from raykd.report.runs.report import RunReport
from raykd.report.table import ResultTable, format_system
from raykd.report.time_bar import TIME_TITLE
from raykd.tasks.scores.metrics import AGREEMENT, find_metric_title, is_rate, name_agreement

CAPTIONS: Mapping[str, str] = {
    "languages": "Each system in each language, and the mean of the systems that are measured on all languages.",
    "evaluation": "The student on the validation rows while it learns.",
    "training": "Training loss and its parts: hard is against gold labels, soft/* against the teachers. "
    "Long curves are averaged over neighbouring steps.",
    "schedules": "What the schedules did: alpha weighs the hard term, lambda each soft term.",
    "reliability": "Above: how often a system is right, over how sure it is. On the dotted line it is right as "
    "often as it is sure. Below: how often it is that sure.",
    "agreement": "How often two systems choose the same label, right or wrong. A dash: they share no row.",
    "confusions": "Which class of gold (down) is taken for which (across). Colours are shares of each row.",
    "weights": "How much each teacher counted in each language, on average. One that the student had surpassed at the "
    "end counts nothing.",
    "weights_over_steps": "How much each teacher counted, over all languages of a step.",
}


def draw_run_figures(report: RunReport) -> Charts:
    """Draw every chart that this run has data for."""
    metrics = report.table.metrics
    # The validation rows may have gold labels where the held-out rows have none, and the other way round.
    first = metrics[0].removeprefix(f"{AGREEMENT}_") if metrics and metrics[0] != AGREEMENT else "accuracy"
    drawn = {
        "languages": draw_language_bars(report.table),
        "evaluation": draw_evaluation_curves(
            report.history, list(dict.fromkeys([first, name_agreement(first), "nll", name_agreement("nll")]))
        ),
        "training": draw_training_curves(report.history),
        "schedules": draw_schedule_curves(report.history),
        "reliability": draw_reliability(report.calibration),
        "agreement": None
        if report.agreement is None
        else draw_agreement_map(report.agreement, {p.name: format_system(p) for p, _ in report.systems}),
        "confusions": draw_confusions(next(iter(report.classes.values()), None)),
        "weights": draw_weight_bars({t.name: t.weights for t in report.teachers if t.weights}),
        "weights_over_steps": draw_weight_curves(report.history),
    }
    return add_captions(drawn, CAPTIONS)


def write_run_page(report: RunReport, path: Path) -> Path:
    """Write the page to ``path``, and ``report.json`` beside it.

    Returns:
        The path of the page.
    """
    table, charts = report.table, draw_run_figures(report)
    write_html(
        path,
        "page.html.j2",
        charts,
        report=report,
        headline=summarize_run(table),
        table=table,
        costs_title=COST_TITLE,
        forgetting_title=FORGETTING_TITLE,
        times_title=TIME_TITLE,
        ensemble=None
        if report.ensemble is None
        else build_page_values(report.ensemble, with_sizes=report.costs is None),
        monolingual=any(
            s.by_language and len(s.by_language) < len(table.languages) for _, s in table.systems
        ),
        teachers=_list_teacher_cells(report),
        **_list_class_values(report, drawn="confusions" in charts),
    )
    write_record(path.parent / RUN, report.to_json())
    return path


def _list_class_values(report: RunReport, *, drawn: bool) -> dict[str, object]:
    """Return what the template shows of single classes: those of the student, other systems' F1 beside them."""
    if not report.classes:
        return {"classes": None, "classes_title": "", "confusions": None}
    (name, scores), *others = report.classes.items()
    return {
        "classes": list_class_cells(scores, dict(others[::-1])),
        "classes_title": f"By {name_classes(scores)}: {name}",
        "confusions": None if drawn else list_frequent_confusions(scores)[1],
    }


def _list_teacher_cells(report: RunReport) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of what is known of each teacher."""
    metrics = list(dict.fromkeys(m for t in report.teachers for m in t.validation))
    heads = [
        "teacher", "languages", "parameters", *(f"validation {find_metric_title(m)}" for m in metrics),
        "ms per forward batch", "from store %", "fingerprint",
    ]  # fmt: skip
    lines = [
        [
            t.name, " ".join(t.languages) or "all",
            ABSENT if t.parameters is None else format_count(t.parameters),
            *(format_metric(m, t.validation.get(m)) for m in metrics),
            ABSENT if t.latency_ms is None else f"{t.latency_ms:.1f}",
            ABSENT if t.store_hit_rate is None else f"{100 * t.store_hit_rate:.0f}",
            t.fingerprint[:16] or ABSENT,
        ]
        for t in report.teachers
    ]  # fmt: skip
    return heads, lines


def summarize_run(table: ResultTable) -> list[tuple[str, str, str]]:
    """Return what a reader looks for first, each as (what, number, remark)."""
    cards = []
    first = table.metrics[0] if table.metrics else None
    for p, s in table.systems:
        if p.role != "teacher" and s.macro is not None and first is not None:
            unit = " %" if is_rate(first) else " nats" if first == "nll" else ""
            remark = f"mean {format_metric_name(first)}, {format_count(p.parameters)} parameters"
            cards.append((format_system(p), format_metric(first, s.macro[first]) + unit, remark))
    if (gap := table.gap) is not None:
        number, _, unit = gap.change.partition(" ")
        remark = f"{unit} of mean {format_metric_name(gap.metric)}".strip()
        remark += f" ({gap.verdict})" if gap.verdict else ""
        remark += "" if gap.closed is None else f"; {gap.closed:.0%} of the gap to the ensemble closed"
        cards.append(("distilled − undistilled", number, remark))
    return cards
