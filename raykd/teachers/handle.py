"""`PoolHandle` and `PoolSource`: the teachers as one worker sees them.

Decision record: a worker talks to the actors directly, so no payload passes the driver; a batch costs at most one
call a group (and node). What is stored on the worker's own node costs no call at all: the worker reads the store
itself and asks only for the (teacher, row) pairs that are missing. Each node has a store of its own, so where a
group has replicas on several nodes a row has a home among them by its key: each text is computed once in the
whole cluster. Inside the home node the replica with the fewest of the worker's own requests in flight is asked;
replicas of equal load are taken in turn, starting at the worker's rank. An answer is a pure function of weights
and text, so a call that died with its process is simply asked again of another replica, within one deadline.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from raykd.answers.source import AnswerSlots, PendingBatch
from raykd.answers.vocabularies import TeacherVocabulary
from raykd.compat.ray_private import find_memory_kill
from raykd.distill.weighting import Weighting
from raykd.errors import ConfigError, RaykdError, TeacherError, TeacherLostError
from raykd.teachers.call import Call, PendingPoolBatch
from raykd.teachers.groups import Group
from raykd.teachers.replica_state import read_replica_state
from raykd.teachers.source import ReadyBatch, RoutedSource, TeacherRouter
from raykd.teachers.store import SignalStore, make_text_keys
from raykd.teachers.wire import GroupRequest
from raykd.text.batch import TextBatch

log = logging.getLogger("raykd.teachers")


@dataclass(frozen=True)
class PoolHandle:
    """What a worker needs to ask the pool; travels by pickle.

    replicas: the actors of each group. nodes: the Ray node of each of them, empty before the pool is opened.
    answers: of each of them the stores' names, one a member of the group; None where it keeps none.
    pool: name of a pool that outlives runs (`raykd.teachers.pools.named_pool`); None where the run owns it.
    max_restarts, on_loss: as `ServingConfig`.
    """

    groups: tuple[Group, ...]
    replicas: tuple[tuple[Any, ...], ...]
    teachers: tuple[str, ...]
    teacher_languages: tuple[frozenset[str] | None, ...]
    timeout_s: float
    nodes: tuple[tuple[str, ...], ...] = ()
    answers: tuple[tuple[tuple[str | None, ...], ...], ...] = ()
    pool: str | None = None
    max_restarts: int = 2
    on_loss: str = "fail"

    def select(self, teachers: Sequence[str], timeout_s: float, on_loss: str = "fail") -> PoolHandle:
        """The opened pool as a run sees it that takes these of its teachers, in this order.

        Raises:
            ConfigError: a name is not in the pool.
        """
        self.check_names(teachers)
        place = {self.teachers.index(name): at for at, name in enumerate(teachers)}
        kept = [i for i, g in enumerate(self.groups) if g.within(place)]
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
                tuple(tuple(names[at] for at in self.groups[i].within(place)) for names in self.answers[i])
                for i in kept
            ),
        )

    def check_names(self, teachers: Sequence[str] | None) -> None:
        """Raises ConfigError where a name is not in the pool, or none is given; None is all."""
        unknown = set(teachers or ()) - set(self.teachers)
        if unknown or (teachers is not None and not teachers):
            raise ConfigError(
                "a source wants teachers that the pool has",
                got=f"{sorted(teachers or ())}",
                wanted=f"some of {list(self.teachers)}",
            )

    def source(
        self,
        weighting: Weighting | None = None,
        rank: int = 0,
        teachers: Sequence[str] | None = None,
        direct: bool = True,
    ) -> PoolSource:
        """The pool as a source of signals for one worker.

        Args:
            weighting: decides which teachers are asked for a row; None asks all that speak its language.
            teachers: names of those that take part, the pool's order kept; None takes all.
            direct: read what is stored on this node without asking an actor.
        Raises:
            ConfigError: a name is not in the pool.
        """
        return PoolSource(self, weighting, rank, teachers, direct)


class PoolSource(RoutedSource):
    """The pool as one worker sees it."""

    def __init__(
        self,
        handle: PoolHandle,
        weighting: Weighting | None,
        rank: int,
        teachers: Sequence[str] | None = None,
        direct: bool = True,
    ) -> None:
        handle.check_names(teachers)
        self.handle = handle
        self.members = [m for m, name in enumerate(handle.teachers) if teachers is None or name in teachers]
        self.router = TeacherRouter(
            tuple(handle.teachers[m] for m in self.members),
            tuple(handle.teacher_languages[m] for m in self.members),
            weighting,
        )
        self.in_flight = [[0] * len(replicas) for replicas in handle.replicas]
        self.calls = 0
        self.retries = 0
        self.answered_rows = [0] * len(self.members)
        self.direct_rows = [0] * len(self.members)
        self._stores = _stores_here(handle, self.members) if direct and handle.nodes else {}
        self._dead: set[tuple[int, int]] = set()
        self.hangs = 0
        self.slowest_s = 0.0
        self._turn = rank
        self._homes = [sorted(set(nodes)) for nodes in handle.nodes] or [[] for _ in handle.groups]

    def submit(self, batch: TextBatch, asked_MB: NDArray[np.bool_] | None = None) -> PendingBatch:
        """Reads what is stored here, sends the rest to each group that is asked for a row; returns at once.

        Args:
            asked_MB: which teacher is asked for which row; None leaves it to the weighting.
        """
        again = batch if asked_MB is None else None
        asked_MB = self.router.route(batch) if asked_MB is None else asked_MB.copy()
        routed = any(len(nodes) > 1 for nodes in self._homes)
        keys = make_text_keys(batch) if self._stores or routed else []
        lost = self.router.lost
        answers = [AnswerSlots.empty(name, len(batch), lost=name in lost) for name in self.teachers]
        for at, slots in enumerate(answers):
            self._read(at, slots, asked_MB[at], keys)
        if not asked_MB.any():
            return ReadyBatch(answers)
        everyone_MB = np.zeros((len(self.handle.teachers), len(batch)), dtype=bool)
        everyone_MB[self.members] = asked_MB
        calls: list[Call] = []
        for index in range(len(self.handle.groups)):
            calls += self._send(index, batch, everyone_MB, keys)
        return PendingPoolBatch(self, calls, answers, again)

    def _read(self, at: int, slots: AnswerSlots, asked_B: NDArray[np.bool_], keys: Sequence[bytes]) -> None:
        """Answers from this node's store; what was found is taken out of what is asked."""
        rows = np.flatnonzero(asked_B)
        self.answered_rows[at] += len(rows)
        store = self._stores.get(self.members[at])
        if store is None or not len(rows):
            return
        begun = time.perf_counter()
        places = rows.tolist()
        bodies = store.get([keys[i] for i in places])
        slots.fill(places, bodies)
        found = [place for place, body in zip(places, bodies, strict=True) if body is not None]
        asked_B[found] = False
        self.direct_rows[at] += len(found)
        slots.latency_s += time.perf_counter() - begun

    def _send(
        self, index: int, batch: TextBatch, asked_MB: NDArray[np.bool_], keys: Sequence[bytes]
    ) -> list[Call]:
        asked_mB = self.handle.groups[index].asked(asked_MB)
        rows = np.flatnonzero(asked_mB.any(axis=0))
        blind = batch.without_labels()
        parts: dict[str | None, NDArray[np.int64]] = {None: rows}
        nodes = self._homes[index]
        if len(nodes) > 1:
            homes = np.asarray([self.find_home(index, keys[i]) for i in rows.tolist()])
            parts = {node: rows[homes == node] for node in nodes}
        return [
            Call(
                self,
                index,
                GroupRequest(
                    blind if len(part) == len(batch) else blind.take(part.tolist()),
                    np.ascontiguousarray(asked_mB[:, part]),
                ),
                part,
                node,
            )
            for node, part in parts.items()
            if len(part)
        ]

    def vocabularies(self) -> list[TeacherVocabulary]:
        """What each teacher brings beside its answers; one call a teacher.

        Raises:
            TeacherError: a teacher has no replica left.
        """
        return [self._vocabulary(m, name) for m, name in zip(self.members, self.teachers, strict=True)]

    def _vocabulary(self, m: int, name: str) -> TeacherVocabulary:
        index = next(i for i, g in enumerate(self.handle.groups) if m in g.members)
        lost: Exception | None = None
        for actor in self.handle.replicas[index]:
            try:
                vocabulary: TeacherVocabulary = ray.get(
                    actor.vocabulary.remote(name), timeout=self.handle.timeout_s
                )
                return vocabulary
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
                lost = error
            except ray.exceptions.RayTaskError as error:
                cause = getattr(error, "cause", None)
                raise (cause if isinstance(cause, RaykdError) else error) from None
        raise TeacherError(
            f"teacher {name} does not tell its vocabulary",
            got=type(lost).__name__,
            wanted="a replica that is alive",
            next_step="see the log of its process",
        )

    def stored(self, teacher: str, keys: Sequence[bytes]) -> NDArray[np.bool_]:
        """Which of these texts this node's store holds an answer to."""
        store = self._stores.get(self.handle.teachers.index(teacher))
        if store is None:
            return np.zeros(len(keys), dtype=bool)
        return np.asarray([body is not None for body in store.get(keys)], dtype=bool)

    def find_home(self, index: int, key: bytes) -> str | None:
        """The node that computes a text for a group; None where the group has one node only."""
        nodes = self._homes[index]
        return nodes[int.from_bytes(key[:8], "little") % len(nodes)] if len(nodes) > 1 else None

    def pick_replica(self, index: int, avoid: int | None = None, node: str | None = None) -> int:
        """The replica of a group with the fewest requests in flight: on this node if one is alive there, and not
        the one to avoid if there is another."""
        loads = self.in_flight[index]
        self._turn += 1
        order = [(self._turn + i) % len(loads) for i in range(len(loads))]
        alive = [r for r in order if (index, r) not in self._dead] or order
        here = [r for r in alive if node is None or self.handle.nodes[index][r] == node] or alive
        allowed = [r for r in here if r != avoid] or here
        return min(allowed, key=lambda r: loads[r])

    def fetch(self, reference: Any, timeout_s: float) -> Any:
        """Waits for a value, as `ray.get`."""
        return ray.get(reference, timeout=timeout_s)

    def kill_replica(self, index: int, replica: int) -> None:
        """Ends a replica's process; Ray starts it anew as often as `serving.max_restarts` says."""
        ray.kill(self.handle.replicas[index][replica], no_restart=False)

    def is_starting(self, index: int, replica: int) -> bool:
        """Whether a replica's process is being started."""
        return read_replica_state(self.handle.replicas[index][replica]).restarting

    def killed_for_memory(self, index: int, replica: int, since_s: float) -> str | None:
        """What Ray says of it if a replica's last process was killed for memory since then."""
        return find_memory_kill(self.handle.replicas[index][replica], since_s)

    def bury_replica(self, index: int, replica: int) -> bool:
        """Never asks this replica again; whether another one of its group is left."""
        self._dead.add((index, replica))
        return any((index, r) not in self._dead for r in range(len(self.in_flight[index])))

    def drop_group(self, index: int, error: TeacherLostError) -> None:
        """Goes on without the teachers of a group: from here they are neither asked nor read.

        Each worker learns of a loss by itself, perhaps at another step than the others, and that is enough: weights
        are renormalised for each unit over the teachers that cover it, and a step's counts of units are sums over all
        workers, so no worker needs to know who answered another one.

        Raises:
            TeacherLostError: `serving.on_teacher_loss` says fail, or no teacher would be left.
        """
        names = [spec.name for spec in self.handle.groups[index].specs if spec.name in self.teachers]
        if self.handle.on_loss == "fail" or not set(self.teachers) - self.router.lost - set(names):
            raise error
        if new := [name for name in names if name not in self.router.lost]:
            log.warning(
                "teacher %s is lost; the student goes on without it (serving.on_teacher_loss): %s",
                ", ".join(new), " ".join(str(error).split()),
            )  # fmt: skip
        self.router.drop_teachers(names)

    def counters(self) -> dict[str, dict[str, int]]:
        """For each teacher: rows asked of it through this source, and those of them read from the store here."""
        return {
            name: {"answered": answered, "direct": direct}
            for name, answered, direct in zip(
                self.teachers, self.answered_rows, self.direct_rows, strict=True
            )
        }


def _stores_here(handle: PoolHandle, members: Sequence[int]) -> dict[int, SignalStore]:
    """The stores of teachers that have a replica on this process's node, by position in the pool."""
    here = ray.get_runtime_context().get_node_id()
    stores: dict[int, SignalStore] = {}
    for group, nodes, answers in zip(handle.groups, handle.nodes, handle.answers, strict=True):
        if here not in nodes:
            continue
        for m, spec, name in zip(group.members, group.specs, answers[nodes.index(here)], strict=True):
            if m in members and spec.store is not None and name is not None:
                stores[m] = SignalStore(Path(spec.store), name, read_only=True)
    return stores
