"""Open the teachers of a run: place them on the cluster, start their actors, or attach to a named pool.

Decision record: runs, sweeps and `raykd label` open their teachers here, so all of them find the same stores. A
store's folder follows from `output` and from content, never from a run's name. A run that names a pool (`serving.pool`)
gets that pool or an error, never another one that looks like it.
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
from raykd.config import CallableTeacher, Run, RunConfig, TeacherConfig
from raykd.config.rewriting.pinning import pin_teacher
from raykd.driver.jobs import Job, check_trained
from raykd.errors import TeacherError
from raykd.teachers.backends.backend import describe_teacher
from raykd.teachers.groups import Group
from raykd.teachers.pools.attached_pool import AttachedPool, compare_teachers, refuse_differences
from raykd.teachers.pools.named_pool import find_named_pool, find_whole_pools, list_pool_names
from raykd.teachers.pools.own_pool import OwnPool, Placement, group_placements
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.pools.stored_pool import NeededAnswers, open_stored_pool
from raykd.teachers.spec import TeacherInfo, TeacherSpec

log = logging.getLogger("raykd.runs")


def make_placements(config: RunConfig, trained: Mapping[str, Path]) -> list[Placement]:
    """Return the teachers that take part, and what each asks of the cluster.

    Args:
        config: The run of one task.
        trained: Folder of each teacher that was trained, by the name of its job. Without its folder a teacher can be
            placed, but not opened.
    """
    return [
        Placement(make_teacher_spec(config, teacher, trained), teacher.actor)
        for teacher in config.active_teachers
    ]


def make_teacher_spec(config: RunConfig, teacher: TeacherConfig, trained: Mapping[str, Path]) -> TeacherSpec:
    """Return what a process needs to become this teacher of the run.

    Args:
        config: The run of one task.
        teacher: One of its teachers.
        trained: As for `make_placements`.
    """
    serving = config.serving
    # Not in the run's folder: all runs with the same `output` share the stores.
    store = None if serving.store is None else str((Path(config.output).resolve() / serving.store).resolve())
    return TeacherSpec(
        teacher=pin_teacher(teacher.build_served(str(trained.get(f"teacher-{teacher.name}", "")))),
        labels=config.data.labels,
        task=config.task,
        dtype=serving.dtype,
        max_tokens=serving.max_tokens,
        store=store,
        store_limit_gb=serving.store_limit_gb,
        store_features=serving.store_features,
        source=_read_source(teacher),
    )


def _read_source(teacher: TeacherConfig) -> bytes | None:
    """Return the file of a function; None where there is none, which its backend refuses by name."""
    file = None if not isinstance(teacher, CallableTeacher) else teacher.source_file
    return Path(file).read_bytes() if file is not None and Path(file).is_file() else None


def start_pool(
    config: RunConfig,
    trained: Mapping[str, Path],
    say: Callable[[str], None] = log.warning,
    needed: Sequence[NeededAnswers] = (),
) -> tuple[TeacherPool, list[TeacherInfo]]:
    """Open the teachers of one task, without loading weights.

    With `serving.pool` no process is started, nor where the answers to all that they will be asked are stored.

    Args:
        config: The run of one task.
        trained: As for `make_placements`.
        say: Shows what is waited for.
        needed: All that they will be asked; empty where that is not known.

    Returns:
        The pool, and what each teacher says of itself.

    Raises:
        ModelError, LabelMismatchError, TeacherError, ResourceError: As `OwnPool.open`; no actor is left then.
        TeacherError: There is no such named pool, or it serves other teachers.
    """
    if config.serving.pool is not None:
        pool: TeacherPool = attach_pool(config, trained, config.serving.pool)
        infos = pool.open()
    else:
        pool, infos = _open_own_pool(config, make_placements(config, trained), say, needed)
    for info in infos:
        log.info("teacher %s answers in %s (%s) on %s", info.name, info.dtype, info.dtype_reason, info.device)
    return pool, infos


@contextlib.contextmanager
def open_pools(
    config: Run,
    trained: Mapping[str, Path],
    say: Callable[[str], None] = log.warning,
    needed: Mapping[str, Sequence[NeededAnswers]] | None = None,
) -> Iterator[dict[str, tuple[TeacherPool, list[TeacherInfo]]]]:
    """Open the teachers of every task while the body runs.

    A teacher reads rows of its own task only, so teachers of different tasks share no process.

    Args:
        config: The run.
        trained: As for `make_placements`.
        say: Shows what is waited for.
        needed: By task, all that its teachers will be asked; None where that is not known.

    Raises:
        RaykdError: An error of `start_pool`; no actor is left then.
    """
    pools: dict[str, tuple[TeacherPool, list[TeacherInfo]]] = {}
    try:
        for task, member in config.members.items():
            if member.active_teachers:
                pools[task] = start_pool(member, trained, say, (needed or {}).get(task, ()))
        yield pools
    finally:
        for pool, _ in pools.values():
            pool.stop()


def attach_pool(config: RunConfig, trained: Mapping[str, Path], name: str) -> AttachedPool:
    """Attach to a named pool that serves the run's teachers.

    Args:
        config: The run of one task.
        trained: As for `make_placements`.
        name: Name of the pool.

    Returns:
        The pool with the run's teachers in the run's order.

    Raises:
        TeacherError: There is no such pool, it is not whole, it serves other teachers, or one of them is dead.
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
    """Return what each teacher is asked to be and what its folder says, without loading weights."""
    return [(p.spec, describe_teacher(p.spec)) for p in placements]


