"""One page about one run, in one file that needs nothing else.

Decision record: a static HTML file with its style and drawings inside can be mailed, kept as an artifact
and read in
ten years; it asks no server for anything, so it also works on a cluster without a way out. Jinja's
autoescape is on: names, texts and settings come from data. `RunReport` is plain data, and is written beside
the page as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raykd.report.costs import COST_TITLE, CostTable
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
from raykd.report.table import ABSENT, ResultTable, format_count, format_metric, format_system
from raykd.tasks.scores.metrics import find_metric_title, is_rate

if TYPE_CHECKING:
    from jinja2 import Template

CAPTIONS: Mapping[str, str] = {
    "languages": "Each system in each language, and the mean of those that are measured on all languages.",
    "evaluation": "The student on the validation rows while it learns.",
    "training": "Training loss and its parts: hard is against gold labels, soft/* against the teachers. "
    "Long curves are averaged over neighbouring steps.",
    "schedules": "What the schedules did: alpha weighs the hard term, lambda each soft term.",
    "reliability": "Above: how often a system is right when it is so sure; on the dotted line it is as "
    "right as it is sure. Below: how often it is so sure.",
    "agreement": "How often two systems choose the same label, right or wrong; a dash: they share no row.",
    "weights": "How much each teacher counted in each language, on average.",
    "weights_over_steps": "How much each teacher counted, over all languages of a step.",
}


@dataclass(frozen=True)
class TeacherFacts:
    """What is known about one teacher. Written by `runs`.

    languages: what it was declared for, () is all. fingerprint: of its weights.
    validation: metrics, over its own languages. latency_ms: mean milliseconds for one batch answered by a
    forward pass. store_hit_rate: share of rows answered from the store. weights: mean weight by language.
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
    """Everything the page shows. Written by `runs`, read by `write_run_page`.

    summary: one sentence, what was run. systems: answers and scores on the test rows.
    history: metric to (step, value). data: a heading and rows of a table, for example rows by split and
    language.
    config: the resolved YAML. notes: what a reader must know, for example uncovered units or skipped rows.
    facts: short named values, for example duration, steps, where MLflow recorded it.
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
    """What the run is judged by."""
    costs: CostTable | None = None
    """The student beside its teachers; None without any."""

    @property
    def table(self) -> ResultTable:
        """The results as a table."""
        return ResultTable(self.systems, self.metric)

    def to_json(self) -> dict[str, Any]:
        """The report as plain data: scores and agreement, not the answers of each row. NaN becomes null."""
        table, matrix = self.table, compute_agreement([p for p, _ in self.systems])
        rest = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("systems", "teachers", "costs")
        }
        tree = {
            **rest,
            "results": table.to_rows() if self.costs is None else self.costs.merge_into(table.to_rows()),
            "costs": [] if self.costs is None else self.costs.to_rows(),
            "gap": dataclasses.asdict(table.gap) if table.gap else None,
            "agreement": {"names": matrix.names, "share": matrix.share_SS.tolist()},
            "teachers": [dataclasses.asdict(teacher) for teacher in self.teachers],
        }
        return _plain(tree)  # type: ignore[no-any-return]


def draw_run_figures(report: RunReport) -> dict[str, tuple[str, str]]:
    """Name to (SVG, caption) of every plot this run has data for; the caller may also log them one by one."""
    systems = [p for p, _ in report.systems]
    compared = [p for p in systems if p.role != "teacher"]
    matrix = compute_agreement(systems)
    weights = {t.name: t.weights for t in report.teachers if t.weights}
    judged = report.table.metrics[0] if report.table.metrics else "accuracy"
    drawn = {
        "languages": draw_language_bars(report.table),
        "evaluation": draw_evaluation_curves(report.history, list(dict.fromkeys([judged, "nll"]))),
        "training": draw_training_curves(report.history),
        "schedules": draw_schedule_curves(report.history),
        "reliability": draw_reliability(compared),
        "agreement": draw_agreement_map(matrix, [format_system(p) for p in systems]),
        "weights": draw_weight_bars(weights),
        "weights_over_steps": draw_weight_curves(report.history),
    }
    return {name: (svg, CAPTIONS[name]) for name, svg in drawn.items() if svg is not None}


def write_run_page(
    report: RunReport, path: Path, pictures: Mapping[str, tuple[str, str]] | None = None
) -> Path:
    """Writes the page to ``path`` and ``report.json`` beside it; returns ``path``.

    Args:
        pictures: what `draw_run_figures` drew, if it did already.
    """
    from markupsafe import Markup

    table = report.table
    html = load_template("page.html.j2").render(
        report=report,
        headline=summarize_run(table),
        gap=table.gap,
        remarks=table.remarks,
        main=table.to_cells(),
        by_language=table.language_cells(),
        costs=report.costs,
        costs_title=COST_TITLE,
        roles=[p.role for p, _ in table.systems],
        monolingual=any(
            s.by_language and len(s.by_language) < len(table.languages) for _, s in table.systems
        ),
        figures={
            k: (Markup(svg), caption) for k, (svg, caption) in (pictures or draw_run_figures(report)).items()
        },
        teacher_metrics=list(dict.fromkeys(m for t in report.teachers for m in t.validation)),
        title_of=find_metric_title,
        shown=format_metric,
        count=format_count,
        absent=ABSENT,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    text = json.dumps(report.to_json(), ensure_ascii=False, indent=1, allow_nan=False)
    (path.parent / "report.json").write_text(text, encoding="utf-8")
    return path


def summarize_run(table: ResultTable) -> list[tuple[str, str, str]]:
    """(what, number, remark) of what a reader looks for first."""
    found = []
    first = table.metrics[0] if table.metrics else None
    for p, s in table.systems:
        if p.role != "teacher" and s.macro is not None and first is not None:
            unit = " %" if is_rate(first) else " nats" if first == "nll" else ""
            remark = f"mean {find_metric_title(first).split()[0]}, {format_count(p.parameters)} parameters"
            found.append((format_system(p), format_metric(first, s.macro[first]) + unit, remark))
    if table.gap is not None:
        closed = (
            "" if table.gap.closed is None else f"; {table.gap.closed:.0%} of the gap to the ensemble closed"
        )
        title = find_metric_title(table.gap.metric).split()[0]
        number, _, unit = table.gap.change.partition(" ")
        remark = f"{unit} of mean {title}".strip() + (f" ({table.gap.verdict})" if table.gap.verdict else "")
        found.append(("distilled − undistilled", number, remark + closed))
    return found


def load_template(name: str) -> Template:
    """A template of this folder, with autoescape."""
    import jinja2

    loader = jinja2.PackageLoader("raykd", "report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name)


def _plain(value: object) -> Any:
    """JSON-able: mappings and sequences of texts, numbers and None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value
