"""Sum up what the students of a comparison cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raykd.report.comparisons.results import ComparisonReport
from raykd.report.sizes import Size


@dataclass(frozen=True)
class ArmCost:
    """What an arm's students cost, as means over its seeds.

    Attributes:
        size: Size and speed.
        cpu_s: Processor seconds of a training.
    """

    size: Size
    cpu_s: float


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
            size = Size(
                round(float(np.mean([one.parameters for one in students]))),
                float(np.mean([one.megabytes for one in students])),
                float(np.mean(times)) / 1e3 if times else None,
                students[0].timed_on if len({one.timed_on for one in students}) == 1 else None,
            )
            found[arm.name] = ArmCost(size, float(np.mean([one.cpu_s for one in students])))
    return found
