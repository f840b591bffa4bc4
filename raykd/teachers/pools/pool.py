"""`TeacherPool`: what a run asks of its teachers, whoever started their processes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from raykd.teachers.handle import PoolHandle
from raykd.teachers.pools.replica_client import ReplicaClient
from raykd.teachers.spec import TeacherInfo


class TeacherPool(Protocol):
    """The teachers of a run, whoever started their processes.

    `raykd.teachers.pools.own_pool.OwnPool` starts and ends them; `raykd.teachers.pools.attached_pool.AttachedPool` asks
    a named pool, which serves other runs too.

    Attributes:
        handle: What a worker needs to ask the pool; it changes when the pool is opened or parked.
        replicas: Asks the replicas for everything but answers to batches.
    """

    handle: PoolHandle

    @property
    def replicas(self) -> ReplicaClient: ...

    def open(self) -> list[TeacherInfo]:
        """Open the teachers and their stores, without loading weights; return what each teacher says of itself."""

    def park(self) -> None:
        """Give all CPUs and GPUs back, where they are the run's: from here the teachers answer from their stores."""

    def stop(self) -> None:
        """End the processes, where they are the run's."""

    def counters(self, teachers: Collection[str] | None = None) -> dict[str, dict[str, int]]:
        """Read what each teacher did for this run (`Teacher.counters`).

        Args:
            teachers: Those that are asked; None is all.

        Raises:
            TeacherError: One of them has no replica left.
        """

    def stored(self) -> dict[str, int]:
        """Count the answers in the store of each teacher; empty where others fill the stores too."""

    def restarts(self) -> dict[str, int]:
        """Count how often the processes of each teacher were restarted during this run."""


def restrict_handle(handle: PoolHandle, teachers: Collection[str] | None) -> PoolHandle:
    """Return the handle with these teachers alone; None takes all."""
    if teachers is None:
        return handle
    return handle.select([name for name in handle.teachers if name in teachers], handle.timeout_s)
