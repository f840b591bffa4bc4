"""Judge whether early stopping was right: who reached what, and how well a rung's order foretells the last one.

Decision record: Kendall's tau between the scores at a rung and the scores at the last evaluation, over trials that ran
to their end. The last evaluation, not the best: the best may be the rung's own score and would agree with itself. The
trials that ran to their end are those the scheduler favoured, so their scores lie close together and tau is lower than
it would be over all trials. It is a cautious figure, and n is always shown beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raykd.report.sweeps.trials import SweepReport, TrialRow

LEAST_PAIRS = 3
"""Trials below which no tau is computed."""
LOW_TAU = 0.5
"""Tau below which early stopping chooses nearly blindly."""


@dataclass(frozen=True)
class RungAgreement:
    """How well a rung foretells the end.

    Attributes:
        evaluation: The rung.
        tau: Kendall's tau-b with the last scores; None with fewer than `LEAST_PAIRS` trials or all scores equal.
        trials: Number of trials compared.
    """

    evaluation: int
    tau: float | None
    trials: int


@dataclass(frozen=True)
class Survival:
    """The trials that got to a rung, split by what became of them.

    Attributes:
        evaluation: The rung.
        survived: Were evaluated again, or ended there as planned.
        stopped: Stopped by the scheduler, here.
        open: Broken, or still there.
    """

    evaluation: int
    survived: tuple[TrialRow, ...]
    stopped: tuple[TrialRow, ...]
    open: tuple[TrialRow, ...]


def compute_survival(report: SweepReport) -> list[Survival]:
    """Return each rung that a trial reached, in order."""
    found = []
    for rung in sorted(set(report.rungs)):
        there = [t for t in report.trials if t.last_evaluation >= rung]
        if there:
            survived = [t for t in there if t.last_evaluation > rung or t.status == "finished"]
            stopped = [t for t in there if t.last_evaluation == rung and t.status == "stopped"]
            rest = [t for t in there if t not in survived and t not in stopped]
            found.append(Survival(rung, tuple(survived), tuple(stopped), tuple(rest)))
    return found


def count_trials_by_evaluation(report: SweepReport) -> list[tuple[int, int]]:
    """Return (evaluation, number of trials that were evaluated at it or later), from the first to the last."""
    last = max((t.last_evaluation for t in report.trials), default=0)
    return [(e, sum(t.last_evaluation >= e for t in report.trials)) for e in range(1, last + 1)]


def compute_rank_correlations(report: SweepReport) -> list[RungAgreement]:
    """Return the tau of each rung before the end; empty without early stopping."""
    from scipy.stats import kendalltau

    ended = [t for t in report.trials if t.status == "finished" and t.last is not None]
    end = max((t.last_evaluation for t in ended), default=math.inf)
    found = []
    for rung in sorted(r for r in set(report.rungs) if r < end):
        pairs = [
            (score, t.last.score) for t in ended
            if t.last and t.last_evaluation > rung and math.isfinite(t.last.score)
            and (score := t.score_at(rung)) is not None
        ]  # fmt: skip
        enough = len(pairs) >= LEAST_PAIRS
        tau = float(kendalltau(*zip(*pairs, strict=True)).statistic) if enough else math.nan
        found.append(RungAgreement(rung, tau if math.isfinite(tau) else None, len(pairs)))
    return found


def describe_rungs(found: Sequence[RungAgreement]) -> str:
    """Return what the figures mean, for a person."""
    known = [(r.tau, r.evaluation) for r in found if r.tau is not None]
    if not known:
        return (
            f"Too few trials ran to their end (fewer than {LEAST_PAIRS}) to say how well a rung foretells it."
        )
    text = (
        "Kendall's tau is 1 if the order of the trials at a rung is their order at the end, and 0 if the two have "
        f"nothing to do with each other; below {LOW_TAU} early stopping chooses nearly blindly"
    )
    if low := [str(at) for tau, at in known if tau < LOW_TAU]:
        return (
            f"{text}, as at evaluation {', '.join(low)} here: let trials run longer before they are judged."
        )
    return f"{text}, which it did not do here."
