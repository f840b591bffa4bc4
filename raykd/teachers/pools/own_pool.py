"""`OwnPool`: places the teachers of a run on a Ray cluster, opens, parks and ends them.

Decision record: the pool is made once by the driver, and its `PoolHandle` travels to any number of workers. Opening
loads no weights, because a teacher whose answers are all stored never needs them. A pool that has answered everything
can be parked: its actors end and give back their CPUs and GPUs. Others that ask for none take their place and answer
from the same stores, so that the students of a sweep have the whole cluster.
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
from raykd.errors import ResourceError, TeacherError
from raykd.teachers.actor import TeacherActor
from raykd.teachers.groups import Group
from raykd.teachers.handle import PoolHandle, Replica
from raykd.teachers.parked_actor import ParkedActor
from raykd.teachers.pools.pool import restrict_handle
from raykd.teachers.pools.replica_client import STATUS_GROUP, ReplicaClient, add_counters, find_last_line
from raykd.teachers.replicas import count_restarts, find_own_error
from raykd.teachers.spec import TeacherInfo, TeacherSpec

log = logging.getLogger("raykd.teachers")
CALLS_AT_ONCE = 16
"""Requests that a replica takes in; its models answer them one after the other."""
CLOSE_S = 30.0
"""Longest wait for stores to be flushed."""
_Opened = tuple[str, list[TeacherInfo]]
"""What an actor returns when it is opened: its node, and what its teachers are."""


@dataclass(frozen=True)
class Placement:
    """A teacher, and what one replica of it asks of the cluster."""

    spec: TeacherSpec
    actor: ActorConfig


def group_placements(placements: Sequence[Placement]) -> list[Group]:
    """Group teachers by their `actor.group`; resources add up, and a teacher without a group is its own."""
    members: dict[str, list[int]] = {}
    for index, placement in enumerate(placements):
        members.setdefault(placement.actor.group or f"teacher:{placement.spec.name}", []).append(index)
    groups = []
    for name, indices in members.items():
        actors = [placements[i].actor for i in indices]
        resources = dict.fromkeys(resource for actor in actors for resource in actor.resources)
        groups.append(
            Group(
                name=name,
                members=tuple(indices),
                specs=tuple(placements[i].spec for i in indices),
                replicas=actors[0].replicas,
                num_cpus=round(sum(a.num_cpus for a in actors), 4),
                num_gpus=round(sum(a.num_gpus for a in actors), 4),
                resources={r: sum(a.resources.get(r, 0.0) for a in actors) for r in resources},
            )
        )
    return groups


class OwnPool:
    """The actors of all teachers, owned by this process: they end with it, unless they have names.

    Args:
        placements: The teachers, in the order of M.
        serving: Restarts and time-out.
        named: Returns the options of Ray under which a replica of a group outlives this process; None lets it end.
    """

    def __init__(
        self,
        placements: Sequence[Placement],
        serving: ServingConfig,
        named: Callable[[Group, int], dict[str, str]] | None = None,
    ) -> None:
        groups = tuple(group_placements(placements))
        self._serving, self._named = serving, named
        self._opened: list[list[_Opened]] = []
        self._ended: dict[str, dict[str, int]] = {}
        self._restarts: dict[str, int] = {}
        self.parked = False
        self.handle = PoolHandle(
            groups=groups,
            replicas=tuple(tuple(self._start(g, r) for r in range(g.replicas)) for g in groups),
            teachers=tuple(p.spec.name for p in placements),
            teacher_languages=tuple(p.spec.languages for p in placements),
            timeout_s=serving.timeout_s,
            max_restarts=serving.max_restarts,
            on_loss=serving.on_teacher_loss,
        )

    def _start(self, g: Group, replica: int) -> Replica:
        device = "cuda" if g.num_gpus > 0 else "cpu"
        specs = [replace(spec, device=device) for spec in g.specs]
        names = {} if self._named is None else self._named(g, replica)
        actor = self._make_class(
            TeacherActor, num_cpus=g.num_cpus, num_gpus=g.num_gpus, resources=g.resources, **names
        )
        return actor.remote(specs, g.threads)

    def _start_parked(self, g: Group, opened: _Opened) -> Replica:
        node, infos = opened
        specs = [replace(spec, device="cpu", parked=info) for spec, info in zip(g.specs, infos, strict=True)]
        # Where the stores are; elsewhere only if that node is gone.
        place = NodeAffinitySchedulingStrategy(node, soft=True)
        actor = self._make_class(ParkedActor, num_cpus=0, num_gpus=0, scheduling_strategy=place)
        return actor.remote(pickle.dumps((specs, 1)))

    def _make_class(self, actor: type, **resources: object) -> Any:
        # A group of its own, so that a replica can give its status while requests wait.
        in_groups: Any = ray.remote(concurrency_groups={STATUS_GROUP: 1})  # type: ignore[call-overload]
        return in_groups(actor).options(
            **resources,
            max_restarts=self._serving.max_restarts,
            max_task_retries=0,  # a `Call` asks again itself, and may ask another replica
            max_concurrency=CALLS_AT_ONCE,
        )

    def open(self) -> list[TeacherInfo]:
        """Open every replica's teachers and stores; loads no weights.

        From then on, sources of the pool's handle read stored answers by themselves.

        Returns:
            What each teacher says of itself.

        Raises:
            ModelError, LabelMismatchError, TeacherError: As `Teacher.open`.
            ResourceError: An actor found no place in time.
        """
        groups = self.handle.groups
        waiting = [[actor.open.remote() for actor in actors] for actors in self.handle.replicas]
        self._opened = [self._wait_open(g, references) for g, references in zip(groups, waiting, strict=True)]
        self.handle = replace(self.handle, **self._locate(self._opened))
        infos = {
            m: info
            for g, replicas in zip(groups, self._opened, strict=True)
            for m, info in zip(g.members, replicas[0][1], strict=True)
        }
        return [infos[m] for m in range(len(self.handle.teachers))]

    def _locate(self, opened: Sequence[Sequence[_Opened]]) -> dict[str, Any]:
        """Return the fields of the handle that say where each replica is and which stores it fills."""
        return {
            "nodes": tuple(tuple(node for node, _ in replicas) for replicas in opened),
            "answers": tuple(
                tuple(
                    tuple(
                        info.answers if spec.store else None
                        for info, spec in zip(infos, g.specs, strict=True)
                    )
                    for _, infos in replicas
                )
                for g, replicas in zip(self.handle.groups, opened, strict=True)
            ),
        }

    def _wait_open(self, g: Group, references: list[ray.ObjectRef[_Opened]]) -> list[_Opened]:
        names = ", ".join(spec.name for spec in g.specs)
        try:
            return ray.get(references, timeout=self._serving.timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise ResourceError(
                f"teacher {names} found no place on the cluster, or did not start there, in "
                f"{self._serving.timeout_s:g} s",
                got=f"asked for {g.replicas} x (CPU {g.num_cpus:g}, GPU {g.num_gpus:g}, {g.resources})",
                wanted=f"room in {ray.available_resources()}, which is free of {ray.cluster_resources()}",
                next_step="where there is no room, ask for less in teachers.*.actor or add nodes; on a busy machine "
                "raise serving.timeout_s",
            ) from None
        except ray.exceptions.RayTaskError as error:
            last = str(error).strip().splitlines()[-1]
            raise (
                find_own_error(error) or TeacherError(f"teacher {names} cannot be opened", got=last)
            ) from None
        except ray.exceptions.RayActorError as error:
            raise TeacherError(f"teacher {names} cannot be started", got=find_last_line(error)) from None

    def load(self) -> None:
        """Load all weights now, in all replicas at once.

        Raises:
            ModelError: Weights cannot be loaded.
            TeacherError: A process died of it, or took too long.
        """
        handle = self.handle
        waiting = [(g, a.load.remote()) for g, actors in zip(handle.groups, handle.replicas, strict=True)
                   for a in actors]  # fmt: skip
        for g, reference in waiting:
            self.replicas.wait(g, reference)

    def park(self) -> None:
        """Give all CPUs and GPUs back: from here the teachers answer from their stores. The handle changes.

        What is not stored is still computed, with a warning and counted in `computed_while_parked`; a teacher
        that computed on a GPU raises TeacherError instead.

        Raises:
            TeacherError: A teacher keeps no store. As `open`, if the pool was not opened.
        """
        if self.parked:
            return
        storeless = [spec.name for g in self.handle.groups for spec in g.specs if spec.store is None]
        if storeless:
            raise TeacherError(
                "a pool without a store cannot be parked",
                got=f"teachers without one: {', '.join(storeless)}",
                next_step="set serving.store",
            )
        if not self._opened:
            self.open()
        self._ended, self._restarts = self.counters(), self.restarts()
        self.stop()
        kept = [_keep_one_per_node(replicas) for replicas in self._opened]
        parked = [
            tuple(self._start_parked(g, opened) for opened in replicas)
            for g, replicas in zip(self.handle.groups, kept, strict=True)
        ]
        self.handle = replace(self.handle, replicas=tuple(parked), **self._locate(kept))
        self.parked = True
        log.info("the teachers are parked: they answer from their stores and hold no CPU or GPU")

    @property
    def replicas(self) -> ReplicaClient:
        """Asks the replicas as they are now."""
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
        """Flush the stores and end the actors."""
        actors = [actor for actors in self.handle.replicas for actor in actors]
        closing = [actor.close.remote() for actor in actors]
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for actor in actors:
            ray.kill(actor)


def _keep_one_per_node(replicas: Sequence[_Opened]) -> list[_Opened]:
    """Return the first replica of each node: replicas of a node share its stores."""
    first: dict[str, _Opened] = {}
    for opened in replicas:
        first.setdefault(opened[0], opened)
    return list(first.values())
