"""The pool of a run: which model each teacher is, where answers are kept, the actors started and opened.

Decision record: one place makes pools, for runs, sweeps and `raykd label` alike, so that all of them find the same
stores: a store's folder follows from `output` and from content, never from a run's name. A run that names a pool
(`serving.pool`) gets that one or an error, never another that looks like it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ray

from raykd.cluster.connection import POOL, Demand, check_fits, demands_of, pool_demand, workers_demand
from raykd.cluster.wait import wait_for_resources
from raykd.config import ModelTeacher, Run, RunConfig, TeacherConfig
from raykd.driver.jobs import Job, check_trained
from raykd.errors import TeacherError
from raykd.teachers.backends.backend import describe_teacher
from raykd.teachers.pools.attached_pool import AttachedPool, compare_teachers, refuse_differences
from raykd.teachers.pools.named_pool import find_named_pool, find_whole_pools, list_pool_names
from raykd.teachers.pools.own_pool import OwnPool, Placement, group_placements
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo, TeacherSpec

log = logging.getLogger("raykd.runs")


def find_store_root(config: RunConfig) -> Path | None:
    """The folder of all stores, None where nothing is kept."""
    store = config.serving.store
    return None if store is None else (Path(config.output).resolve() / store).resolve()


def make_placements(config: RunConfig, trained: Mapping[str, Path]) -> list[Placement]:
    """The teachers that take part and what each asks of the cluster.

    Args:
        trained: folder of each teacher that was trained, by the name of its job; without it such a teacher is
            only good for counting resources.
    """
    return [_make_placement(config, teacher, trained) for teacher in config.active_teachers]


def _make_placement(config: RunConfig, teacher: TeacherConfig, trained: Mapping[str, Path]) -> Placement:
    return Placement(make_teacher_spec(config, teacher, trained), teacher.actor)


def make_teacher_spec(config: RunConfig, teacher: TeacherConfig, trained: Mapping[str, Path]) -> TeacherSpec:
    """What a process needs to become this teacher of the run.

    Args:
        trained: as in `make_placements`.
    """
    serving, root = config.serving, find_store_root(config)
    paths = {t.name: trained[f"teacher-{t.name}"] for t in config.teachers if f"teacher-{t.name}" in trained}
    return TeacherSpec(
        name=teacher.name,
        kind=teacher.kind,
        path=teacher.path if isinstance(teacher, ModelTeacher) else str(paths.get(teacher.name, "")),
        labels=config.data.labels,
        task=config.task,
        languages=teacher.language_set,
        revision=teacher.revision if isinstance(teacher, ModelTeacher) else None,
        trust_remote_code=isinstance(teacher, ModelTeacher) and teacher.trust_remote_code,
        label_map=dict(teacher.label_map),
        language_codes=dict(teacher.language_codes),
        max_length=teacher.max_length,
        dtype=serving.dtype,
        max_tokens=serving.max_tokens,
        store=None if root is None else str(root),
        store_limit_gb=serving.store_limit_gb,
    )


def start_pool(
    config: RunConfig, trained: Mapping[str, Path], say: Callable[[str], None] = log.warning
) -> tuple[TeacherPool, list[TeacherInfo]]:
    """The pool of a run, opened (no weights are loaded), and what its teachers say of themselves.

    With `serving.pool` nothing is started: the named pool is asked, if it serves the run's teachers.

    Args:
        say: takes lines that say what is waited for.
    Raises:
        ModelError, LabelMismatchError, TeacherError, ResourceError: as `OwnPool.open`; no actor is left then.
        TeacherError: there is no such named pool, or it serves other teachers.
    """
    if config.serving.pool is not None:
        pool: TeacherPool = attach_pool(config, trained, config.serving.pool)
        infos = pool.open()
    else:
        pool, infos = _start(config, trained, say)
    for info in infos:
        log.info("teacher %s answers in %s (%s) on %s", info.name, info.dtype, info.dtype_reason, info.device)
    return pool, infos


@contextlib.contextmanager
def open_pools(
    config: Run, trained: Mapping[str, Path], say: Callable[[str], None] = log.warning
) -> Iterator[dict[str, tuple[TeacherPool, list[TeacherInfo]]]]:
    """The pool of each task that has teachers, opened; they end with the body.

    A teacher knows rows of its task only, so teachers of different tasks share no process.

    Raises:
        As `start_pool`; no actor is left then.
    """
    pools: dict[str, tuple[TeacherPool, list[TeacherInfo]]] = {}
    try:
        for task, member in config.members.items():
            if member.active_teachers:
                pools[task] = start_pool(member, trained, say)
        yield pools
    finally:
        for pool, _ in pools.values():
            pool.stop()


def attach_pool(config: RunConfig, trained: Mapping[str, Path], name: str) -> AttachedPool:
    """The run's teachers, in its order, in a named pool.

    Raises:
        TeacherError: there is no such pool, it is not whole, serves other teachers, or one of them is dead.
    """
    served = find_named_pool(name)
    if served is None:
        there = list_pool_names()
        raise TeacherError(
            f"there is no teacher pool {name} on this cluster",
            got=f"serving.pool: {name}",
            wanted=f"one of {there}" if there else "a pool that was started",
            next_step=f"raykd teachers up POOL.yaml --name {name}, or serving.pool=null for teachers of the run's own",
        )
    wanted = describe_teachers(make_placements(config, trained))
    refuse_differences(
        name,
        compare_teachers(wanted, served),
        f"change the run; or raykd teachers down {name}, then raykd teachers up with these teachers (or another "
        "--name); or serving.pool=null for teachers of the run's own",
    )
    serving = config.serving
    pool = AttachedPool(served, [spec.name for spec, _ in wanted], serving.timeout_s, serving.on_teacher_loss)
    stores = sorted({str(spec.store) for g in pool.handle.groups for spec in g.specs})
    log.info(
        "attached to teacher pool %s (%s); it keeps its answers in %s",
        name,
        pool.handle.groups,
        ", ".join(stores),
    )
    return pool


def describe_teachers(placements: Sequence[Placement]) -> list[tuple[TeacherSpec, TeacherInfo]]:
    """What each teacher is asked to be, and what its directory says; loads no weights."""
    return [(p.spec, describe_teacher(p.spec)) for p in placements]


def check_cluster(config: Run, teacher_jobs: Sequence[Job] = (), *, together: bool = True) -> None:
    """Whether the cluster can hold the run beside the named pools that are on it.

    Args:
        teacher_jobs: the teachers that would have to be trained first; a run that attaches trains none.
        together: whether teachers keep their resources while students train.
    Raises:
        ResourceError: with the arithmetic. ModelError: a teacher that a named pool should serve is not trained.
    """
    name = config.serving.pool
    if name is not None:
        check_trained(
            teacher_jobs,
            f"train them without serving.pool (raykd train RUN.yaml serving.pool=null), then raykd teachers up "
            f"POOL.yaml --name {name}",
        )
    groups = [g for member in config.members.values() for g in group_placements(make_placements(member, {}))]
    stages = (
        demands_of(config, groups, together=together)
        if name is None
        else [[workers_demand(config.workers, "student workers")]]
    )
    pools = list_pool_demands()
    for demands in stages:
        check_fits([*pools, *demands], ray.cluster_resources(), "the cluster")


def check_teachers(config: Run, trained: Mapping[str, Path]) -> None:
    """Whether the cluster can hold the teachers alone beside the named pools; nothing is held by one that attaches.

    Raises:
        ResourceError: with the arithmetic.
    """
    if config.serving.pool is None:
        groups = [
            g
            for member in config.members.values()
            for g in group_placements(make_placements(member, trained))
        ]
        check_fits([*list_pool_demands(), pool_demand(groups)], ray.cluster_resources(), "the cluster")


def list_pool_demands() -> list[Demand]:
    """What the named pools of this cluster hold."""
    return [replace(pool_demand(list(s.handle.groups)), name=f"{POOL}{s.name}") for s in find_whole_pools()]


def _start(
    config: RunConfig, trained: Mapping[str, Path], say: Callable[[str], None]
) -> tuple[TeacherPool, list[TeacherInfo]]:
    groups = group_placements(make_placements(config, trained))
    processes = [
        {"CPU": g.num_cpus, "GPU": g.num_gpus, **g.resources} for g in groups for _ in range(g.replicas)
    ]
    wait_for_resources(processes, "teachers", say, config.ray.wait_s)
    pool = OwnPool(make_placements(config, trained), config.serving)
    try:
        infos = pool.open()
    except BaseException:
        pool.stop()
        raise
    return pool, infos
