"""`Call` and `PendingPoolBatch`: requests of one batch on their way to the actors, and their answers laid out.

Decision record: an answer is a pure function of weights and text, so a call that died with its process is simply asked
again, of another replica or of the same one when Ray has started it anew. Each attempt may take `serving.timeout_s`;
after a restart three times the longest answer seen, if that is more, because the new process loads its weights again.
A process of the run's own that is late hangs (nothing else tells a hung process from a slow one): it is killed, which
counts among `max_restarts`. So every fault of a process ends in an answer or in a replica that is gone for good, after
`max_restarts` faults a replica; a text on which a model hangs can cost no more. The processes of a named pool belong to
others too and are never killed. A process that the node killed for memory is asked once more, in passes of half size.
Measured on two cores with other work on them and a small model: 9 to 20 s from kill -9 to the next answer, nearly all
of it the start of the new process; a hung one costs the time-out more.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import ray
from numpy.typing import NDArray

from raykd.answers.source import AnswerSlots, PendingBatch
from raykd.errors import RaykdError, TeacherError, TeacherLostError
from raykd.teachers.groups import Group
from raykd.teachers.source import TeacherRouter
from raykd.teachers.wire import GroupRequest
from raykd.text.batch import TextBatch

log = logging.getLogger("raykd.teachers")
_PAUSES_S = (0.5, 5.0)
"""Seconds before a process that starts anew is asked again: at first, and at most."""
_START_S = 60.0
"""What a process may take to start and to import, beside its time for an answer."""
_COLD = 3.0
"""How many times the longest answer a process may take that has to load its weights again."""


HOW_TO_RESUME = "the same command goes on from what is kept (train and sweep: with --resume)"
LOST_STEP = (
    f"see the log of its process; {HOW_TO_RESUME}; "
    "serving.on_teacher_loss=drop_and_renormalise goes on without it"
)


class ReplicaSource(Protocol):
    """What a call asks of the source that sent it: whom to ask, and who is gone."""

    handle: Any
    router: TeacherRouter
    members: list[int]
    in_flight: list[list[int]]
    calls: int
    retries: int
    hangs: int
    slowest_s: float

    def submit(self, batch: TextBatch) -> PendingBatch:
        """Asks the teachers."""
        ...

    def pick_replica(self, index: int, avoid: int | None = None, node: str | None = None) -> int:
        """A replica of the group."""
        ...

    def fetch(self, reference: Any, timeout_s: float) -> Any:
        """Waits for a value, as `ray.get`."""
        ...

    def kill_replica(self, index: int, replica: int) -> None:
        """Ends a replica's process; Ray starts it anew as often as `serving.max_restarts` says."""
        ...

    def is_starting(self, index: int, replica: int) -> bool:
        """Whether a replica's process is being started."""
        ...

    def killed_for_memory(self, index: int, replica: int, since_s: float) -> str | None:
        """What Ray says of it if a replica's last process was killed for memory since then."""
        ...

    def bury_replica(self, index: int, replica: int) -> bool:
        """Never asks this replica again; whether another one is left."""
        ...

    def drop_group(self, index: int, error: TeacherLostError) -> None:
        """Goes on without a group's teachers, or raises the error."""
        ...


