"""`Call`: one request to a group of teachers, sent again when the process that it asked dies or hangs.

Decision record:

- An answer is a pure function of weights and text, so a call that died with its process is sent again, to another
  replica or to the same one once Ray has restarted it.
- Each attempt may take `serving.timeout_s`. After a restart it may take three times the longest answer seen, if that is
  more, because the new process loads its weights again.
- A late process of the run's own pool counts as hung (nothing else tells a hung process from a slow one). It is killed,
  which counts among `max_restarts`. So every fault ends in an answer or in a replica that is gone for good, after
  `max_restarts` faults per replica; a text on which a model hangs cannot cost more.
- The processes of a named pool serve other runs too and are never killed.
- A process that the node killed for memory is asked once more, in forward passes of half the size.

Measured on two busy cores with a small model: 9 to 20 s from kill -9 to the next answer, nearly all of it the start of
the new process. A hung process costs the time-out on top.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace

import numpy as np
import ray
from numpy.typing import NDArray

from raykd.answers.source import AnswerSlots
from raykd.errors import TeacherError, TeacherLostError
from raykd.teachers.replicas import ReplicaSet, find_own_error
from raykd.teachers.wire import GroupRequest

log = logging.getLogger("raykd.teachers")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
"""Waits before a restarting process is asked again."""
_START_S = 60.0
"""Time that a process may take to start and import, on top of its time for an answer."""
_RELOAD_FACTOR = 3.0
"""How many times the longest answer seen a process may take that has to load its weights again."""


HOW_TO_RESUME = "the same command goes on from what is kept (train and sweep: with --resume)"
LOST_STEP = (
    f"see the log of its process; {HOW_TO_RESUME}; "
    "serving.on_teacher_loss=drop_and_renormalise goes on without it"
)


class Call:
    """One request to one group, sent again to another replica if its process dies.

    Args:
        replicas: The pool's, as this worker sees them.
        index: The group.
        request: What is asked.
        rows: Which rows of the batch the request holds.
        node: Where it should be answered; None for any node.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        index: int,
        request: GroupRequest,
        rows: NDArray[np.int64],
        node: str | None,
    ) -> None:
        self.replicas, self.index, self.request, self.rows, self.node = replicas, index, request, rows, node
        self.group = replicas.handle.groups[index]
        self._hangs = self._failures = 0
        self._failed_at: float | None = None
        self._first_sent_s = time.time()
        self._send(avoid=None)

    def _send(self, avoid: int | None) -> None:
        replicas = self.replicas
        self.replica = replicas.pick(self.index, avoid=avoid, node=self.node)
        self._is_loaded = True
        replicas.in_flight[self.index][self.replica] += 1
        replicas.calls += 1
        actor = replicas.handle.replicas[self.index][self.replica]
        self.reference: ray.ObjectRef[list[AnswerSlots]] = actor.answer.remote(self.request)

    def result(self, deadline: float | None = None) -> list[AnswerSlots]:
        """Block for the answer, through deaths and hangs of processes.

        Args:
            deadline: On the monotonic clock, from a caller that waits no longer; no process is killed for it.

        Returns:
            One entry per teacher of the process.

        Raises:
            TeacherLostError: No replica is left, or none came back in time.
            TeacherError: The answer is later than the caller's deadline, or the teacher's code failed.
            RaykdError: What the teacher raised.
        """
        while True:
            wait_s = self._timeout_s() if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                self.lend_threads()
                answer = self.replicas.fetch(self.reference, wait_s)
                took_s = sum(slots.latency_s for slots in answer)
                self.replicas.slowest_s = max(self.replicas.slowest_s, took_s)
                return answer
            except ray.exceptions.GetTimeoutError:
                if deadline is not None:
                    raise self._error(TeacherError, "did not answer in time") from None
                self._handle_timeout(wait_s)
            except ray.exceptions.RayTaskError as error:
                what = f"failed: {str(error).strip().splitlines()[-1]}"
                raise (find_own_error(error) or self._error(TeacherError, what)) from None
            except ray.exceptions.OutOfMemoryError as error:
                self._retry_halved(error)
            except ray.exceptions.RayActorError as error:
                self._handle_death(error, deadline)

    def lend_threads(self) -> None:
        """Lend this process's threads to the one that is asked, until it has answered."""
        self.replicas.lend_threads(self.index, self.replica, self.request.token, self.reference)

    def replace_if_late(self, waited_s: float) -> None:
        """Give the process up if it has still not answered; for callers that wait for many calls at once.

        Args:
            waited_s: How long the caller has waited.

        Raises:
            TeacherLostError: No replica is left.
        """
        if not ray.wait([self.reference], timeout=0.0)[0]:
            self._handle_timeout(waited_s)

    def release(self) -> None:
        """Take the request out of the replica's load; a second time it does nothing."""
        self.replicas.in_flight[self.index][self.replica] -= self._is_loaded
        self._is_loaded = False

    def _timeout_s(self) -> float:
        timeout_s = self.replicas.handle.timeout_s
        is_retry = self._hangs or self._failures
        return max(timeout_s, _RELOAD_FACTOR * self.replicas.slowest_s) if is_retry else timeout_s

    def _handle_timeout(self, waited_s: float) -> None:
        """Tell a process that is being restarted from one that hangs."""
        if self.replicas.is_starting(self.index, self.replica):
            self._handle_death(ray.exceptions.ActorUnavailableError("it is being started", None), None)
        else:
            self._handle_hang(waited_s)

    def _handle_hang(self, waited_s: float) -> None:
        """Kill the process and ask its successor, or another replica."""
        self._hangs += 1
        self.replicas.hangs += 1
        handle, replica = self.replicas.handle, self.replica
        if handle.pool is not None:
            raise self._error(TeacherLostError, "did not answer in time")
        log.warning(
            "teacher %s does not answer %d rows (first: %s) within %g s: its process is killed and asked again",
            self._names, len(self.request.batch), self.request.batch.ids[0], waited_s,
        )  # fmt: skip
        self.replicas.kill(self.index, replica)
        if self._hangs > handle.max_restarts and not self.replicas.bury(self.index, replica):
            what = f"did not answer in time (hung {self._hangs} times, {waited_s:g} s each)"
            raise self._error(TeacherLostError, what)
        self._retry()

    def _retry_halved(self, error: BaseException) -> None:
        """Ask once more, with half as much at once: the node killed the process for memory."""
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
        self._retry()

    def _handle_death(self, error: BaseException, deadline: float | None) -> None:
        """Wait for the process to come back, or ask another replica."""
        is_final = not isinstance(
            error, (ray.exceptions.ActorUnavailableError, ray.exceptions.OutOfMemoryError)
        )
        if not self.request.halved and not is_final:
            # Ray reports the restart before its reason, so a quick caller would never hear of the memory.
            detail = self.replicas.find_memory_kill(self.index, self.replica, self._first_sent_s)
            if detail is not None:
                return self._retry_halved(ray.exceptions.OutOfMemoryError(detail))
        now = time.monotonic()
        self._failures += 1
        self._failed_at = now if self._failed_at is None else self._failed_at
        until = self._failed_at + _START_S + self._timeout_s() if deadline is None else deadline
        # A few quick attempts first: many restarts take less than a second.
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 1.5 ** max(0, self._failures - 4))
        has_replica = not is_final or self.replicas.bury(self.index, self.replica)
        if not has_replica or now + pause_s >= until:
            raise self._error(TeacherLostError, f"is gone: {type(error).__name__}") from None
        time.sleep(pause_s)
        self._retry()

    def _retry(self) -> None:
        self.replicas.retries += 1
        self.release()
        self._send(avoid=self.replica)

    @property
    def _names(self) -> str:
        return ", ".join(spec.name for spec in self.group.specs)

    def _error(self, kind: type[TeacherError], what: str) -> TeacherError:
        handle = self.replicas.handle
        owner = "" if handle.pool is None else f"teacher pool {handle.pool}: "
        return kind(
            f"{owner}teacher {self._names} {what}",
            got=f"{len(self.request.batch)} rows asked of replica {self.replica} of {self.group.replicas}",
            wanted=f"an answer within {handle.timeout_s:g} s",
            next_step=LOST_STEP if handle.pool is None else describe_pool_restart(handle.pool),
        )


