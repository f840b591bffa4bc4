"""The state of replicas as Ray reports it: how often each was restarted, and which teachers have none left.

Decision record: Ray's own table of actors is asked, because it counts every restart, whoever saw the death first, and
remembers actors that are dead. There is no public call for it that works without a dashboard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from raykd.compat.ray_private import read_actor_row
from raykd.teachers.groups import Group


class ReplicaGroups(Protocol):
    """The part of a `PoolHandle` that is read here."""

    @property
    def groups(self) -> tuple[Group, ...]: ...
    @property
    def replicas(self) -> tuple[tuple[Any, ...], ...]: ...
    @property
    def teachers(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class ReplicaState:
    """State of one teacher replica as Ray reports it: number of restarts, dead for good, restarting."""

    restarts: int
    dead: bool
    restarting: bool


def read_replica_states(handle: ReplicaGroups) -> list[list[ReplicaState]]:
    """Read the state of each replica of each group."""
    return [[read_replica_state(actor) for actor in replicas] for replicas in handle.replicas]


def read_replica_state(actor: Any) -> ReplicaState:
    """Read the state of one replica."""
    row = read_actor_row(actor)
    state = row.get("State")
    return ReplicaState(int(row.get("NumRestarts", 0)), state == "DEAD", state not in ("ALIVE", "DEAD", None))


def count_restarts(handle: ReplicaGroups) -> dict[str, int]:
    """Count how often processes were restarted, by teacher; teachers that share a process share its restarts."""
    by_member = {
        m: sum(state.restarts for state in replicas)
        for g, replicas in zip(handle.groups, read_replica_states(handle), strict=True)
        for m in g.members
    }
    return {name: by_member[m] for m, name in enumerate(handle.teachers)}


def find_lost_teachers(handle: ReplicaGroups) -> tuple[str, ...]:
    """Find the teachers that have no replica left, in the pool's order."""
    gone = {
        m
        for g, replicas in zip(handle.groups, read_replica_states(handle), strict=True)
        for m in g.members
        if all(state.dead for state in replicas)
    }
    return tuple(name for m, name in enumerate(handle.teachers) if m in gone)