def check_cluster(config: Run, teacher_jobs: Sequence[Job] = (), *, together: bool = True) -> None:
    """Check that the cluster can hold the run beside its named pools.

    Args:
        config: The run.
        teacher_jobs: The teachers that must be trained first. A run that attaches to a pool trains none.
        together: Whether the teachers keep their resources while students train.

    Raises:
        ResourceError: It cannot; shows the arithmetic.
        ModelError: A teacher that a named pool should serve is not trained.
    """
    name = config.serving.pool
    if name is None:
        stages = demands_of(config, group_teachers(config, {}), together=together)
    else:
        check_trained(
            [job for job in teacher_jobs if job.role == "teacher"],
            f"train them without serving.pool (raykd train RUN.yaml serving.pool=null), then raykd teachers up "
            f"POOL.yaml --name {name}",
        )
        stages = [[workers_demand(config.workers, "student workers")]]
    pools = list_pool_demands()
    for demands in stages:
        check_fits([*pools, *demands], ray.cluster_resources(), "the cluster")


def check_teachers(config: Run, trained: Mapping[str, Path]) -> None:
    """Check that the cluster can hold the teachers alone beside its named pools.

    Raises:
        ResourceError: It cannot; shows the arithmetic.
    """
    if config.serving.pool is None:
        demand = pool_demand(group_teachers(config, trained))
        check_fits([*list_pool_demands(), demand], ray.cluster_resources(), "the cluster")


def group_teachers(config: Run, trained: Mapping[str, Path]) -> list[Group]:
    """Return the groups of all tasks' teachers; those of a group share a process."""
    members = config.members.values()
    return [g for member in members for g in group_placements(make_placements(member, trained))]


def list_pool_demands() -> list[Demand]:
    """Return what each named pool of this cluster holds."""
    return [replace(pool_demand(list(s.handle.groups)), name=f"{POOL}{s.name}") for s in find_whole_pools()]


def _open_own_pool(
    config: RunConfig,
    placements: Sequence[Placement],
    say: Callable[[str], None],
    needed: Sequence[NeededAnswers],
) -> tuple[TeacherPool, list[TeacherInfo]]:
    stored = open_stored_pool(placements, config.serving, needed) if needed else None
    if stored is not None:
        return stored, stored.open()
    processes = [
        {"CPU": g.num_cpus, "GPU": g.num_gpus, **g.resources}
        for g in group_placements(placements)
        for _ in range(g.replicas)
    ]
    wait_for_resources(processes, "teachers", say, config.ray.wait_s)
    pool = OwnPool(placements, config.serving)
    try:
        return pool, pool.open()
    except BaseException:
        pool.stop()
        raise
