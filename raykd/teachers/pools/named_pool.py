"""Named pools: teachers that outlive the process that started them, for one run after another.

Decision record:

- The replicas are detached actors whose names carry pool, group and replica. Beside them stands a keeper without CPU
  that holds what is served.
- The keeper is made first, so that its name is the lock between two starts at once, and filled last, so that what it
  holds is whole. Whatever a killed start left behind is found again by its name.
- Ray itself compares nothing: asked for an actor that exists, it silently returns the old one with its old arguments.
  So a run that attaches compares what each teacher *is* (weights, labels, truncation, precision), never names alone
  (`raykd.teachers.pools.attached_pool`), and a pool that is asked to start twice says what differs.
- The keeper is placed on the head node, whose loss ends the pool anyway. Without CPUs it would fit any node, and the
  loss of a worker's node would then end the runs that use the pool.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import ray

from raykd.compat.ray_private import find_head_resource
from raykd.config import ServingConfig
from raykd.errors import TeacherError
from raykd.teachers.actor import ReplicaStatus
from raykd.teachers.handle import PoolHandle, Replica
from raykd.teachers.pools.own_pool import CLOSE_S, OwnPool, Placement
from raykd.teachers.pools.replica_client import STATUS_GROUP
from raykd.teachers.spec import TeacherInfo, TeacherSpec

log = logging.getLogger("raykd.teachers")
NAMESPACE = "raykd"
"""Ray's namespace of named pools, whatever the namespace of the run."""
_PREFIX = "raykd.teachers"
_KEEPER = "keeper"
ANSWER_S = 5.0
"""Longest wait for a keeper, or for what the replicas say of themselves."""
_GONE_S = 30.0
"""Longest wait for killed actors to leave Ray's list of names."""
_LASTING = {"namespace": NAMESPACE, "lifetime": "detached"}
"""Options of actors that outlive the process that started them."""


@dataclass(frozen=True)
class NamedPool:
    """What a named pool serves. Kept by its keeper, read by runs that attach and by `raykd teachers`.

    Attributes:
        name: The pool's.
        handle: What a worker needs to ask it.
        infos: What each teacher says of itself, in the handle's order.
        started: Seconds since 1970.
    """

    name: str
    handle: PoolHandle
    infos: tuple[TeacherInfo, ...]
    started: float

    def find_spec(self, teacher: str) -> TeacherSpec:
        """Return what a teacher was asked to be."""
        return next(s for g in self.handle.groups for s in g.specs if s.name == teacher)

    def find_info(self, teacher: str) -> TeacherInfo:
        """Return what a teacher says of itself."""
        return self.infos[self.handle.teachers.index(teacher)]


class PoolKeeper:
    """An actor without CPU that holds what a pool serves."""

    def __init__(self) -> None:
        self._served: NamedPool | None = None

    def keep(self, served: NamedPool) -> None:
        """Take the pool once it is whole."""
        self._served = served

    def served(self) -> NamedPool | None:
        """Return the pool; None until it is whole."""
        return self._served


def list_pool_names() -> list[str]:
    """List the named pools of this cluster, whole or not."""
    return sorted({name.split("/")[1] for name in _list_actors()})


def _list_actors(pool: str | None = None) -> list[str]:
    prefix = f"{_PREFIX}/" if pool is None else f"{_PREFIX}/{pool}/"
    listed = ray.util.list_named_actors(all_namespaces=True)
    return [a["name"] for a in listed if a["namespace"] == NAMESPACE and a["name"].startswith(prefix)]


def find_named_pool(pool: str) -> NamedPool | None:
    """Find a named pool; None where there is no such pool.

    Raises:
        TeacherError: It is not whole: its start goes on, or was killed, or its keeper does not answer.
    """
    if not _list_actors(pool):
        return None
    why = "its keeper is gone"
    try:
        keeper: Replica = ray.get_actor(f"{_PREFIX}/{pool}/{_KEEPER}", namespace=NAMESPACE)
        served: object = ray.get(keeper.served.remote(), timeout=ANSWER_S)
        if isinstance(served, NamedPool):
            return served
        why = "it is still being started, or its start was killed"
    except ValueError:
        pass
    except ray.exceptions.GetTimeoutError:
        why = f"its keeper does not answer within {ANSWER_S:g} s"
    except ray.exceptions.RayActorError as error:
        why = f"its keeper is gone: {type(error).__name__}"
    raise TeacherError(
        f"teacher pool {pool} is not whole",
        got=why,
        wanted="a pool that `raykd teachers up` has finished",
        next_step=f"wait if it is being started; else raykd teachers down {pool} removes what is left of it",
    )


