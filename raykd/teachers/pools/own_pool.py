"""`TeacherPool`: the teachers of a run; `OwnPool` places them on a Ray cluster, opens, parks and ends them.

Decision record: the pool is made once by the driver and its `PoolHandle` travels to any number of workers. Opening
loads no weights: a teacher whose answers are all stored never needs them. A pool that has answered everything can
be parked: its actors end and give back their CPUs and GPUs, and others take their place that ask for none and
answer from the same stores, so that the students of a sweep have the whole cluster.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.config import ActorConfig, ServingConfig
from raykd.errors import RaykdError, ResourceError, TeacherError
from raykd.teachers.actor import TeacherActor
from raykd.teachers.groups import Group
from raykd.teachers.handle import PoolHandle
from raykd.teachers.parked_actor import ParkedActor
from raykd.teachers.pools.pool import restrict_handle
from raykd.teachers.pools.replica_client import STATUS_GROUP, ReplicaClient, add_counters, find_last_line
from raykd.teachers.replica_state import count_restarts
from raykd.teachers.spec import TeacherInfo, TeacherSpec

log = logging.getLogger("raykd.teachers")
CALLS_AT_ONCE = 16
"""Requests that a replica takes in; the models answer them one after the other."""
CLOSE_S = 30.0
"""Longest wait for stores to be flushed."""


@dataclass(frozen=True)
class Placement:
    """A teacher and what one replica of it asks of the cluster."""

    spec: TeacherSpec
    actor: ActorConfig


def group_placements(placements: Sequence[Placement]) -> list[Group]:
    """Group teachers by their `actor.group`; resources of a group add up, a teacher without a group is its own."""
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


class OwnPool:
    """The actors of all teachers, owned by this process: they end with it, unless they have names.

    Args:
        placements: The teachers, in the order of M.
        serving: Restarts and time-out.
        named: Gives each replica of a group the name under which it outlives this process; None lets it end.
    """

    def __init__(
        self,
        placements: Sequence[Placement],
        serving: ServingConfig,
        named: Callable[[Group, int], dict[str, Any]] | None = None,
    ) -> None:
        self.groups = group_placements(placements)
        self._serving, self._named = serving, named
        self._infos: list[list[list[TeacherInfo]]] = []
        self._ended: dict[str, dict[str, int]] = {}
        self._restarts: dict[str, int] = {}
        self.parked = False
        self.handle = PoolHandle(
            groups=tuple(self.groups),
            replicas=tuple(tuple(self._start(g, r) for r in range(g.replicas)) for g in self.groups),
            teachers=tuple(p.spec.name for p in placements),
            teacher_languages=tuple(p.spec.languages for p in placements),
            timeout_s=serving.timeout_s,
            max_restarts=serving.max_restarts,
            on_loss=serving.on_teacher_loss,
        )

    def _start(self, g: Group, replica: int) -> Any:
        device = "cuda" if g.num_gpus > 0 else "cpu"
        specs = [replace(spec, device=device) for spec in g.specs]
        names = {} if self._named is None else self._named(g, replica)
        options = self._options(
            TeacherActor, num_cpus=g.num_cpus, num_gpus=g.num_gpus, resources=g.resources, **names
        )
        return options.remote(specs, g.threads)

    def _options(self, actor: type, **resources: Any) -> Any:
        in_groups: Any = ray.remote(concurrency_groups={STATUS_GROUP: 1})  # type: ignore[call-overload]
        return in_groups(actor).options(
            **resources,
            max_restarts=self._serving.max_restarts,
            max_task_retries=0,  # a source asks again itself, and may ask another replica
            max_concurrency=CALLS_AT_ONCE,
        )

    def open(self) -> list[TeacherInfo]:
        """Opens every replica's teachers and stores, loads no weights; returns what each teacher says of itself.

        Sources of the handle that the pool has from then on read stored answers by themselves.

        Raises:
            ModelError, LabelMismatchError, TeacherError: as `Teacher.open`.
            ResourceError: an actor found no place in time.
        """
        nodes, self._infos = [], []
        waiting = [[actor.open.remote() for actor in actors] for actors in self.handle.replicas]
        for g, references in zip(self.groups, waiting, strict=True):
            opened = self._opened(g, references)
            nodes.append(tuple(node for node, _ in opened))
            self._infos.append([infos for _, infos in opened])
        names = [
            tuple(
                tuple(i.answers if s.store else None for i, s in zip(r, g.specs, strict=True)) for r in infos
            )
            for g, infos in zip(self.groups, self._infos, strict=True)
        ]
        self.handle = replace(self.handle, nodes=tuple(nodes), answers=tuple(names))
        by_member = {
            m: info
            for g, replicas in zip(self.groups, self._infos, strict=True)
            for m, info in zip(g.members, replicas[0], strict=True)
        }
        return [by_member[m] for m in range(len(self.handle.teachers))]

    def _opened(self, g: Group, references: list[Any]) -> list[tuple[str, list[TeacherInfo]]]:
        names = ", ".join(spec.name for spec in g.specs)
        try:
            answers: list[tuple[str, list[TeacherInfo]]] = ray.get(
                references, timeout=self._serving.timeout_s
            )
            return answers
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
                f"teacher {names} cannot be opened", got=str(error).strip().splitlines()[-1]
            ) from None
        except ray.exceptions.RayActorError as error:
            raise TeacherError(f"teacher {names} cannot be started", got=find_last_line(error)) from None

    def load(self) -> None:
        """Loads all weights now, in all replicas at once.

        Raises:
            ModelError: weights that cannot be loaded. TeacherError: a process died of it, or took too long.
        """
        waiting = [(g, a.load.remote()) for g, actors in zip(self.groups, self.handle.replicas, strict=True)
                   for a in actors]  # fmt: skip
        for g, reference in waiting:
            self.replicas.wait(g, reference)

    def park(self) -> None:
        """Gives all CPUs and GPUs back: from here the teachers answer from their stores. The handle changes.

        What is not stored is still computed, with a warning and counted in `computed_while_parked`; a teacher
        that computed on a GPU raises TeacherError instead.

        Raises:
            TeacherError: a teacher keeps no store. As `open`, if the pool was not opened.
        """
        if self.parked:
            return
        storeless = [spec.name for g in self.groups for spec in g.specs if spec.store is None]
        if storeless:
            raise TeacherError(
                "a pool without a store cannot be parked",
                got=f"teachers without one: {', '.join(storeless)}",
                next_step="set serving.store",
            )
        if not self.handle.nodes:
            self.open()
        self._ended, self._restarts = self.counters(), self.restarts()
        before = self.handle
        self._end()
        replicas, nodes, names = [], [], []
        for g, infos, on, kept in zip(self.groups, self._infos, before.nodes, before.answers, strict=True):
            first = [on.index(node) for node in dict.fromkeys(on)]  # one actor a node holds all its answers
            replicas.append(tuple(self._start_parked(g, infos[r], on[r]) for r in first))
            nodes.append(tuple(on[r] for r in first))
            names.append(tuple(kept[r] for r in first))
        self.handle = replace(before, replicas=tuple(replicas), nodes=tuple(nodes), answers=tuple(names))
        self.parked = True
        log.info("the teachers are parked: they answer from their stores and hold no CPU or GPU")

    def _start_parked(self, g: Group, infos: Sequence[TeacherInfo], node: str) -> Any:
        specs = [replace(spec, device="cpu", parked=info) for spec, info in zip(g.specs, infos, strict=True)]
        place = NodeAffinitySchedulingStrategy(node, soft=True)
        options = self._options(ParkedActor, num_cpus=0, num_gpus=0, scheduling_strategy=place)
        return options.remote(pickle.dumps((specs, 1)))

    @property
    def replicas(self) -> ReplicaClient:
        """What asks the replicas as they are now."""
        return ReplicaClient(self.handle)

    def counters(self, teachers: Collection[str] | None = None) -> dict[str, dict[str, int]]:
        """Sum `Teacher.counters` over replicas, also those that ended when the pool was parked."""
        total = {
            name: dict(values) for name, values in self._ended.items() if teachers is None or name in teachers
        }
        add_counters(total, ReplicaClient(restrict_handle(self.handle, teachers)).counters())
        return total

    def stored(self) -> dict[str, int]:
        """Count the answers in each teacher's store."""
        return self.replicas.stored()

    def restarts(self) -> dict[str, int]:
        """Count the restarts of each teacher's processes, also of those that ended when the pool was parked."""
        now = count_restarts(self.handle)
        return {name: count + self._restarts.get(name, 0) for name, count in now.items()}

    def stop(self) -> None:
        """Flushes the stores and ends the actors."""
        self._end()

    def _end(self) -> None:
        actors = [actor for actors in self.handle.replicas for actor in actors]
        closing = [actor.close.remote() for actor in actors]
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for actor in actors:
            ray.kill(actor)
