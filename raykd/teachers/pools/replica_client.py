"""`ReplicaClient`: everything that is asked of a pool's replicas but answers to batches.

Decision record: a run's own pool and a named pool are asked in the same way, so what asks is an object beside them and
no base class of theirs. A call to a replica that is being restarted is sent again, within one deadline.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from raykd.errors import RaykdError, TeacherError
from raykd.teachers.call import describe_pool_restart
from raykd.teachers.groups import Group
from raykd.teachers.handle import PoolHandle
from raykd.teachers.replica_state import find_lost_teachers
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.timing import Timing
from raykd.text.batch import TextBatch

log = logging.getLogger("raykd.teachers")
STATUS_GROUP = "status"
"""Ray's concurrency group in which a replica says how it is, however many requests wait."""
TEXTS_PER_CALL = 64
"""Texts that a replica writes in one call."""
_PAUSE_S = 0.5


class ReplicaClient:
    """Asks the replicas of a pool.

    Args:
        handle: The pool.
    """

    def __init__(self, handle: PoolHandle) -> None:
        self._handle = handle

    def call_each(self, method: str, concurrency_group: str | None = None) -> dict[tuple[str, int], Any]:
        """Call a method of each replica that is alive.

        Args:
            method: Its name.
            concurrency_group: Ray's concurrency group in which it runs; None is the default one.

        Returns:
            What they return, by name of the group and number of the replica.

        Raises:
            TeacherError: A teacher has no replica left.
        """
        options = {} if concurrency_group is None else {"concurrency_group": concurrency_group}
        waiting = {
            (i, r): getattr(actor, method).options(**options).remote()
            for i, actors in enumerate(self._handle.replicas)
            for r, actor in enumerate(actors)
        }
        groups = self._handle.groups
        answers: dict[tuple[str, int], Any] = {}
        lost: dict[int, TeacherError] = {}
        for (i, r), reference in waiting.items():
            again = getattr(self._handle.replicas[i][r], method).options(**options)
            try:
                answers[groups[i].name, r] = self.wait(groups[i], reference, again.remote)
            except TeacherError as error:
                lost[i] = error
        for i, group in enumerate(groups):
            if not any(name == group.name for name, _ in answers):
                raise lost[i]
        return answers

    def wait(self, group: Group, reference: Any, again: Callable[[], Any] | None = None) -> Any:
        """Wait for the result of a call.

        Args:
            group: The teachers of the replica that was called.
            reference: The call.
            again: Sends it again, to a process that is being restarted; None gives up there.

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
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, RaykdError) else error) from None
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

    def stored(self) -> dict[str, int]:
        """Count the answers in each teacher's store, over all nodes; a teacher without a store is left out.

        Raises:
            TeacherError: A teacher has no replica left.
        """
        held: dict[tuple[str, str], int] = {}
        for status in self.call_each("status", STATUS_GROUP).values():
            for name, count in status.stored.items():
                if count is not None:
                    held[name, status.node] = count
        return {name: sum(n for (of, _), n in held.items() if of == name) for name, _ in held}

    def findings(self) -> dict[str, str]:
        """Read what the self-tests found of teachers that have computed: how their rows share a forward pass.

        Raises:
            TeacherError: A teacher has no replica left.
        """
        found: dict[str, str] = {}
        for part in self.call_each("findings").values():
            found |= {name: line for name, line in part.items() if name in self._handle.teachers}
        return found

    def lost(self) -> tuple[str, ...]:
        """Find the teachers that have no replica left."""
        return find_lost_teachers(self._handle)

    def measure_times(
        self, samples: Mapping[str, TextBatch], student: TeacherSpec
    ) -> dict[str, tuple[Timing | None, Timing | None]]:
        """Measure what a text takes each teacher, and the student beside it in the same process; one process at a time.

        Args:
            samples: The texts by teacher.
            student: Its saved model, as a teacher's.

        Returns:
            Each teacher's time and the student's; None is not known (see `Teacher.measure_time`).
        """
        found: dict[str, tuple[Timing | None, Timing | None]] = {}
        for group, actors in zip(self._handle.groups, self._handle.replicas, strict=True):
            for actor in actors:
                names = [
                    s.name for s in group.specs if s.name in samples and None in found.get(s.name, (None,))
                ]
                if not names:
                    break
                try:
                    found |= self.wait(
                        group, actor.measure_times.remote({n: samples[n] for n in names}, student)
                    )
                except (RaykdError, ray.exceptions.RayError) as error:
                    log.warning("the times of %s were not measured: %s", ", ".join(names), error)
        return found

    def generate(self, m: int, rows: TextBatch, *, beams: int | None, max_new_tokens: int) -> list[str]:
        """Let teacher m write a text for each prompt or source; its replicas share the rows.

        Raises:
            ModelError: It is no language model.
            TeacherError: A replica died, or took too long for its part.
        """
        index = next(i for i, g in enumerate(self._handle.groups) if m in g.members)
        actors = self._handle.replicas[index]
        name = self._handle.teachers[m]
        parts = [
            rows.take(range(at, min(at + TEXTS_PER_CALL, len(rows))))
            for at in range(0, len(rows), TEXTS_PER_CALL)
        ]
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
            sums[key] += value


def find_last_line(error: BaseException) -> str:
    """The last line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
