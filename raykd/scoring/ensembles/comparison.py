"""Put leave-one-out with retrained students, which a comparison ran, beside the estimate from stored answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from raykd.errors import DataError
from raykd.parse import JsonObject
from raykd.report.comparisons.differences import MACRO
from raykd.report.ensembles.report import Effect, EnsembleReport
from raykd.tasks.scores.metrics import is_higher_better

FILE = "comparison.json"
"""What `raykd compare` writes into its folder."""


def add_retrained(report: EnsembleReport, folder: Path, task: str = "") -> EnsembleReport:
    """Return the report with how students change that were trained without each teacher.

    Args:
        report: The report of a run.
        folder: Of a finished experiment whose arms leave its teachers out.
        task: Name of the report's task, in a run of several.

    Raises:
        DataError: The folder holds no such comparison, or one by another metric.
    """
    file = folder / FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        metric, base, split = found["metric"], found["baseline"], found["split"]
        # The comparison's own metric is the mean of all tasks; that of a single task is among its differences.
        language, metric = (f"{task} mean", report.metric) if task else (MACRO, metric)
        wanted = {"against": base, "split": split, "language": language, "metric": metric}
        rows = [
            row for row in found["differences"] if all(row[key] == value for key, value in wanted.items())
        ]
        # With one seed there is no interval.
        effects = {row["arm"]: _read_effect(row) for row in rows if row["low"] is not None}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is not the folder of a finished comparison",
            got=f"{FILE}: {type(error).__name__}",
            wanted="output/NAME of an experiment that leaves teachers out",
            next_step="raykd compare RUN.yaml --preset ensemble makes one",
        ) from None
    retrained = {
        name: effects[arm]
        for name in report.teachers
        for arm in _list_arms(name, report.teachers)
        if arm in effects
    }
    if not retrained or metric != report.metric:
        raise DataError(
            f"{file} does not say how students change without these teachers",
            got=f"arms {', '.join(effects)} by {metric}",
            wanted=f"arms {', '.join(f'without_{name}' for name in report.teachers)} by {report.metric}",
            next_step="raykd compare RUN.yaml --preset ensemble",
        )
    smoke = [
        f"dropped, retrained: {note}" for note in found.get("notes", ()) if note.startswith("a smoke run")
    ]
    return replace(report, retrained=retrained, missing=(*report.missing, *smoke))


def _list_arms(name: str, teachers: tuple[str, ...]) -> list[str]:
    """Return the names that the arm without a teacher may have: of two teachers it is the other one alone."""
    others = [other for other in teachers if other != name]
    return [f"without_{name}", *(f"only_{other}" for other in others if len(others) == 1)]


def _read_effect(row: JsonObject) -> Effect:
    """Return a difference as an effect, which is above 0 for the better: of NLL its negative."""
    ends = sorted(float(row[key]) for key in ("low", "high"))
    if is_higher_better(str(row["metric"])):
        return Effect(float(row["difference"]), *ends)
    return Effect(-float(row["difference"]), -ends[1], -ends[0])
