"""`ReplicaClient`: asks a pool's replicas for everything but answers to batches.

Decision record: a run's own pool and a named pool are asked in the same way, so the asking is an object beside them and
not a base class. A call to a replica that is being restarted is sent again, within one deadline.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from raykd.errors import RaykdError, TeacherError
from raykd.teachers.actor import ReplicaStatus
from raykd.teachers.call import describe_pool_restart
from raykd.teachers.groups import Group
from raykd.teachers.handle import PoolHandle
from raykd.teachers.replicas import find_lost_teachers, find_own_error
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.timing import Timing
from raykd.text.batch import TextBatch

log = logging.getLogger("raykd.teachers")
STATUS_GROUP = "status"
"""Ray's concurrency group in which a replica gives its status, however many requests wait."""
TEXTS_PER_CALL = 64
"""Texts that a replica writes in one call."""
_PAUSE_S = 0.5
"""Wait before a restarting replica is asked again."""


class ReplicaClient:
    """Asks the replicas of a pool."""

    def __init__(self, handle: PoolHandle) -> None:
        self._handle = handle

    def call_each(self, method: str, concurrency_group: str | None = None) -> dict[tuple[str, int], Any]:
        """Call a method of each replica that is alive.

        Args:
            method: Its name.
            concurrency_group: Ray's concurrency group in which it runs; None is the default one.

        Returns:
            The results, by name of the group and number of the replica.

        Raises:
            TeacherError: A teacher has no replica left.
        """
        options = {} if concurrency_group is None else {"concurrency_group": concurrency_group}
        groups = self._handle.groups
        # All are called before one is waited for.
        waiting = {
            (i, r): (call := getattr(actor, method).options(**options).remote, call())
            for i, actors in enumerate(self._handle.replicas)
            for r, actor in enumerate(actors)
        }
        results: dict[tuple[str, int], Any] = {}
        failures: dict[int, TeacherError] = {}
        for (i, r), (call, reference) in waiting.items():
            try:
                results[groups[i].name, r] = self.wait(groups[i], reference, call)
            except TeacherError as error:
                failures[i] = error
        answering = {name for name, _ in results}
        for i, failure in failures.items():
            if groups[i].name not in answering:
                raise failure
        return results

    def wait(
        self,
        group: Group,
        reference: ray.ObjectRef[Any],
        again: Callable[[], ray.ObjectRef[Any]] | None = None,
    ) -> Any:
        """Wait for the result of a call.

        Args:
            group: The teachers of the replica that was called.
            reference: The call.
            again: Sends the call again to a process that is being restarted; None gives up there.

        Raises:
            TeacherError: The replica does not answer in time, or is dead.
        """
        until = time.monotonic() + self._handle.timeout_s
        try:
            while again is not None and time.monotonic() + _PAUSE_S < until:
                try:
                    return ray.get(reference, timeout=until - time.monotonic())
                except (ray.exceptions.ActorUnavailableError, ray.exceptions.OutOfMemoryError):
                    time.sleep(_PAUSE_S)
                    reference = again()
            return ray.get(reference, timeout=max(0.0, until - time.monotonic()))
        except ray.exceptions.RayTaskError as error:
            raise (find_own_error(error) or error) from None
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.GetTimeoutError,
        ) as error:
            names, pool = ", ".join(spec.name for spec in group.specs), self._handle.pool
            raise TeacherError(
                f"{'' if pool is None else f'teacher pool {pool}: '}teacher {names} does not answer",
                got=find_last_line(error),
                wanted=f"a replica that is alive and answers within {self._handle.timeout_s:g} s",
                next_step="see the log of its process" if pool is None else describe_pool_restart(pool),
            ) from None

    def counters(self) -> dict[str, dict[str, int]]:
        """Sum `Teacher.counters` of each teacher over its replicas that are alive.

        Raises:
            TeacherError: A teacher has no replica left.
        """
        total: dict[str, dict[str, int]] = {}
        for counters in self.call_each("counters").values():
            add_counters(total, counters)
        return total

    def read_statuses(self) -> dict[tuple[str, int], ReplicaStatus]:
        """Read the status of each replica that is alive, by name of the group and number of the replica.

        Raises:
            TeacherError: A teacher has no replica left.
        """
        return self.call_each("status", STATUS_GROUP)

    def stored(self) -> dict[str, int]:
        """Count the answers in each teacher's store, over all nodes; a teacher without a store is left out.

        Raises:
            TeacherError: A teacher has no replica left.
        """
        # Replicas of one node count the same store.
        by_node = {
            (name, status.node): count
            for status in self.read_statuses().values()
            for name, count in status.stored.items()
            if count is not None
        }
        return {name: sum(n for (of, _), n in by_node.items() if of == name) for name, _ in by_node}

    def findings(self) -> dict[str, str]:
        """Read what the self-tests found of teachers that have computed: how their rows share a forward pass.

        Raises:
            TeacherError: A teacher has no replica left.
        """
        parts = self.call_each("findings").values()
        return {n: line for part in parts for n, line in part.items() if n in self._handle.teachers}

    def lost(self) -> tuple[str, ...]:
        """Find the teachers that have no replica left."""
        return find_lost_teachers(self._handle)

    def measure_times(
        self, samples: Mapping[str, TextBatch], student: TeacherSpec | None
    ) -> dict[str, tuple[Timing | None, Timing | None]]:
        """Measure what a text takes each teacher, and the student beside it in the same process.

        One process is asked at a time, so that none disturbs another.

        Args:
            samples: The texts by teacher.
            student: Its saved model, as a teacher's; None times the teachers alone.

        Returns:
            Each teacher's time and the student's; None where it is not known (see `Teacher.measure_time`).
        """
        found: dict[str, tuple[Timing | None, Timing | None]] = {}
        for group, actors in zip(self._handle.groups, self._handle.replicas, strict=True):
            for actor in actors:
                # Another replica is asked where the one before has no weights in memory.
                lacking = [
                    s.name
                    for s in group.specs
                    if found.get(s.name, (None, None))[0] is None
                    or (student is not None and found[s.name][1] is None)
                ]
                names = [name for name in lacking if name in samples]
                if not names:
                    break
                texts = {name: samples[name] for name in names}
                try:
                    found |= self.wait(group, actor.measure_times.remote(texts, student))
                except (RaykdError, ray.exceptions.RayError) as error:
                    log.warning("the times of %s were not measured: %s", ", ".join(names), error)
        return found

    def generate(self, m: int, rows: TextBatch, *, beams: int | None, max_new_tokens: int) -> list[str]:
        """Let teacher m write a text for each prompt or source; its replicas share the rows.

        Raises:
            ModelError: It is no language model.
            TeacherError: A replica died, or took too long for its part.
        """
        index = self._handle.find_group(m)
        actors = self._handle.replicas[index]
        name = self._handle.teachers[m]
        starts = range(0, len(rows), TEXTS_PER_CALL)
        parts = [rows.take(range(at, min(at + TEXTS_PER_CALL, len(rows)))) for at in starts]
        waiting = [
            actors[at % len(actors)].generate.remote(name, part, beams, max_new_tokens)
            for at, part in enumerate(parts)
        ]
        return [text for call in waiting for text in self.wait(self._handle.groups[index], call)]


def add_counters(into: dict[str, dict[str, int]], counters: Mapping[str, Mapping[str, int]]) -> None:
    """Add the counters of one replica."""
    for name, values in counters.items():
        sums = into.setdefault(name, dict.fromkeys(values, 0))
        for key, value in values.items():
            sums[key] = sums.get(key, 0) + value  # a replica that has ended counts what all kinds count


def find_last_line(error: BaseException) -> str:
    """Return the last line of an error that is not blank; the error's type where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
