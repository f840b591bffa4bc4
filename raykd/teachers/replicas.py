"""The replicas of a pool: their state as Ray reports it, and which of them a worker asks next.

Decision record: Ray's own table of actors is read, because it counts every restart, whoever saw the death first, and
remembers actors that are dead. There is no public call for it that works without a dashboard.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle

from raykd.answers.source import AnswerSlots
from raykd.compat.ray_private import find_memory_kill, read_actor_row
from raykd.errors import RaykdError
from raykd.teachers.handle import PoolHandle, Replica

LEND_AFTER_S = 0.005
"""Wait for an answer after which a worker lends its threads: a loan costs a call, of a millisecond."""


@dataclass(frozen=True)
class ReplicaState:
    """State of one teacher replica as Ray reports it: number of restarts, dead for good, restarting."""

    restarts: int
    dead: bool
    restarting: bool


def read_replica_state(actor: Replica) -> ReplicaState:
    """Read the state of one replica; teachers in this process have no process of their own that could end."""
    if not isinstance(actor, ActorHandle):
        return ReplicaState(0, dead=False, restarting=False)
    row = read_actor_row(actor)
    state = row.get("State")
    return ReplicaState(int(row.get("NumRestarts", 0)), state == "DEAD", state not in ("ALIVE", "DEAD", None))


def read_replica_states(handle: PoolHandle) -> dict[str, list[ReplicaState]]:
    """Read the states of each teacher's replicas; teachers that share a process share its state."""
    states: dict[int, list[ReplicaState]] = {}
    for group, actors in zip(handle.groups, handle.replicas, strict=True):
        found = [read_replica_state(actor) for actor in actors]
        states |= {m: found for m in group.members}
    return {name: states[m] for m, name in enumerate(handle.teachers)}


def count_restarts(handle: PoolHandle) -> dict[str, int]:
    """Count how often the processes of each teacher were restarted."""
    return {name: sum(s.restarts for s in states) for name, states in read_replica_states(handle).items()}


def find_lost_teachers(handle: PoolHandle) -> tuple[str, ...]:
    """Find the teachers that have no replica left, in the pool's order."""
    return tuple(name for name, states in read_replica_states(handle).items() if all(s.dead for s in states))


def find_own_error(error: ray.exceptions.RayTaskError) -> RaykdError | None:
    """Return the error that raykd's code raised in an actor; None where other code failed."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, RaykdError) else None


class ReplicaSet:
    """The replicas of a pool as one worker sees them: which it asks next, and which it has given up.

    Args:
        handle: The pool.
        rank: The worker's; replicas of equal load are taken in turn, starting there, so that workers do not all begin
            with the same one.
        idle_threads: Threads of this process that compute nothing while it waits for an answer; 0 lends none.

    Attributes:
        in_flight: The worker's own requests to each replica of each group that are not answered yet.
        calls: Requests sent.
        retries: Those of them that were sent again.
        hangs: Requests that were not answered in time.
        slowest_s: Longest time that a process took for an answer.
    """

    def __init__(self, handle: PoolHandle, rank: int, idle_threads: int = 0) -> None:
        self.handle = handle
        # Processes of a named pool serve others too, and may be of a raykd that takes no loan.
        self.idle_threads = idle_threads if handle.nodes and handle.pool is None else 0
        self._here = ray.get_runtime_context().get_node_id() if self.idle_threads else ""
        self.in_flight = [[0] * len(replicas) for replicas in handle.replicas]
        self.calls = self.retries = self.hangs = 0
        self.slowest_s = 0.0
        self._dead: set[tuple[int, int]] = set()
        self._turn = rank

    def pick(self, index: int, avoid: int | None = None, node: str | None = None) -> int:
        """Choose the replica of a group that has the fewest requests in flight.

        Args:
            index: The group.
            avoid: A replica that is taken only if there is no other.
            node: Where the replica should be, if one is alive there.
        """
        loads = self.in_flight[index]
        self._turn += 1
        order = [(self._turn + i) % len(loads) for i in range(len(loads))]
        alive = [r for r in order if (index, r) not in self._dead] or order
        here = [r for r in alive if node is None or self.handle.nodes[index][r] == node] or alive
        allowed = [r for r in here if r != avoid] or here
        return min(allowed, key=lambda r: loads[r])

    def fetch(self, reference: ray.ObjectRef[list[AnswerSlots]], timeout_s: float) -> list[AnswerSlots]:
        """Wait for an answer, as `ray.get`."""
        return ray.get(reference, timeout=timeout_s)

    def make_token(self) -> bytes:
        """Return a name for a request, under which threads can be lent; b"" where none are."""
        return os.urandom(8) if self.idle_threads else b""

    def lend_threads(
        self, index: int, replica: int, token: bytes, reference: ray.ObjectRef[list[AnswerSlots]]
    ) -> None:
        """Lend this process's threads to a replica that computes on this node's CPUs, until it has answered.

        Args:
            index: The group.
            replica: Which of its replicas is waited for.
            token: Of the request.
            reference: The answer; nothing is lent where it is there, or arrives at once.
        """
        is_near = bool(token) and self.handle.nodes[index][replica] == self._here
        if not is_near or self.handle.groups[index].num_gpus:
            return
        if not ray.wait([reference], timeout=LEND_AFTER_S)[0]:
            self.handle.replicas[index][replica].lend.remote(token, self.idle_threads)

    def kill(self, index: int, replica: int) -> None:
        """End a replica's process; Ray starts it anew as often as `serving.max_restarts` says."""
        ray.kill(self.handle.replicas[index][replica], no_restart=False)

    def is_starting(self, index: int, replica: int) -> bool:
        """Return whether a replica's process is being started."""
        return read_replica_state(self.handle.replicas[index][replica]).restarting

    def find_memory_kill(self, index: int, replica: int, since_s: float) -> str | None:
        """Return what Ray says if a replica's last process was killed for memory since then; None if it was not."""
        return find_memory_kill(self.handle.replicas[index][replica], since_s)

    def bury(self, index: int, replica: int) -> bool:
        """Never ask this replica again; return whether another one of its group is left."""
        self._dead.add((index, replica))
        return any((index, r) not in self._dead for r in range(len(self.in_flight[index])))