def describe_pool_restart(pool: str) -> str:
    """Say what to do where a named pool does not answer."""
    return (
        f"raykd teachers status {pool} shows what is left of it; raykd teachers down {pool}, then raykd teachers up "
        f"POOL.yaml --name {pool} starts it again; {HOW_TO_RESUME}"
    )


# Ray's pages on a killed process: "7.61GB used / 8.00GB", "pid=12, actual memory used=3.2GB", a table of processes.
_NODE_MEMORY = re.compile(r"([0-9.]+ ?GB)[a-z ]*/ *([0-9.]+ ?GB)")
_KILLED_PROCESS = re.compile(r"pid=(\d+), actual memory used=([0-9.]+) ?GB")
_LARGEST_PROCESSES = re.compile(r"^\s*(\d+)\t+([0-9.]+)\t+(.+)$", re.MULTILINE)


def describe_memory_kill(error: BaseException) -> str:
    """Say in a line how full the node was and which processes were largest, from the pages that Ray writes."""
    text = str(error)
    used, killed = _NODE_MEMORY.search(text), _KILLED_PROCESS.search(text)
    own = f"its process {killed[1]} had {killed[2]} GB; " if killed else ""
    node = f"{used[1]} of {used[2]} in use on its node" if used else "the node's memory was full"
    largest = _LARGEST_PROCESSES.findall(text)[:3]
    listed = ", ".join(f"{command.strip()[:40]} (pid {pid}) {gb} GB" for pid, gb, command in largest)
    return own + node + (f"; largest: {listed}" if listed else "")
