"""Say an advice in words, with the change that is expected and its interval."""

from __future__ import annotations

from raykd.ensemble.advice import Advice
from raykd.ensemble.expected_changes import Estimate
from raykd.report.ensembles.report import AdviceLine, Effect
from raykd.report.ensembles.sections import format_interval
from raykd.report.formats import format_metric_name


def make_advice_line(advice: Advice, metric: str) -> AdviceLine:
    """Return an advice as the report holds it."""
    change = advice.change
    return AdviceLine(
        kind=advice.kind,
        teacher=advice.teacher,
        languages=advice.languages,
        score=None if change is None else _to_effect(change.score),
        nll=None if change is None else _to_effect(change.nll),
        pairs=None if change is None or change.pair_nll is None else _to_effect(change.pair_nll),
        line=_describe(advice, metric),
        other=advice.other,
        equal_answers=None if advice.pair is None else advice.pair.share,
        shared_errors=None if advice.pair is None else advice.pair.shared_errors,
    )


def _to_effect(estimate: Estimate) -> Effect:
    return Effect(estimate.value, estimate.low, estimate.high)


def _describe(advice: Advice, metric: str) -> str:
    where = ", ".join(advice.languages)
    change = advice.change
    is_weighty = advice.kind == "copy" and change is not None and change.hurts
    what = {
        "drop": f"drop {advice.teacher}",
        "drop_in": f"do not ask {advice.teacher} in {where}",
        "add_in": f"ask {advice.teacher} in {where}, too",
        # Two copies have twice the weight of one, which a drop takes away.
        "copy": f"drop {advice.teacher}, a copy, and give {advice.other} twice the weight (objective.weighting fixed)"
        if is_weighty
        else f"drop {advice.teacher}: it is a copy of {advice.other}",
    }[advice.kind]
    if advice.pair is not None:
        what += (
            f" ({advice.pair.share:.1%} equal answers, and {advice.pair.same_wrong} of the {advice.pair.wrong} "
            "errors that either makes are the same)"
        )
    if change is None:
        return f"{what}; in its languages nobody else answers, so no change is estimated"
    together = (
        f"the teachers together change by {_format_score(change.score, metric)} points of {format_metric_name(metric)} "
        f"and {_format_nats(change.nll)} nats of NLL"
    )
    if advice.kind in ("drop", "drop_in") and not change.surely_helps and change.pair_nll is not None:
        # NLL falls where its negative rises.
        together = (
            f"beside one other teacher it makes NLL worse by {_format_nats(change.pair_nll, sign=1.0)} nats, and "
            f"{together}"
        )
    return f"{what}: {'dropped without that, ' if is_weighty else ''}{together}"


def _format_score(e: Estimate, metric: str) -> str:
    return format_interval(e.value, e.low, e.high, metric)


def _format_nats(e: Estimate, sign: float = -1.0) -> str:
    """Return a change of NLL; the estimate is of its negative."""
    low, high = sorted((sign * e.low, sign * e.high))
    return format_interval(sign * e.value, low, high, "nll")
