"""`TeacherPool`: places groups of teachers on a Ray cluster, routes to them, retries.

Decision record: the pool is made once by the driver and its `PoolHandle` travels to any number of student
workers, which talk to the actors directly: no payload passes the driver. A batch costs one call a group. A worker
asks the replica with the fewest of its own requests in flight; replicas of equal load are taken in turn,
starting at the worker's rank. An answer is a pure function of weights and text, so a call that died with its
process is simply asked again of another replica, within one deadline.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from raykd.config import ActorConfig, ServingConfig
from raykd.distill.signals import TeacherSignal, TextBatch, Ticket
from raykd.distill.weighting import Weighting
from raykd.errors import RaykdError, ResourceError, TeacherError
from raykd.teachers.actor import TeacherActor
from raykd.teachers.source import Roster, RosterSource
from raykd.teachers.teacher import TeacherInfo, TeacherSpec
from raykd.teachers.wire import GroupAnswer, GroupRequest, scatter, silence

CALLS_AT_ONCE = 16
"""Requests that a replica takes in; the models answer them one after the other."""
_RETRY_PAUSE_S = 0.5


@dataclass(frozen=True)
class Placement:
    """A teacher and what one replica of it asks of the cluster."""

    spec: TeacherSpec
    actor: ActorConfig


@dataclass(frozen=True)
class Group:
    """Teachers that share a process. ``members`` are their positions among all teachers."""

    name: str
    members: tuple[int, ...]
    specs: tuple[TeacherSpec, ...]
    replicas: int
    num_cpus: float
    num_gpus: float
    resources: dict[str, float]

    @property
    def threads(self) -> int:
        """Intra-op threads of one replica: its whole CPUs, at least one."""
        return max(1, int(self.num_cpus + 1e-6))


def group(placements: Sequence[Placement]) -> list[Group]:
    """Teachers by their `actor.group`; resources of a group add up, a teacher without a group is its own."""
    members: dict[str, list[int]] = {}
    for index, placement in enumerate(placements):
        members.setdefault(placement.actor.group or f"teacher:{placement.spec.name}", []).append(index)
    groups = []
    for name, indices in members.items():
        actors = [placements[i].actor for i in indices]
        resources: dict[str, float] = {}
        for actor in actors:
            for resource, amount in actor.resources.items():
                resources[resource] = resources.get(resource, 0.0) + amount
        groups.append(
            Group(
                name=name,
                members=tuple(indices),
                specs=tuple(placements[i].spec for i in indices),
                replicas=actors[0].replicas,
                num_cpus=round(sum(a.num_cpus for a in actors), 4),
                num_gpus=round(sum(a.num_gpus for a in actors), 4),
                resources=resources,
            )
        )
    return groups


@dataclass(frozen=True)
class PoolHandle:
    """What a worker needs to ask the pool; travels by pickle. ``replicas`` holds the actors of each group."""

    groups: tuple[Group, ...]
    replicas: tuple[tuple[Any, ...], ...]
    teachers: tuple[str, ...]
    teacher_languages: tuple[frozenset[str] | None, ...]
    classes: int
    timeout_s: float

    def source(self, weighting: Weighting | None = None, rank: int = 0) -> PoolSource:
        """The pool as a source of signals for one worker."""
        return PoolSource(self, weighting, rank)


class PoolSource(RosterSource):
    """The pool as one worker sees it."""

    def __init__(self, handle: PoolHandle, weighting: Weighting | None, rank: int) -> None:
        self.handle = handle
        self.roster = Roster(handle.teachers, handle.teacher_languages, weighting)
        self.in_flight = [[0] * len(replicas) for replicas in handle.replicas]
        self._dead: set[tuple[int, int]] = set()
        self._turn = rank
        self.calls = 0
        self.retries = 0

    def submit(self, batch: TextBatch) -> Ticket:
        """Sends the batch to each group that is asked for one of its rows; returns at once."""
        asked_MB = self.roster.asked(batch)
        blind = batch.without_labels()
        calls = []
        for index, members in enumerate(g.members for g in self.handle.groups):
            asked_mB = asked_MB[list(members)]
            rows = np.flatnonzero(asked_mB.any(axis=0))
            if len(rows):
                everything = len(rows) == len(batch)
                request = GroupRequest(
                    blind if everything else blind.take(rows.tolist()),
                    np.ascontiguousarray(asked_mB[:, rows]),
                )
                calls.append(_Call(self, index, request, rows))
        return PoolTicket(self, calls, len(batch))

    def pick(self, index: int, avoid: int | None = None) -> int:
        """The replica of a group with the fewest requests in flight, not the one to avoid if there is another."""
        loads = self.in_flight[index]
        self._turn += 1
        order = [(self._turn + i) % len(loads) for i in range(len(loads))]
        alive = [r for r in order if (index, r) not in self._dead] or order
        allowed = [r for r in alive if r != avoid] or alive
        return min(allowed, key=lambda r: loads[r])

    def bury(self, index: int, replica: int) -> bool:
        """Never asks this replica again; whether another one of its group is left."""
        self._dead.add((index, replica))
        return any((index, r) not in self._dead for r in range(len(self.in_flight[index])))


class _Call:
    """One request to one group, sent again to another replica if its process dies."""

    def __init__(
        self, source: PoolSource, index: int, request: GroupRequest, rows: NDArray[np.int64]
    ) -> None:
        self.source, self.index, self.request, self.rows = source, index, request, rows
        self.replica: int | None = None
        self._send()

    @property
    def group(self) -> Group:
        return self.source.handle.groups[self.index]

    def _send(self) -> None:
        self.replica = self.source.pick(self.index, avoid=self.replica)
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
        return TeacherError(
            f"teacher {names} {what}",
            got=f"{len(self.request.batch)} rows asked of replica {self.replica} of {self.group.replicas}",
            wanted=f"an answer within {self.source.handle.timeout_s:g} s",
            next_step=f"see {look}; raykd train --resume goes on from the last checkpoint",
        )


def _finally_dead(error: BaseException) -> bool:
    """Whether Ray has given the actor up; an actor that restarts is unavailable only for a while."""
    return not isinstance(error, (ray.exceptions.ActorUnavailableError, ray.exceptions.OutOfMemoryError))


@dataclass
class PoolTicket:
    """The requests of one batch."""

    source: PoolSource
    calls: list[_Call]
    size: int

    def result(self, timeout: float | None = None) -> list[TeacherSignal]:
        """Blocks for all groups and lays their answers out over the batch, teachers in the pool's order."""
        handle = self.source.handle
        deadline = time.monotonic() + (handle.timeout_s if timeout is None else timeout)
        signals: dict[int, TeacherSignal] = {}
        try:
            for call in self.calls:
                names = [spec.name for spec in call.group.specs]
                answer = call.result(deadline)
                laid_out = scatter(answer, names, call.rows, self.size)
                signals.update(zip(call.group.members, laid_out, strict=True))
        finally:
            for call in self.calls:
                call.done()
        silent = [m for m in range(len(handle.teachers)) if m not in signals]
        for m, signal in zip(
            silent, silence([handle.teachers[m] for m in silent], self.size, handle.classes), strict=True
        ):
            signals[m] = signal
        return [signals[m] for m in range(len(handle.teachers))]