def find_whole_pools() -> list[NamedPool]:
    """Find the named pools of this cluster; those that are not whole are left out, with a warning."""
    found = []
    for name in list_pool_names():
        try:
            served = find_named_pool(name)
        except TeacherError as error:
            log.warning("%s", error)
            continue
        if served is not None:
            found.append(served)
    return found


def start_named_pool(
    pool: str, placements: Sequence[Placement], serving: ServingConfig, *, load: bool = False
) -> NamedPool:
    """Start and open a pool that outlives this process. A start that fails leaves no actor.

    Args:
        pool: Its name.
        placements: The teachers.
        serving: Restarts and time-out.
        load: Whether to load all weights now; else each teacher does on the first row that its store does not hold.

    Raises:
        TeacherError: The name is taken. As `OwnPool.open` and `OwnPool.load`.
    """
    keeper = start_keeper(pool)
    try:
        teachers = OwnPool(
            placements,
            serving,
            named=lambda g, r: {"name": f"{_PREFIX}/{pool}/{g.name}/{r}", **_LASTING},
        )
        infos = teachers.open()
        if load:
            teachers.load()
        served = NamedPool(pool, replace(teachers.handle, pool=pool), tuple(infos), time.time())
        ray.get(keeper.keep.remote(served), timeout=serving.timeout_s)
    except BaseException:
        end_named_pool(pool, flush=False)
        raise
    return served


def start_keeper(pool: str) -> Replica:
    """Start the keeper of a named pool on the head node and return its handle.

    Raises:
        TeacherError: The name is taken.
    """
    name = f"{_PREFIX}/{pool}/{_KEEPER}"
    try:
        return (
            ray.remote(PoolKeeper)
            .options(num_cpus=0, name=name, resources=find_head_resource(), **_LASTING)
            .remote()
        )
    except (ValueError, ray.exceptions.ActorAlreadyExistsError):
        raise TeacherError(
            f"there is a teacher pool {pool} already, or another process starts it now",
            next_step=f"raykd teachers status {pool}; raykd teachers down {pool} removes it",
        ) from None


def end_named_pool(pool: str, *, flush: bool = True) -> int:
    """Flush the stores and end every actor of a named pool, the keeper last; return how many there were.

    Raises:
        TeacherError: An actor is still there after a while.
    """
    names = _list_actors(pool)
    keeper = f"{_PREFIX}/{pool}/{_KEEPER}"
    found = {name: actor for name in names if (actor := _find_actor(name)) is not None}
    replicas = [actor for name, actor in found.items() if name != keeper]
    if flush and replicas:
        closing = [actor.close.remote() for actor in replicas]
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
    # The keeper last: while its name is taken, nobody else starts a pool of this name.
    for actor in [*replicas, *(found[name] for name in found if name == keeper)]:
        ray.kill(actor, no_restart=True)
    deadline = time.monotonic() + _GONE_S
    while left := _list_actors(pool):
        if time.monotonic() > deadline:
            raise TeacherError(
                f"teacher pool {pool} does not end",
                got=f"still there: {', '.join(left)}",
                next_step=f"raykd teachers down {pool} again; the log of the cluster says why",
            )
        time.sleep(0.1)
    return len(names)


def _find_actor(name: str) -> Replica | None:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:  # it ended meanwhile
        return None


def read_replica_statuses(handle: PoolHandle) -> dict[tuple[int, int], ReplicaStatus | str]:
    """Read how each replica is, by group and replica, or in a word why it does not say; waits once for all of them."""
    waiting = {
        (i, r): actor.status.options(concurrency_group=STATUS_GROUP).remote()
        for i, actors in enumerate(handle.replicas)
        for r, actor in enumerate(actors)
    }
    references = list(waiting.values())
    ready = set(ray.wait(references, num_returns=len(references), timeout=ANSWER_S)[0])
    return {key: _read_status(reference, reference in ready) for key, reference in waiting.items()}


def _read_status(reference: ray.ObjectRef[ReplicaStatus], ready: bool) -> ReplicaStatus | str:
    if not ready:
        return "no answer"
    try:
        return ray.get(reference, timeout=ANSWER_S)
    except ray.exceptions.ActorUnavailableError:
        return "restarting"
    except ray.exceptions.RayActorError:
        return "dead"
    except ray.exceptions.RayError as error:
        return type(error).__name__


def sum_resources_by_node(served: NamedPool) -> dict[str, dict[str, float]]:
    """Sum the resources that a named pool holds, by node."""
    nodes: dict[str, dict[str, float]] = {}
    for g, places in zip(served.handle.groups, served.handle.nodes, strict=True):
        for node in places:
            resources = nodes.setdefault(node, {})
            for name, amount in {"CPU": g.num_cpus, "GPU": g.num_gpus, **g.resources}.items():
                resources[name] = resources.get(name, 0.0) + amount
    return nodes
