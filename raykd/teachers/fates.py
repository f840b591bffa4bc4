"""What became of replicas: how often each was started again, and which teachers have none left.

Decision record: Ray's own table of actors is asked, because it counts every restart, whoever saw the death first, and
remembers actors that are dead. There is no public call for it that works without a dashboard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.core.generated.common_pb2 import NODE_OUT_OF_MEMORY  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import (  # type: ignore[attr-defined]
    ActorTableData,
    WorkerTableData,
)

from raykd.teachers.groups import Group


class Replicas(Protocol):
    """What of a `PoolHandle` is read here."""

    @property
    def groups(self) -> tuple[Group, ...]: ...
    @property
    def replicas(self) -> tuple[tuple[Any, ...], ...]: ...
    @property
    def teachers(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Fate:
    """Of one replica: how often it was started again, whether it is dead for good, and whether it is being started."""

    restarts: int
    dead: bool
    starting: bool


def fates(handle: Replicas) -> list[list[Fate]]:
    """The fate of each replica of each group."""
    return [[fate(actor) for actor in replicas] for replicas in handle.replicas]


def fate(actor: Any) -> Fate:
    """What Ray knows of one replica."""
    row = ray._private.state.actors(actor._actor_id.hex())
    state = row.get("State")
    return Fate(int(row.get("NumRestarts", 0)), state == "DEAD", state not in ("ALIVE", "DEAD", None))


def killed_for_memory(actor: Any, since_s: float) -> str | None:
    """What Ray says of the last process of a replica if its node killed it for memory after ``since_s``; else None.

    The caller may hear first that the process is being started anew, and then never why.

    Args:
        since_s: seconds since 1970.
    """
    accessor = ray._private.state.state._connect_and_get_accessor()
    found = accessor.get_actor_info(actor._actor_id)
    if found is None:
        return None
    before = ActorTableData.FromString(found).previous_incarnations
    if not before:
        return None
    for row in accessor.get_worker_table():
        worker = WorkerTableData.FromString(row)
        if worker.worker_address.worker_id == before[-1].worker_id:
            lately = worker.end_time_ms >= 1000 * since_s
            return str(worker.exit_detail) if worker.exit_type == NODE_OUT_OF_MEMORY and lately else None
    return None


def restarts_of(handle: Replicas, found: Sequence[Sequence[Fate]]) -> dict[str, int]:
    """How often processes were started again, by teacher; teachers that share a process share its restarts."""
    by_member = {
        m: sum(fate.restarts for fate in replicas)
        for g, replicas in zip(handle.groups, found, strict=True)
        for m in g.members
    }
    return {name: by_member[m] for m, name in enumerate(handle.teachers)}


def lost_of(handle: Replicas, found: Sequence[Sequence[Fate]]) -> tuple[str, ...]:
    """Teachers that have no replica left, in the pool's order."""
    gone = {
        m
        for g, replicas in zip(handle.groups, found, strict=True)
        for m in g.members
        if all(fate.dead for fate in replicas)
    }
    return tuple(name for m, name in enumerate(handle.teachers) if m in gone)
