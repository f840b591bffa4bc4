"""`PoolSource`: the teachers of a pool as one worker's source of signals.

Decision record:

- A worker talks to the actors directly, so no payload passes the driver. A batch costs at most one call per group
  (and node).
- What is stored on the worker's own node costs no call: the worker reads the store itself and asks only for the
  (teacher, row) pairs that are missing.
- Each node has a store of its own. Where a group has replicas on several nodes, a row's key chooses one of them as its
  home, so each text is computed once in the whole cluster.
- An answer is a pure function of weights and text, so a call that died with its process is asked again (`Call`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle

from raykd.answers.features import name_feature_store
from raykd.answers.source import AnswerSlots, PendingBatch
from raykd.answers.vocabularies import TeacherVocabulary
from raykd.distill.features.states import FeatureRequest
from raykd.distill.weighting import Weighting
from raykd.errors import TeacherError, TeacherLostError
from raykd.teachers.call import Call
from raykd.teachers.handle import PoolHandle
from raykd.teachers.replicas import ReplicaSet, find_own_error
from raykd.teachers.source import ReadyBatch, RoutedSource, TeacherRouter
from raykd.teachers.store import SignalStore, make_text_keys
from raykd.teachers.wire import GroupRequest
from raykd.text.batch import TextBatch

log = logging.getLogger("raykd.teachers")


class PoolSource(RoutedSource):
    """The pool as one worker sees it.

    Args:
        handle: The pool.
        weighting: Decides which teachers are asked for a row; None asks all that speak its language.
        rank: The worker's, see `ReplicaSet`.
        teachers: Names of those that take part, in the pool's order; None takes all.
        direct: Whether to read what is stored on this node without asking an actor.
        idle_threads: Threads of this process that it lends to teachers while it waits for them
            (`raykd.teachers.threads`).

    Raises:
        ConfigError: A name is not in the pool.
    """

    def __init__(
        self,
        handle: PoolHandle,
        weighting: Weighting | None = None,
        rank: int = 0,
        teachers: Sequence[str] | None = None,
        direct: bool = True,
        idle_threads: int = 0,
    ) -> None:
        handle.check_names(teachers)
        self.handle = handle
        self.members = [m for m, name in enumerate(handle.teachers) if teachers is None or name in teachers]
        self.router = TeacherRouter(
            tuple(handle.teachers[m] for m in self.members),
            tuple(handle.teacher_languages[m] for m in self.members),
            weighting,
        )
        self.replicas = ReplicaSet(handle, rank, idle_threads)
        self.answered_rows = [0] * len(self.members)
        self.direct_rows = [0] * len(self.members)
        self._feature_stores: dict[tuple[int, FeatureRequest], SignalStore] = {}
        self._stores = _open_local_stores(handle, self.members) if direct and handle.nodes else {}
        self._homes = [sorted(set(nodes)) for nodes in handle.nodes] or [[] for _ in handle.groups]

    def submit(
        self,
        batch: TextBatch,
        asked_MB: NDArray[np.bool_] | None = None,
        *,
        features: Sequence[FeatureRequest] = (),
    ) -> PendingBatch:
        """Read what is stored here, send the rest to the groups that are asked for a row, and return at once.

        Args:
            batch: B rows.
            asked_MB: Which teacher is asked for which row; None leaves it to the weighting.
            features: What each teacher is asked for beside its answers; () is nothing.
        """
        rerouted = batch if asked_MB is None else None
        asked_MB = self.router.route(batch) if asked_MB is None else asked_MB.copy()
        has_homes = any(len(nodes) > 1 for nodes in self._homes)
        keys = make_text_keys(batch) if self._stores or has_homes else []
        lost = self.router.lost
        answers = [AnswerSlots.empty(name, len(batch), lost=name in lost) for name in self.teachers]
        for at, slots in enumerate(answers):
            self._read(at, slots, asked_MB[at], keys, features[at] if features else ())
        if not asked_MB.any():
            return ReadyBatch(answers)
        pool_asked_MB = np.zeros((len(self.handle.teachers), len(batch)), dtype=bool)
        pool_asked_MB[self.members] = asked_MB
        wanted = dict(zip(self.members, features, strict=True)) if features else {}
        calls: list[Call] = []
        for index in range(len(self.handle.groups)):
            calls += self._send(index, batch, pool_asked_MB, keys, wanted)
        return PendingPoolBatch(self, calls, answers, rerouted, features)

    def _read(
        self,
        at: int,
        slots: AnswerSlots,
        asked_B: NDArray[np.bool_],
        keys: Sequence[bytes],
        wanted: FeatureRequest,
    ) -> None:
        """Take a teacher's answers from this node's store, and those rows out of `asked_B`."""
        rows = np.flatnonzero(asked_B)
        self.answered_rows[at] += len(rows)
        store = self._find_store(self.members[at], wanted)
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

    def _find_store(self, m: int, wanted: FeatureRequest) -> SignalStore | None:
        """Return this node's store of a teacher's answers with the states that are wanted; None where it has none."""
        if not wanted or m not in self._stores:
            return self._stores.get(m)
        if (m, wanted) not in self._feature_stores:
            own = self._stores[m]
            name = name_feature_store(own.fingerprint, wanted)
            self._feature_stores[m, wanted] = SignalStore(own.path.parent, name, read_only=True)
        return self._feature_stores[m, wanted]

    def _send(
        self,
        index: int,
        batch: TextBatch,
        asked_MB: NDArray[np.bool_],
        keys: Sequence[bytes],
        wanted: Mapping[int, FeatureRequest],
    ) -> list[Call]:
        """Ask a group for its rows: one call, or one per home where the group is on several nodes."""
        asked_mB = self.handle.groups[index].select_rows(asked_MB)
        rows = np.flatnonzero(asked_mB.any(axis=0))
        unlabelled = batch.without_labels()
        parts: dict[str | None, NDArray[np.int64]] = {None: rows}
        nodes = self._homes[index]
        if len(nodes) > 1:
            homes = np.asarray([self.find_home(index, keys[i]) for i in rows.tolist()])
            parts = {node: rows[homes == node] for node in nodes}
        own = self.handle.groups[index].place_features(wanted)
        calls = []
        for node, part in parts.items():
            if len(part):
                texts = unlabelled if len(part) == len(batch) else unlabelled.take(part.tolist())
                asked = np.ascontiguousarray(asked_mB[:, part])
                token = self.replicas.make_token()
                request = GroupRequest(texts, asked, token=token, features=own)
                calls.append(Call(self.replicas, index, request, part, node))
        return calls

    def vocabularies(self, teachers: Collection[str] | None = None) -> list[TeacherVocabulary]:
        """Return what these teachers bring beside their answers; one call per teacher.

        Args:
            teachers: Names; None is all.

        Raises:
            TeacherError: A teacher has no replica left.
        """
        members = zip(self.members, self.teachers, strict=True)
        return [
            self._fetch_vocabulary(m, name) for m, name in members if teachers is None or name in teachers
        ]

    def _fetch_vocabulary(self, m: int, name: str) -> TeacherVocabulary:
        failure: Exception | None = None
        for actor in self.handle.replicas[self.handle.find_group(m)]:
            reference: ray.ObjectRef[TeacherVocabulary] = actor.vocabulary.remote(name)
            try:
                return ray.get(reference, timeout=self.handle.timeout_s)
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
                failure = error
            except ray.exceptions.RayTaskError as error:
                raise (find_own_error(error) or error) from None
        raise TeacherError(
            f"teacher {name} does not tell its vocabulary",
            got=type(failure).__name__,
            wanted="a replica that is alive",
            next_step="see the log of its process",
        )

    def is_stored(self, teacher: str, keys: Sequence[bytes]) -> NDArray[np.bool_]:
        """Return for each text whether this node's store holds the teacher's answer to it."""
        store = self._stores.get(self.handle.teachers.index(teacher))
        if store is None:
            return np.zeros(len(keys), dtype=bool)
        return np.asarray([body is not None for body in store.get(keys)], dtype=bool)

    def count_computed_here(self) -> dict[str, int]:
        """Count per teacher the answers that this process computed, as they were gone from the store."""
        replicas = [r for actors in self.handle.replicas for r in actors if not isinstance(r, ActorHandle)]
        counted = [ray.get(replica.counters.remote()) for replica in replicas]
        return {name: n["computed_while_parked"] for each in counted for name, n in each.items()}

    def find_home(self, index: int, key: bytes) -> str | None:
        """Return the node that computes a text for a group; None where the group is on one node only."""
        nodes = self._homes[index]
        return nodes[int.from_bytes(key[:8], "little") % len(nodes)] if len(nodes) > 1 else None

    def drop_group(self, index: int, error: TeacherLostError) -> None:
        """Go on without the teachers of a group: they are not asked or read any more.

        Each worker learns of a loss by itself, perhaps at another step than the others. That is enough: weights are
        renormalised per unit over the teachers that cover it, and a step's counts of units are summed over all
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
        """Count per teacher the rows asked for through this source, and those of them read from the store here."""
        rows = zip(self.teachers, self.answered_rows, self.direct_rows, strict=True)
        return {name: {"answered": answered, "direct": direct} for name, answered, direct in rows}


