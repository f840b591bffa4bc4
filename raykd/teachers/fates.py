"""What became of replicas: how often each was started again, and which teachers have none left.

Decision record: Ray's own table of actors is asked, because it counts every restart, whoever saw the death first, and
remembers actors that are dead. There is no public call for it that works without a dashboard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raykd.compat.ray_private import read_actor_row
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
    row = read_actor_row(actor)
    state = row.get("State")
    return Fate(int(row.get("NumRestarts", 0)), state == "DEAD", state not in ("ALIVE", "DEAD", None))


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
