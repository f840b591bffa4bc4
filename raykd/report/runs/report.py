"""Hold what a run found, and write it as JSON and read it back.

Decision record: ``report.json`` holds everything that the page shows but the ensemble report, which is
``ensemble.json``, so that a page can be written again years later without the answers to single rows. Scores stand
there once, as the flat rows of the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from raykd.parse import JsonObject
from raykd.report.costs import CostTable, TeacherCost
from raykd.report.ensembles.page import FILE as ENSEMBLE_FILE
from raykd.report.ensembles.report import EnsembleReport, read_ensemble_report
from raykd.report.forgetting import ForgettingTable
from raykd.report.plots import History
from raykd.report.record import RUN, read_record
from raykd.report.results import Agreement, CalibrationCurve, Predictions, Role, Score
from raykd.report.table import COST_KEYS, MACRO, ResultTable, format_system
from raykd.report.time_bar import TimeBar
from raykd.tasks.scores.classes import ClassScores

SYSTEM_KEYS = ("plain", "constant", "timed_on", "classes")
"""What is known of a system besides its scores and costs."""
TEACHER_KEYS = tuple(TeacherCost("", (), 0, 0, 0.0).to_row())
"""Keys of a teacher's figures in the rows of results."""


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
        forgetting: What a student that went on from an earlier run has forgotten; None of any other.
        times: Where the time went; None where it was not recorded.
        ensemble: What each teacher adds; None where it was not measured.
        agreement: How often two systems choose the same label; None without labels to choose from.
        calibration: Of the student, its baseline and the ensemble.
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
    forgetting: ForgettingTable | None = None
    times: TimeBar | None = None
    ensemble: EnsembleReport | None = None
    agreement: Agreement | None = None
    calibration: tuple[CalibrationCurve, ...] = ()

    @property
    def table(self) -> ResultTable:
        """The results as a table."""
        return ResultTable(self.systems, self.metric, None if self.costs is None else self.costs.together)

    @property
    def classes(self) -> dict[str, ClassScores]:
        """Scores by class of each system that has them, the student first."""
        known = {format_system(p): p.classes for p, _ in self.table.systems[::-1] if p.classes is not None}
        return known

    def to_json(self) -> JsonObject:
        """Return everything but the answers to each row, as plain data. NaN becomes null."""
        elsewhere = ("systems", "ensemble", "costs", "agreement")  # below, and in ensemble.json
        rows = self.table.to_rows()
        tree = {
            **{name: value for name, value in vars(self).items() if name not in elsewhere},
            "results": rows if self.costs is None else self.costs.merge_into(rows),
            "systems": [_dump_system(p, s) for p, s in self.table.systems],
            "costs": [] if self.costs is None else self.costs.to_rows(),
            "cost_table": self.costs,
            "gap": self.table.gap,
            "agreement": None if self.agreement is None else self.agreement.to_json(),
        }
        plain: JsonObject = to_jsonable_python(tree, inf_nan_mode="null", fallback=_unpack_scalar)
        return plain


def _dump_system(p: Predictions, s: Score) -> JsonObject:
    return {
        "system": p.name,
        "role": p.role,
        **{key: getattr(p, key) for key in SYSTEM_KEYS},
        "by_group": s.by_group,
    }


def _unpack_scalar(value: np.generic) -> object:
    return value.item()


def read_run_report(folder: Path) -> RunReport:
    """Read the report of a run of one task, without the answers to single rows.

    Args:
        folder: Of the run, or of one of its tasks.

    Raises:
        DataError: There is none, or it is something else.
    """
    report = read_record(folder / RUN, _build_report)
    ensemble = folder / ENSEMBLE_FILE
    if not ensemble.is_file():
        return report
    return replace(report, ensemble=read_ensemble_report(ensemble.read_text(encoding="utf-8"), str(ensemble)))


def _build_report(tree: JsonObject) -> RunReport:
    """Return the report of what `RunReport.to_json` gave; an older one lacks what it did not know."""
    hints = get_type_hints(RunReport)
    plain = ("title", "summary", "teachers", "data", "config", "environment", "facts", "notes", "created", "metric",
             "times", "calibration", "forgetting")  # fmt: skip
    values: dict[str, Any] = {
        name: TypeAdapter(hints[name]).validate_python(tree[name]) for name in plain if name in tree
    }
    history = {
        name: [(step, math.nan if value is None else value) for step, value in points]
        for name, points in tree.get("history", {}).items()
    }
    costs = TypeAdapter(CostTable | None).validate_python(tree.get("cost_table"))
    found = tree.get("agreement")
    agreement = Agreement.from_json(found) if found else None
    return RunReport(
        systems=_build_systems(tree), history=history, costs=costs, agreement=agreement, **values
    )


def _build_systems(tree: JsonObject) -> tuple[tuple[Predictions, Score], ...]:
    """Return the systems of a report, without their answers."""
    about = {(one["system"], one["role"]): one for one in tree.get("systems", [])}
    rows: dict[tuple[str, Role], list[JsonObject]] = {key: [] for key in about}
    for row in tree["results"]:
        rows.setdefault((row["system"], row["role"]), []).append(row)
    return tuple(
        _build_system(name, role, own, about.get((name, role), {})) for (name, role), own in rows.items()
    )


def _build_system(
    name: str, role: Role, rows: Sequence[JsonObject], about: JsonObject
) -> tuple[Predictions, Score]:
    head = ("system", "role", "language", "rows", "covers", *COST_KEYS, *TEACHER_KEYS)
    scores = {
        row["language"]: {
            key: math.nan if value is None else value for key, value in row.items() if key not in head
        }
        for row in rows
    }
    mean = next((row for row in rows if row["language"] == MACRO), {})
    counts = {row["language"]: row["rows"] for row in rows if row["language"] != MACRO}
    known = {**about, "classes": TypeAdapter(ClassScores | None).validate_python(about.get("classes"))}
    predictions = Predictions(
        name, role, np.empty((0, 0), np.float32), np.empty(0, bool), np.empty(0, np.int64), (),
        mean.get("parameters", 0), mean.get("ms_per_1000"), megabytes=mean.get("megabytes"),
        **{key: known[key] for key in SYSTEM_KEYS if key in known},
    )  # fmt: skip
    macro = scores.pop(MACRO, None)
    return predictions, Score(scores, macro, counts, about.get("by_group", {}))
