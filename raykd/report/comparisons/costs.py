"""Sum up what the students of a comparison cost, and set them beside the teachers together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raykd.report.comparisons.results import ComparisonReport, ReferenceSystem
from raykd.report.formats import ABSENT, format_count, format_ratio


@dataclass(frozen=True)
class ArmCost:
    """What an arm's students cost, as means over its seeds; see `TrainedStudent`."""

    parameters: int
    megabytes: float | None
    texts_s: float | None
    cpu_s: float
    timed_on: str | None = None


def summarize_costs(report: ComparisonReport) -> dict[str, ArmCost]:
    """Return the mean costs of every arm's students, by arm; one without a trained seed is missing.

    The time of a text is the least over all students with as many parameters, since a busy machine only ever makes it
    longer.
    """
    least: dict[int, float] = {}
    for arm in report.arms:
        for one in arm.students.values():
            if one.ms_per_1000:
                least[one.parameters] = min(one.ms_per_1000, least.get(one.parameters, one.ms_per_1000))
    found = {}
    for arm in report.arms:
        students = list(arm.students.values())
        if students:
            times = [least[one.parameters] for one in students if one.parameters in least]
            found[arm.name] = ArmCost(
                round(float(np.mean([one.parameters for one in students]))),
                float(np.mean([one.megabytes for one in students])),
                1e6 / float(np.mean(times)) if times else None,
                float(np.mean([one.cpu_s for one in students])),
                students[0].timed_on if len({one.timed_on for one in students}) == 1 else None,
            )
    return found


def find_reference_cost(one: ReferenceSystem) -> ArmCost:
    """Return size and speed of a teacher, or of all together."""
    texts_s = 1e6 / one.ms_per_1000 if one.ms_per_1000 else None
    return ArmCost(one.parameters, one.megabytes, texts_s, 0.0, one.timed_on)


def format_cost(cost: ArmCost) -> list[str]:
    """Return parameters, megabytes, texts a second and processor seconds."""
    texts_s = ABSENT if cost.texts_s is None else f"{cost.texts_s:,.0f}"
    megabytes = ABSENT if cost.megabytes is None else f"{cost.megabytes:.2f}"
    cpu_s = ABSENT if not cost.cpu_s else f"{cost.cpu_s:.1f}"
    return [format_count(cost.parameters), megabytes, texts_s, cpu_s]


def format_cost_ratios(base: ArmCost | None, cost: ArmCost | None) -> list[str]:
    """Return how many times a system is smaller and faster than another; a dash where that is not known."""
    if base is None or cost is None or not cost.parameters:
        return [ABSENT, ABSENT]
    timed = base.texts_s and cost.texts_s and base.timed_on == cost.timed_on
    faster = format_ratio(cost.texts_s / base.texts_s) if timed and base.texts_s and cost.texts_s else ABSENT
    return [format_ratio(base.parameters / cost.parameters), faster]
