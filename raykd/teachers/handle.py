"""`PoolHandle`: what a process needs to reach the teachers of a pool; it travels by pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from raykd.errors import ConfigError
from raykd.teachers.groups import Group

Replica = Any
"""The handle of a `TeacherActor` or `ParkedActor` on Ray, which finds an actor's methods at run time, or a
`LocalReplica`."""


@dataclass(frozen=True)
class PoolHandle:
    """What a worker needs to ask the pool.

    Attributes:
        groups: Teachers that share a process.
        replicas: The actors of each group.
        teachers: Names, in the order of M.
        teacher_languages: Languages that each teacher was declared for; None for any.
        timeout_s: Longest wait for one answer.
        nodes: The Ray node of each actor; empty before the pool is opened.
        answers: The names of each actor's stores, one per member of its group; None where it keeps none.
        pool: Name of a pool that outlives runs (`raykd.teachers.pools.named_pool`); None where the run owns it.
        max_restarts: As `ServingConfig.max_restarts`.
        on_loss: As `ServingConfig.on_teacher_loss`.
    """

    groups: tuple[Group, ...]
    replicas: tuple[tuple[Replica, ...], ...]
    teachers: tuple[str, ...]
    teacher_languages: tuple[frozenset[str] | None, ...]
    timeout_s: float
    nodes: tuple[tuple[str, ...], ...] = ()
    answers: tuple[tuple[tuple[str | None, ...], ...], ...] = ()
    pool: str | None = None
    max_restarts: int = 2
    on_loss: str = "fail"

    def select(self, teachers: Sequence[str], timeout_s: float, on_loss: str = "fail") -> PoolHandle:
        """Return the opened pool as a run sees it that takes these of its teachers, in this order.

        Raises:
            ConfigError: A name is not in the pool.
        """
        self.check_names(teachers)
        place = {self.teachers.index(name): at for at, name in enumerate(teachers)}
        kept = [i for i, g in enumerate(self.groups) if g.find_taken(place)]
        return replace(
            self,
            groups=tuple(self.groups[i].take(place) for i in kept),
            replicas=tuple(self.replicas[i] for i in kept),
            teachers=tuple(teachers),
            teacher_languages=tuple(self.teacher_languages[m] for m in place),
            timeout_s=timeout_s,
            on_loss=on_loss,
            nodes=tuple(self.nodes[i] for i in kept),
            answers=tuple(
                tuple(
                    tuple(names[at] for at in self.groups[i].find_taken(place)) for names in self.answers[i]
                )
                for i in kept
            ),
        )

    def check_names(self, teachers: Sequence[str] | None) -> None:
        """Raise ConfigError where a name is not in the pool, or none is given; None stands for all."""
        unknown = set(teachers or ()) - set(self.teachers)
        if unknown or (teachers is not None and not teachers):
            raise ConfigError(
                "a source wants teachers that the pool has",
                got=f"{sorted(teachers or ())}",
                wanted=f"some of {list(self.teachers)}",
            )

    def find_group(self, m: int) -> int:
        """Return the index of the group that teacher m is in."""
        return next(i for i, group in enumerate(self.groups) if m in group.members)
