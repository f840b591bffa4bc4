"""`Group`: teachers that share a process, as a run numbers them and as the process does.

Decision record: a process answers for all its teachers in its own order. A run that attaches to a pool which others
use too may take only some of them, in another order. So a group knows both orders, and only the two places where a
request is sent and its answer laid out have to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raykd.distill.features.states import FeatureRequest
from raykd.teachers.spec import TeacherSpec


@dataclass(frozen=True)
class Group:
    """Teachers that share a process.

    Attributes:
        name: The group's.
        members: Positions among all teachers of the run.
        specs: One per member.
        replicas: Number of processes.
        num_cpus: Of one process, as are the other resources.
        num_gpus: May be a share of a GPU.
        resources: Custom resources of Ray.
        rows: Where a run takes only some teachers of the process, their places among all of them; None where it takes
            all.
        width: How many teachers the process has, where `rows` is given.
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
        """Each member's place among the teachers of the process."""
        return tuple(range(len(self.members))) if self.rows is None else self.rows

    def select_rows(self, asked_MB: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the rows of ``asked_MB`` in the order of the process, ``[teachers of the process, B]``."""
        own_mB = asked_MB[list(self.members)]
        if self.rows is None:
            return own_mB
        wide_mB = np.zeros((self.width or 0, asked_MB.shape[1]), dtype=bool)
        wide_mB[list(self.rows)] = own_mB
        return wide_mB

    def place_features(self, wanted: Mapping[int, FeatureRequest]) -> tuple[FeatureRequest, ...]:
        """Return what each teacher of the process is asked for beside its answers; () where none is asked.

        Args:
            wanted: By position among all teachers of the run.
        """
        if not any(wanted.get(m) for m in self.members):
            return ()
        placed: list[FeatureRequest] = [()] * (self.width or len(self.members))
        for m, place in zip(self.members, self.places, strict=True):
            placed[place] = wanted.get(m, ())
        return tuple(placed)

    def find_taken(self, place: Mapping[int, int]) -> list[int]:
        """Return which of its members a run takes.

        Args:
            place: Positions in the run by positions in the pool.
        """
        return [at for at, m in enumerate(self.members) if m in place]

    def take(self, place: Mapping[int, int]) -> Group:
        """Return the group with the run's teachers alone, numbered as the run does."""
        taken = self.find_taken(place)
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
        return max(1, int(self.num_cpus + 1e-6))  # CPUs are sums of shares: 0.1 added ten times is below 1