class Call:
    """One request to one group, sent again to another replica if its process dies."""

    def __init__(
        self,
        source: ReplicaSource,
        index: int,
        request: GroupRequest,
        rows: NDArray[np.int64],
        node: str | None,
    ) -> None:
        self.source, self.index, self.request, self.rows, self.node = source, index, request, rows, node
        self.replica: int | None = None
        self._hangs = self._failures = 0
        self._failed_at: float | None = None
        self._first_sent_s = time.time()
        self._send()

    @property
    def group(self) -> Group:
        group: Group = self.source.handle.groups[self.index]
        return group

    def _send(self) -> None:
        self.replica = self.source.pick_replica(self.index, avoid=self.replica, node=self.node)
        self.source.in_flight[self.index][self.replica] += 1
        self.source.calls += 1
        actor = self.source.handle.replicas[self.index][self.replica]
        self.reference = actor.answer.remote(self.request)

    def result(self, deadline: float | None = None) -> list[AnswerSlots]:
        """Blocks for the answer, through deaths and hangs of processes.

        Args:
            deadline: on the monotonic clock, of a caller that waits no longer; nobody is killed for that.
        Raises:
            TeacherLostError: no replica is left, or none came back in time. TeacherError: later than the caller's
                deadline, or the teacher's code failed. RaykdError: what the teacher raised.
        """
        while True:
            begun = time.monotonic()
            wait_s = self._patience_s() if deadline is None else max(0.0, deadline - begun)
            try:
                answer: list[AnswerSlots] = self.source.fetch(self.reference, wait_s)
                self.source.slowest_s = max(self.source.slowest_s, sum(slots.latency_s for slots in answer))
                return answer
            except ray.exceptions.GetTimeoutError:
                if deadline is not None:
                    raise self._error(TeacherError, "did not answer in time") from None
                self._overdue(wait_s)
            except ray.exceptions.RayTaskError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, RaykdError):
                    raise cause from None
                raise self._error(TeacherError, f"failed: {str(error).strip().splitlines()[-1]}") from None
            except ray.exceptions.OutOfMemoryError as error:
                self._out_of_memory(error)
            except ray.exceptions.RayActorError as error:
                self._gone(error, deadline)

    def replace_if_late(self, waited_s: float) -> None:
        """For a caller that waits for many: this answer has been waited for so long; its process is given up.

        Raises:
            TeacherLostError: no replica is left.
        """
        if not ray.wait([self.reference], timeout=0.0)[0]:
            self._overdue(waited_s)

    def _patience_s(self) -> float:
        timeout_s = float(self.source.handle.timeout_s)
        again = self._hangs or self._failures
        return max(timeout_s, _COLD * self.source.slowest_s) if again else timeout_s

    def _overdue(self, waited_s: float) -> None:
        """No answer in time: of a process that is only just being started, or of one that hangs."""
        if self.source.is_starting(self.index, self.replica or 0):
            self._gone(ray.exceptions.ActorUnavailableError("it is being started", None), None)
        else:
            self._hung(waited_s)

    def _hung(self, waited_s: float) -> None:
        """The process is late: a fresh one is asked, or another replica."""
        self._hangs += 1
        self.source.hangs += 1
        handle, replica = self.source.handle, self.replica or 0
        what = f"did not answer in time (hung {self._hangs} times, {waited_s:g} s each)"
        if handle.pool is not None:
            raise self._error(TeacherLostError, "did not answer in time")
        log.warning(
            "teacher %s does not answer %d rows (first: %s) within %g s: its process is killed and asked again",
            self._names, len(self.request.batch), self.request.batch.ids[0], waited_s,
        )  # fmt: skip
        self.source.kill_replica(self.index, replica)
        if self._hangs > handle.max_restarts and not self.source.bury_replica(self.index, replica):
            raise self._error(TeacherLostError, what)
        self._again()

    def _out_of_memory(self, error: BaseException) -> None:
        """The node killed the process: once more, with half as much at once."""
        found = describe_memory_kill(error)
        if self.request.halved:
            raise self._error(
                TeacherLostError, f"was killed for memory again, in passes of half size ({found})"
            ) from None
        log.warning(
            "the process of teacher %s was killed for memory (%s): asked again in passes of half of "
            "serving.max_tokens",
            self._names, found,
        )  # fmt: skip
        self.request = replace(self.request, halved=True)
        self._again()

    def _gone(self, error: BaseException, deadline: float | None) -> None:
        """The process died, or is being started anew."""
        if not self.request.halved and not _finally_dead(error):
            # Ray says that it is being started before it says why: who is quick never hears of the memory.
            detail = self.source.killed_for_memory(self.index, self.replica or 0, self._first_sent_s)
            if detail is not None:
                return self._out_of_memory(ray.exceptions.OutOfMemoryError(detail))
        now = time.monotonic()
        self._failures += 1
        self._failed_at = now if self._failed_at is None else self._failed_at
        until = self._failed_at + _START_S + self._patience_s() if deadline is None else deadline
        pause_s = min(_PAUSES_S[1], _PAUSES_S[0] * 1.5 ** max(0, self._failures - 4))
        left = not _finally_dead(error) or self.source.bury_replica(self.index, self.replica or 0)
        if not left or now + pause_s >= until:
            raise self._error(TeacherLostError, f"is gone: {type(error).__name__}") from None
        time.sleep(pause_s)
        self._again()

    def _again(self) -> None:
        self.source.retries += 1
        self.source.in_flight[self.index][self.replica or 0] -= 1
        self._send()

    def release(self) -> None:
        """Takes the request out of the replica's load."""
        if self.replica is not None:
            self.source.in_flight[self.index][self.replica] -= 1
            self.replica = None

    @property
    def _names(self) -> str:
        return ", ".join(spec.name for spec in self.group.specs)

    def _error(self, kind: type[TeacherError], what: str) -> TeacherError:
        handle = self.source.handle
        return kind(
            f"teacher {self._names} {what}"
            if handle.pool is None
            else f"teacher pool {handle.pool}: teacher {self._names} {what}",
            got=f"{len(self.request.batch)} rows asked of replica {self.replica} of {self.group.replicas}",
            wanted=f"an answer within {handle.timeout_s:g} s",
            next_step=LOST_STEP if handle.pool is None else describe_pool_restart(handle.pool),
        )


