"""Start, show and end named pools, which outlive runs (`raykd teachers`).

Decision record: a pool's file is a run file, of which only the teachers and their settings are read. So a run's file
starts for others the teachers that the run trained. Starting a pool that exists already is no error if it serves the
same teachers, because scripts do so; differences are reported, not applied. Calls to actors wait a few seconds at most,
since the command is needed when something hangs.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence

import ray

from raykd.cluster.connection import cluster_address, connect_ray
from raykd.cluster.interrupts import interruptible
from raykd.config import RayConfig, RunConfig
from raykd.driver.jobs import find_trained_teachers
from raykd.driver.pool import check_teachers, describe_teachers, make_placements
from raykd.errors import ConfigError, TeacherError
from raykd.preflight.model_check import look_at_teachers
from raykd.report.fitted_table import FittedTable, build_plain_table
from raykd.teachers.actor import ReplicaStatus
from raykd.teachers.groups import Group
from raykd.teachers.pools.attached_pool import compare_teachers, refuse_differences
from raykd.teachers.pools.named_pool import (
    NamedPool,
    end_named_pool,
    find_named_pool,
    list_pool_names,
    read_replica_statuses,
    start_named_pool,
)
from raykd.teachers.pools.own_pool import Placement, group_placements

log = logging.getLogger("raykd.runs")


def run_teachers_up(config: RunConfig, name: str | None = None, *, load: bool = False) -> list[str]:
    """Start the teachers of a run as a named pool.

    Args:
        config: The run.
        name: Name of the pool; None takes the run's.
        load: Whether to load all weights now; else a teacher does on the first text that its store lacks.

    Returns:
        Lines for the terminal.

    Raises:
        ConfigError: There are no teachers, or no cluster runs.
        ModelError: A teacher is not trained yet.
        TeacherError: The pool exists and serves other teachers, or not all of it is alive; or as `start_named_pool`.
    """
    name = config.name if name is None else name
    config = config.model_copy(update={"serving": config.serving.model_copy(update={"pool": None})})
    if not config.active_teachers:
        raise ConfigError("there are no teachers to start", got="teachers: []", wanted="at least one teacher")
    cluster_address(config.ray, "a teacher pool")
    look_at_teachers(config)
    trained = find_trained_teachers(
        config, "raykd train POOL.yaml trains them (a pool does not); raykd teachers up goes after that"
    )
    placements = make_placements(config, trained)
    with interruptible():
        connect_ray(config.ray)
        served = find_named_pool(name)
        if served is not None:
            return _check_existing(placements, served)
        check_teachers(config, trained)
        begun = time.monotonic()
        served = start_named_pool(name, placements, config.serving, load=load)
    return [
        f"teacher pool {name} is up after {time.monotonic() - begun:.1f} s: {_summarise(served.handle.groups)}",
        *(f"  {i.name} answers in {i.dtype} ({i.dtype_reason}) on {i.device}" for i in served.infos),
        f"runs ask it with serving.pool={name}; it stays until raykd teachers down {name}",
    ]


def _summarise(groups: Sequence[Group]) -> str:
    names = [spec.name for g in groups for spec in g.specs]
    cpus = sum(g.num_cpus * g.replicas for g in groups)
    gpus = sum(g.num_gpus * g.replicas for g in groups)
    processes = sum(g.replicas for g in groups)
    return (
        f"{len(names)} teachers ({', '.join(names)}) in {processes} process{'es' if processes != 1 else ''}, "
        f"{cpus:g} CPU" + (f", {gpus:g} GPU" if gpus else "")
    )


def _check_existing(placements: Sequence[Placement], served: NamedPool) -> list[str]:
    """Check that an existing pool serves the same teachers and is alive; return lines for the terminal.

    The lines name the resources that the pool was started with, if other ones are asked for now.
    """
    down = f"raykd teachers down {served.name}"
    refuse_differences(
        served.name,
        compare_teachers(describe_teachers(placements), served, exactly=True),
        f"{down}, then again; or another --name",
    )
    dead = [f"{g.name} replica {r}" for i, g in enumerate(served.handle.groups)
            for (at, r), s in read_replica_statuses(served.handle).items() if at == i and s == "dead"]  # fmt: skip
    if dead:
        raise TeacherError(
            f"teacher pool {served.name} is there, but not all of it is alive",
            got=f"dead: {', '.join(dead)}",
            next_step=f"{down}, then again",
        )
    wanted = group_placements(placements)
    lines = [f"teacher pool {served.name} is up already and serves the same teachers; nothing was changed"]
    asked, runs = ([_describe_group(g) for g in groups] for groups in (wanted, served.handle.groups))
    if asked != runs:
        lines.append(f"  it keeps what it was started with: {'; '.join(runs)}")
        lines.append(f"  now asked for: {'; '.join(asked)}; {down} first to change that")
    return lines


def _describe_group(g: Group) -> str:
    names, spec = "+".join(s.name for s in g.specs), g.specs[0]
    own = f", {g.resources}" if g.resources else ""
    gpus = f", GPU {g.num_gpus:g}" if g.num_gpus else ""
    return f"{names}: {g.replicas} x CPU {g.num_cpus:g}{gpus}{own}, max_tokens {spec.max_tokens}, store {spec.store}"


def run_teachers_status(name: str | None = None, address: str | None = None) -> FittedTable | None:
    """Return a table of the named pools with a row per teacher; None if there is no pool.

    Args:
        name: Name of the only pool to show; None shows all.
        address: The cluster; None takes RAY_ADDRESS, or the one that runs on this machine.

    Raises:
        ConfigError: There is no pool of that name.
    """
    _connect(address)
    names = list_pool_names()
    if name is not None and name not in names:
        raise ConfigError(
            f"there is no teacher pool {name} on this cluster", got=name, wanted=f"one of {names}"
        )
    if not names:
        return None
    heads = ("pool", "teacher", "languages", "alive", "node", "answered", "forwarded", "loaded", "stored", "memory",
             "age")  # fmt: skip
    lines: list[list[str]] = []
    hosts = {node["NodeID"]: str(node["NodeManagerHostname"]) for node in ray.nodes()}
    for pool in names if name is None else [name]:
        try:
            served = find_named_pool(pool)
        except TeacherError as error:
            broken = f"not whole: {error.got}; raykd teachers down {pool} removes it"
            lines.append([pool, broken, *[""] * (len(heads) - 2)])
            continue
        lines += [] if served is None else _list_rows(served, hosts)
    return build_plain_table(heads, lines, left=5)


def _list_rows(served: NamedPool, hosts: Mapping[str, str]) -> list[list[str]]:
    """Return a row per teacher of a pool, in the pool's order.

    Args:
        served: The pool.
        hosts: Host names, by Ray's id of the node.
    """
    statuses = read_replica_statuses(served.handle)
    rows: dict[int, list[str]] = {}
    for i, g in enumerate(served.handle.groups):
        replicas = [statuses[i, r] for r in range(g.replicas)]
        alive = [s for s in replicas if isinstance(s, ReplicaStatus)]
        silent = sorted(s for s in replicas if isinstance(s, str))
        state = f"{len(alive)}/{g.replicas}" + (f" ({', '.join(silent)})" if silent else "")
        nodes = ", ".join(sorted({hosts.get(s.node, s.node[:8]) for s in alive})) or "-"
        memory = f"{sum(s.memory for s in alive) / 1e6:,.0f} MB"
        for m, spec in zip(g.members, g.specs, strict=True):
            languages = "all" if spec.languages is None else ", ".join(sorted(spec.languages))
            # The teachers of a group share a process, whose memory stands beside the first of them.
            shared = memory if m == g.members[0] else f"with {g.specs[0].name}"
            counts = [*_format_counts(alive, spec.name), shared] if alive else ["-"] * 5
            age = _format_age(time.time() - served.started)
            rows[m] = [served.name, spec.name, languages, state, nodes, *counts, age]
    return [rows[m] for m in sorted(rows)]


def _format_counts(alive: Sequence[ReplicaStatus], teacher: str) -> list[str]:
    """Return a teacher's answered and forwarded rows, loaded replicas, and stored answers."""
    answered, forwarded, loaded = (
        sum(s.counters[teacher][what] for s in alive) for what in ("answered", "forwarded", "loaded")
    )
    return [f"{answered:,}", f"{forwarded:,}", f"{loaded} of {len(alive)}", _count_stored(alive, teacher)]


def _count_stored(alive: Sequence[ReplicaStatus], teacher: str) -> str:
    """Return the number of stored answers over all nodes. Replicas of one node share a store, which counts once."""
    by_node = {s.node: s.stored[teacher] for s in alive}
    known = [count for count in by_node.values() if count is not None]
    return f"{sum(known):,}" if known else "-"


def _format_age(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def run_teachers_down(names: Sequence[str] | None = None, address: str | None = None) -> list[str]:
    """End named pools. A pool that does not exist is no error.

    Args:
        names: Their names; None ends all.
        address: As for `run_teachers_status`.

    Returns:
        Lines for the terminal.
    """
    _connect(address)
    there = list_pool_names()
    lines = [
        f"teacher pool {name} is down: {end_named_pool(name)} actors ended, stores flushed"
        if name in there
        else f"there is no teacher pool {name} on this cluster; nothing was done"
        for name in (there if names is None else names)
    ]
    return lines or ["there is no teacher pool on this cluster; nothing was done"]


def _connect(address: str | None) -> None:
    connect_ray(RayConfig(address=address or os.environ.get("RAY_ADDRESS") or "auto"))