@dataclass
class PendingPoolBatch:
    """The requests of one batch, and the answers that were stored already.

    Attributes:
        source: The source that sent them.
        calls: One per group and home that was asked.
        answers: One entry per teacher, filled with what was stored.
        batch: The rows, where the source decided who is asked, so that it can decide anew when a teacher is lost; None
            where the caller decided, who then gets the loss as an error.
        features: What each teacher was asked for beside its answers.
    """

    source: PoolSource
    calls: list[Call]
    answers: list[AnswerSlots]
    batch: TextBatch | None = None
    features: Sequence[FeatureRequest] = ()

    def __post_init__(self) -> None:
        self._lost = set(self.source.router.lost)

    @property
    def references(self) -> list[ray.ObjectRef[list[AnswerSlots]]]:
        """The calls, as Ray can wait for them."""
        return [call.reference for call in self.calls]

    def ready(self) -> bool:
        """Return whether `result` has nothing to wait for."""
        references = self.references
        return len(ray.wait(references, num_returns=len(references), timeout=0.0)[0]) == len(references)

    def result(self, timeout: float | None = None) -> list[AnswerSlots]:
        """Block for all groups, and lay their answers out over the batch in the order of the source's teachers.

        Args:
            timeout: Seconds after which answers are too late for the caller; None is `serving.timeout_s` for each.

        Raises:
            TeacherError: An error of `Call.result`, where the source does not go on without a lost teacher.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        place = {m: at for at, m in enumerate(self.source.members)}
        current: Call | None = None
        try:
            for call in self.calls if self.source.router.lost == self._lost else ():
                current = call
                answer = call.result(deadline)
                for row, m in zip(call.group.places, call.group.members, strict=True):
                    if m in place:
                        self.answers[place[m]].merge(answer[row], call.rows.tolist())
        except TeacherLostError as error:
            if self.batch is None or current is None:
                raise
            self.source.drop_group(current.index, error)
        finally:
            for call in self.calls:
                call.release()
        self.calls = []
        if self.batch is not None and self.source.router.lost != self._lost:
            # The whole batch is asked again: other answers are stored, and teachers that stand in are asked now.
            return self.source.submit(self.batch, features=self.features).result(timeout)
        return self.answers


def _open_local_stores(handle: PoolHandle, members: Sequence[int]) -> dict[int, SignalStore]:
    """Open the stores of teachers that have a replica on this process's node, by position in the pool."""
    here = ray.get_runtime_context().get_node_id()
    stores: dict[int, SignalStore] = {}
    for group, nodes, answers in zip(handle.groups, handle.nodes, handle.answers, strict=True):
        if here not in nodes:
            continue
        for m, spec, name in zip(group.members, group.specs, answers[nodes.index(here)], strict=True):
            if m in members and spec.store is not None and name is not None:
                stores[m] = SignalStore(Path(spec.store), name, read_only=True)
    return stores
