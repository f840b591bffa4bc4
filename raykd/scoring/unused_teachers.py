"""Teachers that a run never asks: its weighting would give them no weight for any of its training rows."""

from __future__ import annotations

from collections.abc import Iterable

from raykd.config import RunConfig
from raykd.distill.weighting import ByLanguage, Fixed


def find_unused_teachers(config: RunConfig, languages: Iterable[str]) -> dict[str, str]:
    """Teachers that are asked for no training row, and why.

    Args:
        languages: Of the training rows.
    """
    there = sorted(set(languages))
    names = tuple(t.name for t in config.active_teachers)
    spoken = [t.language_set for t in config.active_teachers]
    weighting = config.objective.weighting
    asks = {lang: weighting.may_need(lang, names, spoken) for lang in there}
    reasons = {}
    for m, name in enumerate(names):
        if config.plain or not any(asks[lang][m] for lang in there):
            own = [lang for lang in there if spoken[m] is None or lang in (spoken[m] or ())]
            others = {lang: [names[k] for k, asked in enumerate(asks[lang]) if asked] for lang in own}
            reasons[name] = _explain(config, name, own, others)
    return reasons


def _explain(config: RunConfig, name: str, own: list[str], others: dict[str, list[str]]) -> str:
    weighting = config.objective.weighting
    if config.plain:
        return "objective.alpha is 1, so the student learns from gold labels alone"
    if not own:
        return "no training row is in its languages"
    if isinstance(weighting, Fixed):
        return f"objective.weighting.by_teacher.{name} is 0"
    if isinstance(weighting, ByLanguage):
        who = "; ".join(
            f"rows in {lang} go to {', '.join(asked) or 'nobody'}" for lang, asked in others.items()
        )
        return f"objective.weighting by_language routes them to others ({who})"
    return f"objective.weighting {weighting.kind} gives it no weight"


def describe_unused_teachers(reasons: dict[str, str]) -> tuple[str, ...]:
    """Return a sentence a teacher."""
    return tuple(f"teacher {name} is asked for no row of this run: {why}" for name, why in reasons.items())
