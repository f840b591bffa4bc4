"""Write a comparison as plain data: the rows of MLflow's table, and everything that was measured."""

from __future__ import annotations

from raykd.parse import JsonObject
from raykd.report.comparisons.costs import ArmCost, summarize_costs
from raykd.report.comparisons.differences import PairedDifference
from raykd.report.comparisons.left_out import dump_left_out_lines, measure_left_out
from raykd.report.comparisons.results import ArmResult, ArmScore, ComparisonReport
from raykd.report.comparisons.tables import ComparisonTables
from raykd.report.table import Row


def list_differences(report: ComparisonReport) -> list[Row]:
    """Return a flat row for each paired difference, unrounded, ready for JSON; the main ones first."""
    main = report.main_differences
    rest = [d for d in report.all_differences if not any(_is_same(d, one) for one in main)]
    return [_build_row(d) for d in (*main, *rest)]


def dump_comparison(report: ComparisonReport) -> JsonObject:
    """Return everything that was measured as plain data: every arm with every seed, and the differences."""
    costs = summarize_costs(report)
    return {
        "title": report.title,
        "metric": report.metric,
        "split": report.split,
        "baseline": report.baseline,
        "seeds": list(report.seeds),
        "created": report.created,
        "environment": dict(report.environment),
        "notes": list(report.notes),
        "conclusion": ComparisonTables(report).describe(),
        "references": [vars(one) | {"scores": dict(one.scores)} for one in report.references],
        "arms": [_dump_arm(arm, report.average(arm), costs.get(arm.name)) for arm in report.arms],
        "differences": list_differences(report),
        "language_differences": [_build_row(d) for d in report.language_differences],
        "group_differences": [_build_row(d) for d in report.group_differences],
        "left_out": dump_left_out_lines(measure_left_out(report)),
        "class_differences": [_build_row(d) for d in report.class_differences],
    }


def _is_same(one: PairedDifference, other: PairedDifference) -> bool:
    return all(getattr(one, key) == getattr(other, key) for key in ("arm", "split", "language", "metric"))


def _build_row(d: PairedDifference) -> Row:
    low, high = d.interval or (None, None)
    boot_low, boot_high = d.bootstrap or (None, None)
    return {
        "arm": d.arm, "against": d.against, "split": d.split, "language": d.language, "metric": d.metric,
        "seeds": d.seeds, "mean": d.means[0], "against_mean": d.means[1], "difference": d.mean,
        "low": low, "high": high, "bootstrap_low": boot_low, "bootstrap_high": boot_high,
        "p": d.p, "corrected_p": d.corrected_p, "wins": d.wins, "ties": d.ties,
        "excludes_zero": d.excludes_zero,
    }  # fmt: skip


def _dump_cost(cost: ArmCost) -> JsonObject:
    size = cost.size
    return {
        "parameters": size.parameters, "megabytes": size.megabytes, "texts_s": size.texts_s, "cpu_s": cost.cpu_s,
        "timed_on": size.timed_on,
    }  # fmt: skip


def _dump_arm(arm: ArmResult, score: ArmScore | None, cost: ArmCost | None) -> JsonObject:
    return {
        "name": arm.name,
        "changes": arm.changes,
        "against": arm.against,
        "labelled": arm.labelled,
        "mean": None if score is None else score.mean,
        "interval": None if score is None else score.interval,
        "cost": None if cost is None else _dump_cost(cost),
        "students": {
            str(seed): {
                "scores": dict(one.scores),
                "by_class": dict(one.by_class),
                "parameters": one.parameters,
                "megabytes": one.megabytes,
                "ms_per_1000": one.ms_per_1000,
                "cpu_s": one.cpu_s,
            }
            for seed, one in arm.students.items()
        },
    }
