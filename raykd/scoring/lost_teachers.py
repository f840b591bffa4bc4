"""Teachers that a run lost on its way (`serving.on_teacher_loss: drop_and_renormalise`), at its end.

Decision record: who is lost is read from the curves, which a resume keeps, and from Ray, which knows of a death after
the last step. A lost teacher has no row in the table: it cannot be asked, and numbers of an earlier time would be of
another system than the one that taught. A note, a curve and a tag say since when it is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from raykd.config import RunConfig
from raykd.distill.weighting import Fixed
from raykd.point import Point
from raykd.teachers.pools.attached_pool import SurvivingPool
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo


def find_loss_steps(curve: Sequence[Point]) -> dict[str, int]:
    """Lost teachers and the step at which each was missing first; one that came back (a resume) is not among them."""
    since: dict[str, int] = {}
    for point in curve:
        for name in [
            k.split("/")[1] for k in point.values if k.startswith("teacher/") and k.endswith("/weight")
        ]:
            if f"teacher/{name}/lost" in point.values:
                since.setdefault(name, point.step)
            else:
                since.pop(name, None)
    return since


def describe_lost_teachers(since: Mapping[str, int], lost: Collection[str]) -> tuple[str, ...]:
    """Return what a reader must know of the lost teachers."""
    return tuple(
        f"teacher {name} was lost by step {since[name]:,}: from there on the others taught alone, their weights "
        "renormalised (serving.on_teacher_loss)"
        if name in since
        else f"teacher {name} was lost after the last step that asked it: it has no row in the table"
        for name in [*since, *(n for n in lost if n not in since)]
    )


def drop_lost_teachers(
    config: RunConfig, pool: TeacherPool, infos: Sequence[TeacherInfo], since: Mapping[str, int]
) -> tuple[RunConfig, TeacherPool, list[TeacherInfo], tuple[str, ...]]:
    """Return the run, its pool and its teachers without the lost ones, and who those are.

    Where the run fails on a loss nobody is left out, and who asks a lost teacher is told.
    """
    gone = set(since) | set(pool.replicas.lost()) if config.serving.on_teacher_loss != "fail" else set()
    lost = tuple(name for name in pool.handle.teachers if name in gone)
    if not lost or len(lost) == len(infos):
        return config, pool, list(infos), ()
    objective, weighting = config.objective, config.objective.weighting
    if isinstance(weighting, Fixed):
        kept = {name: w for name, w in weighting.by_teacher.items() if name not in gone}
        objective = objective.model_copy(
            update={"weighting": weighting.model_copy(update={"by_teacher": kept})}
        )
    left = config.model_copy(update={"objective": objective})
    return left, SurvivingPool(pool, infos, gone), [info for info in infos if info.name not in gone], lost
