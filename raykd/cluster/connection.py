"""The Ray cluster of a run: connecting to it, what it has, whether the run fits.

Decision record: whether a run fits is arithmetic done before any worker is taken, because Ray waits without end
for what it cannot have. The local cluster runs without its dashboard and other helpers (`omit_helpers` says which); a
run of `train` ends its placement groups itself. Ray's chatter goes to its own log folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from raykd.cluster.address import cannot_connect, configured_address, ray_address
from raykd.cluster.interrupts import owns_process
from raykd.cluster.own_processes import kill_own_ray, started_here
from raykd.cluster.startup import PROCESS_ENVIRONMENT, RayStart, ray_start_error, start_own_ray
from raykd.compat.ray_private import build_job_config
from raykd.config import RayConfig, Run, TeacherConfig, TrainedTeacher, WorkersConfig
from raykd.errors import ConfigError, ResourceError
from raykd.teachers.groups import Group

JOIN_S, START_S = 25.0, 120.0
"""Longest waits for a cluster that answered when it was knocked at, and for a Ray that starts on a busy machine."""
POOL = "teacher pool "
"""How the demand of a named pool begins."""


@dataclass(frozen=True)
class Demand:
    """What a stage of a run holds at once."""

    name: str
    cpus: float
    gpus: float
    resources: dict[str, float]


def connect_ray(config: RayConfig) -> None:
    """Connect to the cluster of the config, to that of RAY_ADDRESS, or start a local one.

    Raises:
        ConfigError: There is no such cluster.
        ResourceError: It has other versions, or no Ray can be started here.
    """
    global _ahead
    start, _ahead = _ahead, None
    if start is None:
        if ray.is_initialized():
            _check_no_client()
            return
        address = ray_address(config)
        if address is not None:
            _join_cluster(config, address)
            return
        start = start_own_ray(config)
    failed = start.wait(START_S)
    if failed is not None:
        kill_own_ray()
        raise ray_start_error(failed) from None


def start_ray_ahead(config: RayConfig) -> None:
    """Begin to start the Ray for which `connect_ray` will be called, if this run will have one of its own.

    Ray's processes start while this one imports, and checks the run. That is for the command line alone: what was
    begun ends with the process, so a check that fails is told at once. A notebook's process would go on.
    """
    global _ahead
    is_own = configured_address(config)[0] in (None, "local")
    if owns_process() and is_own and _ahead is None and not ray.is_initialized():
        with contextlib.suppress(ConfigError):  # the check says it
            _ahead = start_own_ray(config)


_ahead: RayStart | None = None
"""A start that nobody has waited for yet."""


def _join_cluster(config: RayConfig, address: str) -> None:
    """Connect to a cluster.

    Raises:
        ResourceError: It did not take this process.
    """
    options = {
        "address": address,
        "job_config": build_job_config(),
        "runtime_env": {"env_vars": PROCESS_ENVIRONMENT},
    }
    failed = RayStart(options).wait(JOIN_S)
    if failed is not None:
        raise cannot_connect(*configured_address(config), failed) from None


def _check_no_client() -> None:
    """Refuse a connection through Ray's client, which knows no placement groups.

    Raises:
        ConfigError: This process has one.
    """
    from ray.util.client import ray as client

    if client.is_connected():
        raise ConfigError(
            "this process is connected to Ray through its client server, through which no run can be driven",
            got="ray.init of an address ray://...",
            wanted="no ray.init before the run, or one of the cluster itself",
            next_step='ray.init("HOST:6379") on one of the cluster\'s machines, or raykd submit',
        )


def cluster_address(config: RayConfig, what: str) -> str | None:
    """Return the address of the running cluster; None where this process is connected to one already.

    Args:
        config: Where the address stands.
        what: What is sought there, for people.

    Raises:
        ConfigError: There is no address, so that connecting would start a local Ray that ends with the command.
    """
    if ray.is_initialized() and not started_here():
        return None
    address, _ = configured_address(config)
    if not address or address == "local":
        raise ConfigError(
            f"{what} needs a Ray cluster that outlives this command",
            got=f"ray.address: {address or 'null'}, and no RAY_ADDRESS",
            wanted="the address of a running cluster; `auto` finds the one on this machine",
            next_step="start one with `ray start --head`, then set ray.address=auto (or RAY_ADDRESS)",
        )
    return address


def pool_demand(groups: list[Group]) -> Demand:
    """Return what all replicas of all teachers hold."""
    resources: dict[str, float] = {}
    for g in groups:
        for name, amount in g.resources.items():
            resources[name] = resources.get(name, 0.0) + amount * g.replicas
    return Demand(
        "teachers",
        sum(g.num_cpus * g.replicas for g in groups),
        sum(g.num_gpus * g.replicas for g in groups),
        resources,
    )


def workers_demand(workers: WorkersConfig, name: str) -> Demand:
    """Return what the student's workers hold."""
    n = workers.num_workers
    return Demand(
        name, workers.num_cpus * n, workers.num_gpus * n, {k: v * n for k, v in workers.resources.items()}
    )


