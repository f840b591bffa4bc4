"""Read what any run scored and cost, in one form, from the folder that it made.

Decision record: a run's score is its student's on the held-out rows, an arm's is the mean over its seeds, and a sweep's
best has been scored on the validation rows alone. Which rows a score is of stands beside it, and runs on other rows
than the first are named, because such scores cannot be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from raykd.config.home import ARMS, find_folder, is_raykd_folder, read_folder_state
from raykd.errors import ConfigError
from raykd.parse import JsonObject
from raykd.report.comparisons.costs import summarize_costs
from raykd.report.comparisons.differences import MACRO
from raykd.report.comparisons.results import ArmResult, ComparisonReport
from raykd.report.results import Predictions, Score
from raykd.report.runs.report import RunReport
from raykd.report.side_by_side.rewrite import read_reports
from raykd.report.sizes import Size
from raykd.report.sweeps.trial_table import strip_metric_path
from raykd.report.sweeps.trials import SweepReport

OWN_KEYS = ("name", "output", "tracking", "report", "teacher_defaults")
"""Keys of a configuration that have no consequence for results of their own: each teacher holds the defaults, too."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What one line of the table is about.

    Attributes:
        name: Of the run; of an arm ``COMPARISON: ARM``, of a task ``RUN: TASK``, of a sweep's best ``SWEEP: TRIAL``.
        folder: That it lies in.
        metric: By which it is judged.
        split: The rows that it was scored on: test or validation.
        scores: Metrics by language, in raw units (a rate is in [0, 1]).
        means: Metrics, as unweighted means over these languages.
        seeds: Students that the scores are means of.
        gain: How much more than the undistilled student of the same run, in raw units; None without one.
        size: How large and fast the student is; None is not known.
        together: The same of the run's teachers as one system.
        seconds: Of the whole run on the clock; of a trial, its own.
        cpu_s: Processor seconds of training.
        config: Values by dotted key.
        rows: Fingerprint of the test rows; empty is not known.
    """

    name: str
    folder: Path
    metric: str
    split: str
    scores: Mapping[str, Mapping[str, float]]
    means: Mapping[str, float]
    seeds: int = 1
    gain: float | None = None
    size: Size | None = None
    together: Size | None = None
    seconds: float | None = None
    cpu_s: float | None = None
    config: Mapping[str, str] = field(default_factory=dict, repr=False)
    rows: str = ""


def summarize_folder(folder: Path, name: str) -> list[RunSummary]:
    """Return what a run, the best trial of a sweep, or each arm of a comparison scored and cost.

    Args:
        folder: That raykd made.
        name: How it is called.

    Raises:
        DataError: It holds no report.
    """
    found = []
    for task, report in read_reports(folder).items():
        if isinstance(report, SweepReport):
            found += _summarize_best(folder, name, report)
        elif isinstance(report, ComparisonReport):
            found += _summarize_arms(folder, name, report)
        else:
            found += _summarize_run(folder, f"{name}: {task}" if task else name, task, report)
    return found


def resolve_folder(given: Path) -> Path:
    """Return the folder with this path, or with this name under ``runs``.

    Raises:
        ConfigError: raykd did not make it.
    """
    folder = find_folder(given)
    if is_raykd_folder(folder):
        return folder.resolve()
    raise ConfigError(
        f"{given} is not the folder of a run, a sweep or a comparison",
        got="no run.json in it" if folder.is_dir() else "no such folder",
        wanted="output/NAME, for example runs/NAME",
        next_step="ls runs shows what there is",
    )


def _summarize_run(folder: Path, name: str, task: str, report: RunReport) -> list[RunSummary]:
    student = _find_student(report)
    if student is None:
        return []
    (p, s), table = student, report.table
    metric = table.metrics[0] if table.metrics else report.metric or ""
    by_role = {one.role: score for one, score in table.systems}
    baseline = by_role.get("baseline")
    ours, theirs = s.macro or {}, (baseline.macro if baseline else None) or {}
    gain = ours[metric] - theirs[metric] if metric in ours and metric in theirs else None
    return [
        RunSummary(
            name=name,
            folder=folder,
            metric=metric,
            split="test" if any(row[:1] == ("test",) for row in report.data) else "validation",
            scores=s.by_language,
            means=s.macro or {},
            gain=gain,
            size=p.size,
            together=table.reference,
            seconds=None if report.times is None else report.times.seconds,
            config=flatten_config(yaml.safe_load(report.config) or {}),
            rows=_read_rows(folder, task),
        )
    ]


def _find_student(report: RunReport) -> tuple[Predictions, Score] | None:
    return next((pair for pair in report.table.systems if pair[0].role == "student"), None)


def _summarize_best(folder: Path, name: str, report: SweepReport) -> list[RunSummary]:
    best, metric = report.best, strip_metric_path(report.metric)
    if best is None or best.score is None:
        return []
    means = {metric: best.score, **({} if best.nll is None else {"nll": best.nll})}
    return [
        RunSummary(
            name=f"{name}: {best.name}", folder=folder, metric=metric, split="validation", scores={},
            means=means, size=best.size, together=report.together, seconds=best.seconds,
            config=flatten_config(yaml.safe_load(report.best_yaml) or {}),
        )
    ]  # fmt: skip


def _summarize_arms(folder: Path, name: str, report: ComparisonReport) -> list[RunSummary]:
    configs = (yaml.safe_load((folder / ARMS).read_text(encoding="utf-8")) or {}).get("arms", {})
    costs, found = summarize_costs(report), []
    for arm in report.arms:
        means, cost = _average_scores(report, arm), costs.get(arm.name)
        if cost is not None:
            found.append(
                RunSummary(
                    name=f"{name}: {arm.name}", folder=folder, metric=report.metric, split=report.split,
                    scores={language: own for language, own in means.items() if language != MACRO},
                    means=means.get(MACRO, {}), seeds=len(arm.students), size=cost.size,
                    together=report.together, cpu_s=cost.cpu_s,
                    config=flatten_config(configs.get(arm.name, {})), rows=_read_rows(folder, ""),
                )
            )  # fmt: skip
    return found


def _average_scores(report: ComparisonReport, arm: ArmResult) -> dict[str, dict[str, float]]:
    """Return the means over an arm's seeds on the rows that arms are compared on, by language and metric."""
    found: dict[str, dict[str, float]] = {}
    names = dict.fromkeys(name for one in arm.students.values() for name in one.scores)
    for name in names:
        split, _, rest = name.partition("/")
        values = list(arm.read_scores(name).values())
        if split == report.split and values and rest.count("/") == 1:
            language, metric = rest.split("/")
            found.setdefault(language, {})[metric] = float(np.mean(values))
    return found


def _read_rows(folder: Path, task: str) -> str:
    """Return the fingerprint of the held-out rows, as the folder's state has it."""
    rows = (read_folder_state(folder) or {}).get("rows")
    if not isinstance(rows, dict):
        return ""
    start = f"task.tasks.{task}." if task else ""
    return str(rows.get(f"{start}data.test") or rows.get(f"{start}data.validation") or "")


def flatten_config(tree: JsonObject) -> dict[str, str]:
    """Return the values of a configuration by dotted key; an item of a list that has a name is found by its name."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if key not in OWN_KEYS:
            _flatten(key, value, found)
    return found


def _flatten(path: str, value: object, found: dict[str, str]) -> None:
    if isinstance(value, Mapping) and value:
        for key, own in value.items():
            _flatten(f"{path}.{key}", own, found)
    elif isinstance(value, Sequence) and not isinstance(value, str) and _are_named(value):
        for own in value:
            _flatten(f"{path}.{own['name']}", {k: v for k, v in own.items() if k != "name"}, found)
    else:
        found[path] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _are_named(items: Sequence[object]) -> bool:
    return bool(items) and all(isinstance(item, Mapping) and "name" in item for item in items)