def describe_pool_restart(pool: str) -> str:
    """The next step where a named pool does not answer."""
    return (
        f"raykd teachers status {pool} shows what is left of it; raykd teachers down {pool}, then raykd teachers up "
        f"POOL.yaml --name {pool} starts it again; {HOW_TO_RESUME}"
    )


_MEMORY = re.compile(r"([0-9.]+ ?GB)[a-z ]*/ *([0-9.]+ ?GB)")
_KILLED = re.compile(r"pid=(\d+), actual memory used=([0-9.]+) ?GB")


def describe_memory_kill(error: BaseException) -> str:
    """How full the node was and which processes were largest, from the pages that Ray says."""
    text = str(error)
    used = _MEMORY.search(text)
    killed = _KILLED.search(text)
    own = f"its process {killed.group(1)} had {killed.group(2)} GB; " if killed else ""
    node = (
        own + f"{used.group(1)} of {used.group(2)} in use on its node"
        if used
        else own + "the node's memory was full"
    )
    largest = re.findall(r"^\s*(\d+)\t+([0-9.]+)\t+(.+)$", text, re.MULTILINE)[:3]
    listed = ", ".join(f"{command.strip()[:40]} (pid {pid}) {gb} GB" for pid, gb, command in largest)
    return node + (f"; largest: {listed}" if listed else "")


def _finally_dead(error: BaseException) -> bool:
    """Whether Ray has given the actor up; an actor that restarts is unavailable only for a while."""
    return not isinstance(error, (ray.exceptions.ActorUnavailableError, ray.exceptions.OutOfMemoryError))


@dataclass
class PendingPoolBatch:
    """The requests of one batch, and the answers that were stored already.

    batch: where the source decided who is asked, so that it may decide anew when a teacher is lost; None where the
        caller did, who then has the loss as an error.
    """

    source: ReplicaSource
    calls: list[Call]
    answers: list[AnswerSlots]
    batch: TextBatch | None = None

    def __post_init__(self) -> None:
        self._lost = set(self.source.router.lost)

    @property
    def references(self) -> list[Any]:
        """What Ray can wait for."""
        return [call.reference for call in self.calls]

    def ready(self) -> bool:
        """Whether `result` has to wait for nothing."""
        references = self.references
        return len(ray.wait(references, num_returns=len(references), timeout=0.0)[0]) == len(references)

    def result(self, timeout: float | None = None) -> list[AnswerSlots]:
        """Blocks for all groups and lays their answers out over the batch, teachers in the source's order.

        Args:
            timeout: seconds after which the answers are too late for the caller; None is `serving.timeout_s` each.
        Raises:
            As `Call.result`, where the source does not go on without a lost teacher.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        place = {m: at for at, m in enumerate(self.source.members)}
        at_work: Call | None = None
        try:
            for call in self.calls if self.source.router.lost == self._lost else ():
                at_work = call
                answer = call.result(deadline)
                for row, m in zip(call.group.places, call.group.members, strict=True):
                    if m in place:
                        self.answers[place[m]].merge(answer[row], call.rows.tolist())
        except TeacherLostError as error:
            if self.batch is None or at_work is None:
                raise
            self.source.drop_group(at_work.index, error)
        finally:
            for call in self.calls:
                call.release()
        self.calls = []
        if self.batch is not None and self.source.router.lost != self._lost:
            # Asked anew as a whole: what the others answered is stored, and those who stand in are asked.
            return self.source.submit(self.batch).result(timeout)
        return self.answers
