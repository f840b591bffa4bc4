"""Find the teachers that do not teach: those that a run never asks, and those that it lost on its way.

Decision record: who is lost (`serving.on_teacher_loss: drop_and_renormalise`) is read from the curves, which a resume
keeps, and from Ray, which knows of a death after the last step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from raykd.config import RunConfig
from raykd.distill.weighting import Fixed
from raykd.distill.weightings.routing import ByLanguage
from raykd.point import Point
from raykd.teachers.pools.attached_pool import SurvivingPool
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo


def find_unused_teachers(config: RunConfig, languages: Iterable[str]) -> dict[str, str]:
    """Return the teachers that are asked for no training row, each with the reason."""
    found = sorted(set(languages))
    names = tuple(t.name for t in config.active_teachers)
    spoken = [t.language_set for t in config.active_teachers]
    asked = {lang: config.objective.weighting.may_need(lang, names, spoken) for lang in found}
    reasons = {}
    for m, name in enumerate(names):
        if config.plain or not any(asked[lang][m] for lang in found):
            own = [lang for lang in found if spoken[m] is None or lang in (spoken[m] or ())]
            others = {lang: [names[k] for k, is_asked in enumerate(asked[lang]) if is_asked] for lang in own}
            reasons[name] = _explain(config, name, others)
    return reasons


def _explain(config: RunConfig, name: str, others: Mapping[str, Sequence[str]]) -> str:
    """Return why a teacher is never asked.

    Args:
        config: The run.
        name: Name of the teacher.
        others: The teachers that are asked instead, for each training language that it speaks.
    """
    weighting = config.objective.weighting
    if config.plain:
        return "objective.alpha is 1, so the student learns from gold labels alone"
    if not others:
        return "no training row is in its languages"
    if isinstance(weighting, Fixed):
        return f"objective.weighting.by_teacher.{name} is 0"
    if isinstance(weighting, ByLanguage):
        who = "; ".join(
            f"rows in {lang} go to {', '.join(asked) or 'nobody'}" for lang, asked in others.items()
        )
        return f"objective.weighting by_language routes them to others ({who})"
    return f"objective.weighting {weighting.kind} gives it no weight"


def describe_unused_teachers(reasons: Mapping[str, str]) -> tuple[str, ...]:
    """Return a sentence per teacher."""
    return tuple(f"teacher {name} is asked for no row of this run: {why}" for name, why in reasons.items())


def find_loss_steps(curve: Sequence[Point]) -> dict[str, int]:
    """Return the lost teachers, each with the first step at which it was missing.

    A teacher that came back (after a resume) is not among them.
    """
    steps: dict[str, int] = {}
    for point in curve:
        for key in point.values:
            if not (key.startswith("teacher/") and key.endswith("/weight")):
                continue
            name = key.split("/")[1]
            if f"teacher/{name}/lost" in point.values:
                steps.setdefault(name, point.step)
            else:
                steps.pop(name, None)
    return steps


def describe_lost_teachers(steps: Mapping[str, int], lost: Collection[str]) -> tuple[str, ...]:
    """Return a sentence per lost teacher.

    Args:
        steps: As `find_loss_steps` returns them.
        lost: All lost teachers, also those that died after the last step.
    """
    return tuple(
        f"teacher {name} was lost by step {steps[name]:,}: from there on the others taught alone, their weights "
        "renormalised (serving.on_teacher_loss)"
        if name in steps
        else f"teacher {name} was lost after the last step that asked it: it has no row in the table"
        for name in dict.fromkeys([*steps, *lost])
    )


def drop_lost_teachers(
    config: RunConfig, pool: TeacherPool, infos: Sequence[TeacherInfo], steps: Mapping[str, int]
) -> tuple[RunConfig, TeacherPool, list[TeacherInfo], tuple[str, ...]]:
    """Return the run, its pool and its teachers without the lost ones, and the names of those.

    Where the run fails on a loss nobody is left out: asking a lost teacher raises its error.

    Args:
        config: The run.
        pool: Its teachers.
        infos: What the teachers say of themselves, in the order of the pool.
        steps: As `find_loss_steps` returns them.
    """
    gone = set(steps) | set(pool.replicas.lost()) if config.serving.on_teacher_loss != "fail" else set()
    lost = tuple(name for name in pool.handle.teachers if name in gone)
    if not lost or len(lost) == len(infos):
        return config, pool, list(infos), ()
    return *leave_out_teachers(config, pool, infos, gone), lost


def leave_out_teachers(
    config: RunConfig, pool: TeacherPool, infos: Sequence[TeacherInfo], gone: Collection[str]
) -> tuple[RunConfig, TeacherPool, list[TeacherInfo]]:
    """Return the run, its pool and its teachers without those in `gone`, not all; see `drop_lost_teachers`."""
    weighting = config.objective.weighting.without(gone)
    objective = config.objective.model_copy(update={"weighting": weighting})
    left = config.model_copy(update={"objective": objective})
    return left, SurvivingPool(pool, infos, gone), [info for info in infos if info.name not in gone]
