"""Check, before anything runs, that a form of answer can serve a loss.

Decision record: the divergences themselves know what they can serve (`DivergenceBase.serves`). This module only asks
them early and says what to do instead. A temperature off the grid is refused, never interpolated: a sweep must search
on the grid that the teachers answered for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raykd.answers.answer import PayloadKind
from raykd.answers.vocabularies import VocabularyKind
from raykd.distill.adapting.learned import LearnedBase
from raykd.distill.losses import list_divergences
from raykd.distill.objective import Objective
from raykd.distill.schedules import ScheduleBase, Step
from raykd.distill.signals import Support
from raykd.errors import ConfigError


def find_support(kind: PayloadKind, vocabulary: VocabularyKind) -> Support:
    """Return over what a divergence compares the student with answers of a kind.

    Raises:
        ConfigError: The form does not allow this vocabulary.
    """
    if kind in ("dense", "hidden"):
        by_vocabulary: dict[VocabularyKind, Support] = {
            "same": "whole",
            "inside": "tail",
            "overlap": "tail",
            "own": "own",
        }
        return by_vocabulary[vocabulary]
    if vocabulary == "own" or (kind, vocabulary) == ("sampled", "overlap"):
        raise ConfigError(
            f"answers of kind {kind} cannot come from a teacher whose vocabulary is not the student's",
            got=f"payload {kind}, vocabulary {vocabulary}",
            wanted="top_k or hidden with a matched vocabulary, hidden with one that is not matched",
            next_step="set the payload to hidden",
        )
    return "tail" if kind == "top_k" else "draws"


def check_servable(
    objective: Objective,
    kind: PayloadKind,
    temperatures: Sequence[float] = (),
    *,
    vocabulary: VocabularyKind = "same",
) -> None:
    """Refuse answers over a vocabulary that an objective cannot be computed from, before anything runs.

    Args:
        objective: What is computed; plain training needs no answers and is never refused.
        kind: The form of the teachers' answers.
        temperatures: The grid of top-k answers, or the temperature at which tokens are drawn.
        vocabulary: How the teacher's maps onto the student's.

    Raises:
        ConfigError: A temperature is off the grid, or the form does not serve a divergence or the mixture.
    """
    if objective.plain:
        return
    support = find_support(kind, vocabulary)
    if across := [t.divergence.kind for t in objective.terms if t.divergence.across_units]:
        raise ConfigError(
            f"the divergence {across[0]} compares units with one another, and a language model's are compared a few at "
            "a time",
            got=f"objective.terms: {across[0]}",
            wanted="a divergence of single units",
            next_step="use forward_kl, reverse_kl, jensen_shannon or skewed_kl",
        )
    if objective.weighting.inner.reads_student:
        raise ConfigError(
            "this weighting reads all units of a micro-batch at once, and a language model's are computed a few at a "
            "time",
            got=f"objective.weighting: {objective.weighting.kind}",
            wanted="a weighting of single units",
            next_step="use by_language, by_column, uniform, entropy or loss_softmax",
        )
    factors = (term.lambda_schedule for term in objective.terms)
    if learned := [one.kind for one in (objective.temperature, *factors) if isinstance(one, LearnedBase)]:
        raise ConfigError(
            "a learned value is measured over all units at once, and a language model's are computed a few at a time",
            got=f"objective: {learned[0]}",
            wanted="a number or a schedule",
            next_step="use constant, linear, cosine or another schedule",
        )
    for divergence in (term.divergence for term in objective.terms):
        if not divergence.serves(support):
            raise ConfigError(
                f"the divergence {divergence.kind} cannot be computed from answers of kind {kind}"
                + ("" if vocabulary == "same" else f" of another vocabulary ({vocabulary})"),
                got=f"objective.terms: {divergence.kind}; payload {kind}",
                wanted=_wanted(support),
                next_step=_instead(support),
            )
    if objective.mixture != "arithmetic" and support != "whole":
        raise ConfigError(
            f"a {objective.mixture} mixture needs all logits of every teacher",
            got=f"objective.mixture: {objective.mixture}; payload {kind}, vocabulary {vocabulary}",
            wanted="mixture arithmetic, or answers of kind dense or hidden of the same vocabulary",
            next_step="set objective.mixture to arithmetic",
        )
    if kind in ("top_k", "sampled"):
        _check_temperature(objective.temperature, kind, temperatures)


def _check_temperature(schedule: ScheduleBase, kind: PayloadKind, grid: Sequence[float]) -> None:
    low, high = schedule.bounds()
    values = schedule.values if isinstance(schedule, Step) else (low, high)
    # As float32, which is what an answer holds.
    held = {float(np.float32(t)) for t in grid}
    steady = low == high or isinstance(schedule, Step)
    off = [value for value in values if float(np.float32(value)) not in held]
    if off or not steady:
        got = ", ".join(map(str, off)) if steady else f"a {schedule.kind} schedule from {low} to {high}"
        raise ConfigError(
            "objective.temperature is not one that the teachers answer for, and cannot be estimated from others",
            got=got,
            wanted=f"{'one of ' if len(grid) > 1 else ''}{', '.join(map(str, grid))}, constant or in steps",
            next_step="add it to the temperatures of the top_k payload"
            if kind == "top_k"
            else "sampled tokens are drawn at one temperature: use that, or top_k or hidden answers",
        )


def _wanted(support: Support) -> str:
    return {
        "whole": "any divergence",
        "tail": f"a divergence that needs no single logit: {', '.join(list_divergences('tail'))}",
        "draws": f"{' or '.join(list_divergences('draws'))}: others are biased under sampling",
        "own": f"{' or '.join(list_divergences('own'))}: it matches no tokens",
    }[support]


def _instead(support: Support) -> str:
    if support == "own":
        return "choose universal_logit, or match the vocabularies by string (overlap)"
    return "choose another divergence, or set the payload to hidden, which keeps every logit"
