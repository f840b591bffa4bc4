"""Write the page about one run, and the same as JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic_core import to_jsonable_python

from raykd.parse import JsonObject
from raykd.report.costs import COST_TITLE, CostTable
from raykd.report.ensembles.page import build_page_values
from raykd.report.ensembles.report import EnsembleReport
from raykd.report.formats import ABSENT, format_count, format_metric, format_metric_name
from raykd.report.html import Pictures, add_captions, write_html
from raykd.report.plots import (
    History,
    draw_agreement_map,
    draw_evaluation_curves,
    draw_language_bars,
    draw_reliability,
    draw_schedule_curves,
    draw_training_curves,
    draw_weight_bars,
    draw_weight_curves,
)
from raykd.report.results import Predictions, Score, compute_agreement
from raykd.report.table import ResultTable, format_system
from raykd.report.time_bar import TIME_TITLE, TimeBar
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
    "weights": "How much each teacher counted in each language, on average.",
    "weights_over_steps": "How much each teacher counted, over all languages of a step.",
}


@dataclass(frozen=True)
class TeacherFacts:
    """What is known about one teacher. Written by `scoring`.

    Attributes:
        languages: Languages it was declared for; () is all.
        path: Where its weights are.
        fingerprint: Of its weights.
        validation: Metrics over its own languages.
        latency_ms: Mean milliseconds for a batch that was answered by a forward pass.
        store_hit_rate: Share of rows answered from the store, in [0, 1].
        weights: Mean weight in each language.
    """

    name: str
    languages: tuple[str, ...] = ()
    path: str = ""
    fingerprint: str = ""
    parameters: int | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    latency_ms: float | None = None
    store_hit_rate: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunReport:
    """Everything the page shows, as plain data. Written by `scoring`, read by `write_run_page`.

    Attributes:
        summary: One sentence that says what was run.
        systems: Answers and scores on the test rows.
        history: Curves by the name of their metric.
        data: Headings and rows of a table, for example rows by split and language.
        config: The resolved YAML.
        facts: Short named values, for example duration, steps, where MLflow recorded it.
        notes: What a reader must know, for example uncovered units or skipped rows.
        metric: The metric by which the run is judged.
        costs: The student beside its teachers; None in a run without teachers.
        times: Where the time went; None where it was not recorded.
        ensemble: What each teacher adds; None where it was not measured.
    """

    title: str
    summary: str
    systems: tuple[tuple[Predictions, Score], ...]
    history: History = field(default_factory=dict)
    teachers: tuple[TeacherFacts, ...] = ()
    data: tuple[tuple[str, ...], ...] = ()
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    created: str = ""
    metric: str | None = None
    costs: CostTable | None = None
    times: TimeBar | None = None
    ensemble: EnsembleReport | None = None

    @property
    def table(self) -> ResultTable:
        """The results as a table."""
        return ResultTable(self.systems, self.metric)

    def to_json(self) -> JsonObject:
        """Return scores and agreement, without the answers to each row, as plain data. NaN becomes null."""
        table, matrix = self.table, compute_agreement([p for p, _ in self.systems])
        elsewhere = ("systems", "ensemble")  # the latter is ensemble.json
        fields = {name: value for name, value in vars(self).items() if name not in elsewhere}
        tree = {
            **fields,
            "results": table.to_rows() if self.costs is None else self.costs.merge_into(table.to_rows()),
            "costs": [] if self.costs is None else self.costs.to_rows(),
            "gap": table.gap,
            "agreement": {"names": matrix.names, "share": matrix.share_SS.tolist()},
        }
        plain: JsonObject = to_jsonable_python(tree, inf_nan_mode="null", fallback=_unpack_scalar)
        return plain


def _unpack_scalar(value: np.generic) -> object:
    return value.item()


def draw_run_figures(report: RunReport) -> Pictures:
    """Draw every plot that this run has data for."""
    systems = [p for p, _ in report.systems]
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
        "reliability": draw_reliability([p for p in systems if p.role != "teacher"]),
        "agreement": draw_agreement_map(compute_agreement(systems), [format_system(p) for p in systems]),
        "weights": draw_weight_bars({t.name: t.weights for t in report.teachers if t.weights}),
        "weights_over_steps": draw_weight_curves(report.history),
    }
    return add_captions(drawn, CAPTIONS)


def write_run_page(report: RunReport, path: Path, pictures: Pictures) -> Path:
    """Write the page to ``path``, with what `draw_run_figures` drew, and ``report.json`` beside it.

    Returns:
        The path of the page.
    """
    table = report.table
    write_html(
        path,
        "page.html.j2",
        pictures,
        report=report,
        headline=summarize_run(table),
        table=table,
        costs_title=COST_TITLE,
        times_title=TIME_TITLE,
        ensemble=None if report.ensemble is None else build_page_values(report.ensemble),
        monolingual=any(
            s.by_language and len(s.by_language) < len(table.languages) for _, s in table.systems
        ),
        teacher_metrics=list(dict.fromkeys(m for t in report.teachers for m in t.validation)),
        title_of=find_metric_title,
        shown=format_metric,
        count=format_count,
        absent=ABSENT,
    )
    text = json.dumps(report.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
    (path.parent / "report.json").write_text(text, encoding="utf-8")
    return path


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