def _demand_of_its_teachers(teachers: Sequence[TeacherConfig]) -> list[Demand]:
    """Return what the teachers of an assistant, or of a pretraining, hold while it is trained."""
    found = []
    for one in teachers:
        actor, n = one.actor, one.actor.replicas
        resources = {name: amount * n for name, amount in actor.resources.items()}
        found.append(Demand(f"teacher {one.name}", actor.num_cpus * n, actor.num_gpus * n, resources))
    return found


def check_fits(demands: list[Demand], available: dict[str, float], where: str) -> None:
    """Compare what is held at once with what the cluster has.

    Raises:
        ResourceError: It has less; with the arithmetic.
    """
    totals: dict[str, float] = {}
    parts: dict[str, list[str]] = {}
    for demand in demands:
        for name, amount in {"CPU": demand.cpus, "GPU": demand.gpus, **demand.resources}.items():
            if amount:
                totals[name] = totals.get(name, 0.0) + amount
                parts.setdefault(name, []).append(f"{demand.name} {amount:g}")
    for name, wanted in totals.items():
        has = available.get(name, 0.0)
        if wanted > has + 1e-6:
            named = [d.name.removeprefix(POOL) for d in demands if d.name.startswith(POOL)]
            raise ResourceError(
                f"the run needs more {name} at once than {where} has",
                got=f"{' + '.join(parts[name])} = {wanted:g} {name}",
                wanted=f"at most {has:g} {name}",
                next_step="let teachers share a process: teacher_defaults.actor={num_cpus: 0.25, group: teachers}; "
                "or lower workers.num_workers or num_cpus; or use a larger cluster"
                + (
                    f"; or end a pool that no run needs: raykd teachers down {' | '.join(named)}"
                    if named
                    else ""
                ),
            )


def demands_of(config: Run, groups: list[Group], *, together: bool = True) -> list[list[Demand]]:
    """Return what is held at once, one list per stage: each pretraining and teacher's training, then pool and student.

    Args:
        config: The run.
        groups: The processes of its teachers.
        together: Whether pool and student hold their resources at once, or in turn.
    """
    stages = [
        [
            workers_demand(t.training.workers, f"training teacher {t.name}"),
            *_demand_of_its_teachers([one for one in config.teachers if one.name in t.training.teachers]),
        ]
        for t in config.trained_teachers
    ]
    if config.pretraining is not None:
        own = [t for t in config.pretraining.teachers if isinstance(t, TrainedTeacher)]
        stages[:0] = [
            *([workers_demand(t.training.workers, f"training teacher {t.name}")] for t in own),
            [
                workers_demand(config.workers, "pretraining the student"),
                *_demand_of_its_teachers(config.pretraining.teachers),
            ],
        ]
    pool = [pool_demand(groups)] if groups else []
    students = [workers_demand(config.workers, "student workers")]
    return [*stages, [*pool, *students]] if together else [*stages, *([pool] if pool else []), students]
