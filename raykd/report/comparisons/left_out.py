"""Show what students and teachers are worth on rows of a group that none of them learnt from (leave one domain out).

Decision record: the others are the groups that were learnt from, each counted alike. The last lines are means over the
groups that were left out, taken within a seed first, so that their intervals are over seeds as all others are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from raykd.keys import make_key_part
from raykd.parse import JsonObject
from raykd.report.comparisons.differences import PairedDifference, compute_paired_difference, find_scale
from raykd.report.comparisons.results import ArmResult, ComparisonReport
from raykd.report.comparisons.statistics import Interval, compute_t_interval
from raykd.report.formats import ABSENT, use_minus_sign
from raykd.tasks.scores.metrics import find_metric_title

OTHERS, MEAN = "the others", "mean"
LEFT_OUT_TITLE = "Rows that neither teachers nor students learnt from"


@dataclass(frozen=True)
class LeftOutLine:
    """What was measured on one set of rows, in raw units.

    Attributes:
        left_out: The group that was not learnt from, or `MEAN`.
        rows: The same, or `OTHERS`.
        teachers: Their score together; None is not known.
        difference: Distilled minus undistilled student, with the means of both.
        intervals: Student's t interval of the mean of the undistilled and of the distilled student.
    """

    left_out: str
    rows: str
    teachers: float | None
    difference: PairedDifference
    intervals: tuple[Interval | None, Interval | None]


class _Part(NamedTuple):
    """Scores by seed of two students, and that of the teachers, on one set of rows."""

    distilled: Mapping[int, float]
    undistilled: Mapping[int, float]
    teachers: float | None


def measure_left_out(report: ComparisonReport) -> list[LeftOutLine]:
    """Return a line for each group that some arm did not learn from, and for the other groups beside it; then means.

    The result is empty for a comparison without such arms.
    """
    found: dict[bool, list[_Part]] = {True: [], False: []}
    lines = []
    for arm in report.compared:
        if arm.left_out is None or make_key_part(arm.left_out) not in report.groups:
            continue
        partner = report.find_arm(str(arm.against))
        for own in (True, False):
            groups = [g for g in report.groups if (g == make_key_part(arm.left_out)) == own]
            first, second = (_average(report, one, groups) for one in (arm, partner))
            taught = [arm.teachers.get(report.name_group(group)) for group in groups]
            known = [score for score in taught if score is not None]
            together = float(np.mean(known)) if known and len(known) == len(taught) else None
            if not groups or not first.keys() & second.keys():
                continue
            found[own].append(_Part(first, second, together))
            rows = arm.left_out if own else OTHERS
            lines.append(_compare(report, arm.left_out, rows, first, second, together))
    for own, parts in found.items() if len(lines) > 2 else ():
        first = _average_parts([part.distilled for part in parts])
        second = _average_parts([part.undistilled for part in parts])
        scores = [part.teachers for part in parts if part.teachers is not None]
        mean = float(np.mean(scores)) if len(scores) == len(parts) else None
        if first.keys() & second.keys():
            lines.append(_compare(report, MEAN, "what was left out" if own else OTHERS, first, second, mean))
    return lines


def _average(report: ComparisonReport, arm: ArmResult, groups: Sequence[str]) -> dict[int, float]:
    """Return the mean over groups of an arm's score, by seed."""
    return _average_parts([arm.read_scores(report.name_group(group)) for group in groups])


def _average_parts(parts: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return the mean over the parts, for each seed that all of them have."""
    seeds = [seed for seed in parts[0] if all(seed in part for part in parts)] if parts else []
    return {seed: float(np.mean([part[seed] for part in parts])) for seed in seeds}


def _compare(
    report: ComparisonReport,
    left_out: str,
    rows: str,
    first: Mapping[int, float],
    second: Mapping[int, float],
    teachers: float | None,
) -> LeftOutLine:
    pairs = [(seed, first[seed], second[seed]) for seed in report.seeds if seed in first and seed in second]
    found = compute_paired_difference(pairs, "distilled", "undistilled", report.split, rows, report.metric)
    before, after = ([pair[at] for pair in pairs] for at in (2, 1))
    intervals = compute_t_interval(before), compute_t_interval(after)
    return LeftOutLine(left_out, rows, teachers, found, intervals)


def list_left_out_cells(lines: Sequence[LeftOutLine]) -> tuple[list[str], list[list[str]]]:
    """Return headings and lines of the table as texts.

    Args:
        lines: At least one.
    """
    metric = lines[0].difference.metric
    heads = ["left out", f"{find_metric_title(metric)} on", "teachers", "undistilled", "distilled",
             "distilled − undistilled", "t interval", "wins"]  # fmt: skip
    return heads, [
        [
            line.left_out, line.rows,
            ABSENT if line.teachers is None else _format(metric, line.teachers),
            *(
                _format(metric, mean, interval)
                for mean, interval in zip(line.difference.means[::-1], line.intervals, strict=True)
            ),
            line.difference.format(line.difference.mean),
            line.difference.format_interval(line.difference.interval) or ABSENT,
            line.difference.score_of_wins,
        ]
        for line in lines
    ]  # fmt: skip


def dump_left_out_lines(lines: Sequence[LeftOutLine]) -> list[JsonObject]:
    """Return the lines as plain data, unrounded."""
    return [
        {
            "left_out": line.left_out, "rows": line.rows, "teachers": line.teachers,
            "undistilled": line.difference.means[1], "distilled": line.difference.means[0],
            "undistilled_interval": line.intervals[0], "distilled_interval": line.intervals[1],
            "difference": line.difference.mean, "interval": line.difference.interval,
            "seeds": line.difference.seeds, "wins": line.difference.wins,
        }
        for line in lines
    ]  # fmt: skip


def _format(metric: str, mean: float, interval: Interval | None = None) -> str:
    """Return a mean with half of its interval: ``81.20 ± 0.31``."""
    scale = find_scale(metric)
    digits = 2 if scale == 100 else 3
    text = use_minus_sign(f"{scale * mean:.{digits}f}")
    return text if interval is None else f"{text} ± {scale * (interval[1] - interval[0]) / 2:.{digits}f}"
