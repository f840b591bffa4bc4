"""`Group`: teachers that share a process, as a run counts them and as the process does.

Decision record: a process answers for all its teachers in its own order. A run that attaches to a pool which others
use too may take some of them, in another order; so a group knows both, and nothing but the two places where a
request is sent and its answer laid out has to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raykd.teachers.spec import TeacherSpec


@dataclass(frozen=True)
class Group:
    """Teachers that share a process. ``members`` are their positions among all teachers.

    rows: where a run takes only some teachers of the process, their places among all of it, and width: how many it
    has; None where they are all of it.
    """

    name: str
    members: tuple[int, ...]
    specs: tuple[TeacherSpec, ...]
    replicas: int
    num_cpus: float
    num_gpus: float
    resources: dict[str, float]
    rows: tuple[int, ...] | None = None
    width: int | None = None

    @property
    def places(self) -> tuple[int, ...]:
        """Of each member its place among the teachers of the process."""
        return tuple(range(len(self.members))) if self.rows is None else self.rows

    def asked(self, asked_MB: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """``[teachers of the process, B]``: the rows of ``asked_MB`` as the process counts its teachers."""
        own_mB = asked_MB[list(self.members)]
        if self.rows is None:
            return own_mB
        wide_mB = np.zeros((self.width or 0, asked_MB.shape[1]), dtype=bool)
        wide_mB[list(self.rows)] = own_mB
        return wide_mB

    def within(self, place: Mapping[int, int]) -> list[int]:
        """Which of its members a run takes, ``place`` being the run's positions by the pool's."""
        return [at for at, m in enumerate(self.members) if m in place]

    def take(self, place: Mapping[int, int]) -> Group:
        """The group as that run counts its teachers."""
        taken = self.within(place)
        return replace(
            self,
            members=tuple(place[self.members[at]] for at in taken),
            specs=tuple(self.specs[at] for at in taken),
            rows=tuple(self.places[at] for at in taken),
            width=self.width or len(self.members),
        )

    @property
    def threads(self) -> int:
        """Intra-op threads of one replica: its whole CPUs, at least one."""
        return max(1, int(self.num_cpus + 1e-6))
