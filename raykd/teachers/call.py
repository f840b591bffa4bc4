"""`Call` and `PoolTicket`: requests of one batch on their way to the actors, and their answers laid out.

Decision record: an answer is a pure function of weights and text, so a call that died with its process is simply asked
again of another replica, within one deadline.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import ray
from numpy.typing import NDArray

from raykd.distill.signals import TeacherSignal
from raykd.errors import RaykdError, TeacherError
from raykd.teachers.groups import Group
from raykd.teachers.wire import GroupAnswer, GroupRequest, Sheet

_RETRY_PAUSE_S = 0.5


class Asker(Protocol):
    """What a call asks of the source that sent it: whom to ask, and who is gone."""

    handle: Any
    members: list[int]
    in_flight: list[list[int]]
    calls: int
    retries: int

    def pick(self, index: int, avoid: int | None = None, node: str | None = None) -> int:
        """A replica of the group."""
        ...

    def bury(self, index: int, replica: int) -> bool:
        """Never asks this replica again; whether another one is left."""
        ...


class Call:
    """One request to one group, sent again to another replica if its process dies."""

    def __init__(
        self,
        source: Asker,
        index: int,
        request: GroupRequest,
        rows: NDArray[np.int64],
        node: str | None,
    ) -> None:
        self.source, self.index, self.request, self.rows, self.node = source, index, request, rows, node
        self.replica: int | None = None
        self._send()

    @property
    def group(self) -> Group:
        group: Group = self.source.handle.groups[self.index]
        return group

    def _send(self) -> None:
        self.replica = self.source.pick(self.index, avoid=self.replica, node=self.node)
        self.source.in_flight[self.index][self.replica] += 1
        self.source.calls += 1
        actor = self.source.handle.replicas[self.index][self.replica]
        self.reference = actor.answer.remote(self.request)

    def result(self, deadline: float) -> GroupAnswer:
        while True:
            try:
                answer: GroupAnswer = ray.get(self.reference, timeout=max(0.0, deadline - time.monotonic()))
                return answer
            except ray.exceptions.GetTimeoutError:
                raise self._lost("did not answer in time", "a larger serving.timeout_s") from None
            except ray.exceptions.RayTaskError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, RaykdError):
                    raise cause from None
                raise self._lost(
                    f"failed: {str(error).strip().splitlines()[-1]}", "the log of its process"
                ) from None
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                left = not _finally_dead(error) or self.source.bury(self.index, self.replica or 0)
                if not left or time.monotonic() + _RETRY_PAUSE_S >= deadline:
                    raise self._lost(f"is gone: {type(error).__name__}", "the log of its process") from None
                time.sleep(_RETRY_PAUSE_S)
                self.source.retries += 1
                self.source.in_flight[self.index][self.replica or 0] -= 1
                self._send()

    def done(self) -> None:
        """Takes the request out of the replica's load."""
        if self.replica is not None:
            self.source.in_flight[self.index][self.replica] -= 1
            self.replica = None

    def _lost(self, what: str, look: str) -> TeacherError:
        names = ", ".join(spec.name for spec in self.group.specs)
        pool = self.source.handle.pool
        return TeacherError(
            f"teacher {names} {what}" if pool is None else f"teacher pool {pool}: teacher {names} {what}",
            got=f"{len(self.request.batch)} rows asked of replica {self.replica} of {self.group.replicas}",
            wanted=f"an answer within {self.source.handle.timeout_s:g} s",
            next_step=f"see {look}; raykd train --resume goes on from the last checkpoint"
            if pool is None
            else up_again(pool),
        )


def up_again(pool: str) -> str:
    """The next step where a named pool does not answer."""
    return (
        f"raykd teachers status {pool} shows what is left of it; raykd teachers down {pool}, then raykd teachers up "
        f"POOL.yaml --name {pool} starts it again; --resume goes on from the last checkpoint"
    )


def _finally_dead(error: BaseException) -> bool:
    """Whether Ray has given the actor up; an actor that restarts is unavailable only for a while."""
    return not isinstance(error, (ray.exceptions.ActorUnavailableError, ray.exceptions.OutOfMemoryError))


@dataclass
class PoolTicket:
    """The requests of one batch, and the sheets that hold what was stored already."""

    source: Asker
    calls: list[Call]
    sheets: list[Sheet]

    @property
    def references(self) -> list[Any]:
        """What Ray can wait for."""
        return [call.reference for call in self.calls]

    def ready(self) -> bool:
        """Whether `result` has to wait for nothing."""
        references = self.references
        return len(ray.wait(references, num_returns=len(references), timeout=0.0)[0]) == len(references)

    def result(self, timeout: float | None = None) -> list[TeacherSignal]:
        """Blocks for all groups and lays their answers out over the batch, teachers in the source's order."""
        deadline = time.monotonic() + (self.source.handle.timeout_s if timeout is None else timeout)
        place = {m: at for at, m in enumerate(self.source.members)}
        try:
            for call in self.calls:
                answer = call.result(deadline)
                for row, m in zip(call.group.places, call.group.members, strict=True):
                    if m in place:
                        self.sheets[place[m]].add(answer, row, call.rows)
        finally:
            for call in self.calls:
                call.done()
        self.calls = []
        return [sheet.signal() for sheet in self.sheets]
