"""Find teachers that are hardly better than a student without teachers.

What such a teacher has to teach is hardly more than what differs between seeds. So a comparison of students says little
about distillation, whichever arm is ahead.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from raykd.report.comparisons.results import ComparisonReport
from raykd.report.formats import format_signed
from raykd.tasks.scores.metrics import is_rate

LEAST_LEAD = 0.03
"""A teacher that leads by less is called weak; a share, 3 points."""


def describe_weak_teachers(
    report: ComparisonReport, plain: Collection[str], partial: Collection[str] = ()
) -> list[str]:
    """Return a note per arm without teachers, in which its weak teachers are named.

    A lead is the mean over the teacher's own languages of its score minus the arm's mean. There are no notes about
    metrics that are no shares.

    Args:
        report: The comparison, with the teachers among its references.
        plain: Names of the arms without teachers.
        partial: Names of teachers that lack labels of the run: each is wrong at them whatever else it knows, so
            that it is not judged.
    """
    if not is_rate(report.metric):
        return []
    notes = []
    for name in plain:
        leads = _compute_leads(report, name)
        weak = [
            f"{teacher} ({format_signed(100 * x, 1)})"
            for teacher, x in leads.items()
            if x < LEAST_LEAD and teacher not in partial
        ]
        if weak:
            notes.append(
                f"{', '.join(weak)}: less than {100 * LEAST_LEAD:g} points above {name} in their own languages; "
                "there is little to learn from them, and differences between arms say little about distillation"
            )
    return notes


def _compute_leads(report: ComparisonReport, plain: str) -> dict[str, float]:
    arm, found = report.find_arm(plain), {}
    for one in report.references:
        leads = []
        for language in report.languages if one.role == "teacher" else ():
            key = f"{report.split}/{language}/{report.metric}"
            mean = report.average(arm, key)
            if mean is not None and key in one.scores:
                leads.append(one.scores[key] - mean.mean)
        if leads:
            found[one.name] = float(np.mean(leads))
    return found