class TeacherPool:
    """The actors of all teachers, owned by this process: they end with it.

    Args:
        placements: the teachers, in the order of M.
        serving: restarts and time-out.
    """

    def __init__(self, placements: Sequence[Placement], serving: ServingConfig) -> None:
        self.groups = group(placements)
        self._serving = serving
        remote = ray.remote(TeacherActor)
        replicas = []
        for g in self.groups:
            device = "cuda" if g.num_gpus > 0 else "cpu"
            specs = [replace(spec, device=device) for spec in g.specs]
            options = remote.options(
                num_cpus=g.num_cpus,
                num_gpus=g.num_gpus,
                resources=g.resources,
                max_restarts=serving.max_restarts,
                max_task_retries=0,  # `_Call` asks again itself, and may ask another replica
                max_concurrency=CALLS_AT_ONCE,
            )
            replicas.append(tuple(options.remote(specs, g.threads) for _ in range(g.replicas)))
        self.handle = PoolHandle(
            groups=tuple(self.groups),
            replicas=tuple(replicas),
            teachers=tuple(p.spec.name for p in placements),
            teacher_languages=tuple(p.spec.languages for p in placements),
            classes=len(placements[0].spec.labels),
            timeout_s=serving.timeout_s,
        )

    def load(self) -> list[TeacherInfo]:
        """Loads every replica's weights; returns what each teacher says of itself.

        Raises:
            ModelError, LabelMismatchError: as `Teacher.load`. ResourceError: an actor found no place in time.
        """
        waiting = [[actor.load.remote() for actor in actors] for actors in self.handle.replicas]
        infos: dict[int, TeacherInfo] = {}
        for g, references in zip(self.groups, waiting, strict=True):
            names = ", ".join(spec.name for spec in g.specs)
            try:
                answers = ray.get(references, timeout=self._serving.timeout_s)
            except ray.exceptions.GetTimeoutError:
                raise ResourceError(
                    f"teacher {names} found no place on the cluster in {self._serving.timeout_s:g} s",
                    got=f"asked for {g.replicas} x (CPU {g.num_cpus:g}, GPU {g.num_gpus:g}, {g.resources})",
                    wanted=f"free of {ray.cluster_resources()}",
                    next_step="ask for less in teachers.*.actor, or add nodes",
                ) from None
            except ray.exceptions.RayTaskError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, RaykdError):
                    raise cause from None
                raise TeacherError(
                    f"teacher {names} cannot be loaded", got=str(error).strip().splitlines()[-1]
                ) from None
            except ray.exceptions.RayActorError as error:
                raise TeacherError(f"teacher {names} cannot be started", got=_reason(error)) from None
            infos.update(zip(g.members, answers[0], strict=True))
        return [infos[m] for m in range(len(self.handle.teachers))]

    def counters(self) -> dict[str, dict[str, int]]:
        """Rows answered and forwarded and tokens of each teacher, summed over replicas."""
        total: dict[str, dict[str, int]] = {}
        for counters in ray.get(
            [actor.counters.remote() for actors in self.handle.replicas for actor in actors]
        ):
            for name, values in counters.items():
                into = total.setdefault(name, dict.fromkeys(values, 0))
                for key, value in values.items():
                    into[key] += value
        return total

    def measure(self, batches: Sequence[TextBatch]) -> list[float]:
        """Milliseconds for 1,000 texts of each teacher (NaN for an empty batch), one after the other, store unused."""
        times: dict[int, float] = {}
        for index, g in enumerate(self.groups):
            for m, spec in zip(g.members, g.specs, strict=True):
                actor = self.handle.replicas[index][0]
                times[m] = (
                    ray.get(actor.measure.remote(spec.name, batches[m])) if len(batches[m]) else float("nan")
                )
        return [times[m] for m in range(len(self.handle.teachers))]

    def stop(self) -> None:
        """Flushes the stores and ends the actors."""
        actors = [actor for actors in self.handle.replicas for actor in actors]
        closing = [actor.close.remote() for actor in actors]
        ray.wait(closing, num_returns=len(closing), timeout=10.0)
        for actor in actors:
            ray.kill(actor)


def _reason(error: BaseException) -> Any:
    """The last line of an actor's death that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
