"""`TeacherPool`: places groups of teachers on a Ray cluster, opens them, parks them, ends them.

Decision record: the pool is made once by the driver and its `PoolHandle` travels to any number of workers. Opening
loads no weights: a teacher whose answers are all stored never needs them. A pool that has answered everything can
be parked: its actors end and give back their CPUs and GPUs, and others take their place that ask for none and
answer from the same stores, so that the students of a sweep have the whole cluster.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.config import ActorConfig, ServingConfig
from raykd.errors import RaykdError, ResourceError, TeacherError
from raykd.teachers.actor import TeacherActor
from raykd.teachers.call import up_again
from raykd.teachers.fates import fates, lost_of, restarts_of
from raykd.teachers.groups import Group
from raykd.teachers.handle import PoolHandle, PoolSource
from raykd.teachers.parked import ParkedActor
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.teachers.timing import Timing
from raykd.text.batch import TextBatch

__all__ = ["Group", "Placement", "PoolHandle", "PoolSource", "TeacherPool", "group"]

log = logging.getLogger("raykd.teachers")
CALLS_AT_ONCE = 16
"""Requests that a replica takes in; the models answer them one after the other."""
STANDING = "standing"
"""Ray's concurrency group in which a replica says how it is, however many requests wait."""
WRITTEN = 64
"""Texts that a replica writes in one call."""
_PAUSE_S = 0.5
CLOSE_S = 30.0
"""Longest wait for stores to be flushed."""


@dataclass(frozen=True)
class Placement:
    """A teacher and what one replica of it asks of the cluster."""

    spec: TeacherSpec
    actor: ActorConfig


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


class TeacherPool:
    """The actors of all teachers, owned by this process: they end with it, unless they have names.

    Args:
        placements: the teachers, in the order of M.
        serving: restarts and time-out.
        named: gives each replica of a group the name under which it outlives this process; None lets it end.
    """

    def __init__(
        self,
        placements: Sequence[Placement],
        serving: ServingConfig,
        named: Callable[[Group, int], dict[str, Any]] | None = None,
    ) -> None:
        self.groups = group(placements)
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
            classes=placements[0].spec.classes,
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
        in_groups: Any = ray.remote(concurrency_groups={STANDING: 1})  # type: ignore[call-overload]
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
            raise TeacherError(f"teacher {names} cannot be started", got=_reason(error)) from None

    def load(self) -> None:
        """Loads all weights now, in all replicas at once.

        Raises:
            ModelError: weights that cannot be loaded. TeacherError: a process died of it, or took too long.
        """
        waiting = [(g, a.load.remote()) for g, actors in zip(self.groups, self.handle.replicas, strict=True)
                   for a in actors]  # fmt: skip
        for g, reference in waiting:
            self._answer(g, reference)

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

    def counters(self) -> dict[str, dict[str, int]]:
        """`Teacher.counters` of each teacher, summed over replicas, also those that ended when it was parked.

        A replica that is dead for good is not in it.

        Raises:
            TeacherError: a teacher has no replica left.
        """
        total = {name: dict(values) for name, values in self._ended.items()}
        for counters in self.each("counters").values():
            add_counters(total, counters)
        return total

    def stored(self) -> dict[str, int]:
        """Answers in the store of each teacher, over all nodes; a teacher without a store is left out.

        Raises:
            TeacherError: a teacher has no replica left.
        """
        held: dict[tuple[str, str], int] = {}
        for standing in self.each("standing", STANDING).values():
            for name, count in standing.stored.items():
                if count is not None:
                    held[name, standing.node] = count
        return {name: sum(n for (of, _), n in held.items() if of == name) for name, _ in held}

    def findings(self) -> dict[str, str]:
        """What the self-tests of the teachers found that have computed an answer: how their rows share a forward pass.

        Raises:
            TeacherError: a teacher has no replica left.
        """
        found: dict[str, str] = {}
        for part in self.each("findings").values():
            found |= {name: line for name, line in part.items() if name in self.handle.teachers}
        return found

    def restarts(self) -> dict[str, int]:
        """How often a process of each teacher was started again, also of those that ended when it was parked."""
        now = restarts_of(self.handle, fates(self.handle))
        return {name: count + self._restarts.get(name, 0) for name, count in now.items()}

    def lost(self) -> tuple[str, ...]:
        """Teachers that have no replica left."""
        return lost_of(self.handle, fates(self.handle))

    def timed(
        self, samples: Mapping[str, TextBatch], student: TeacherSpec
    ) -> dict[str, tuple[Timing | None, Timing | None]]:
        """What a text takes each teacher, and the student beside it in the same process; one process after the other.

        Args:
            samples: By teacher the texts. student: Its saved model, as a teacher's.

        Returns:
            Of each teacher its own time and the student's; None is not known (see `Teacher.timed`).
        """
        found: dict[str, tuple[Timing | None, Timing | None]] = {}
        for g, actors in zip(self.groups, self.handle.replicas, strict=True):
            for actor in actors:
                names = [s.name for s in g.specs if s.name in samples and None in found.get(s.name, (None,))]
                if not names:
                    break
                try:
                    found |= self._answer(g, actor.timed.remote({n: samples[n] for n in names}, student))
                except (RaykdError, ray.exceptions.RayError) as error:
                    log.warning("the times of %s were not measured: %s", ", ".join(names), error)
        return found

    def generate(self, m: int, rows: TextBatch, *, beams: int | None, max_new_tokens: int) -> list[str]:
        """What teacher m writes for each prompt or source; its replicas share the rows.

        Raises:
            ModelError: no language model. TeacherError: a replica died, or took too long for its part.
        """
        index = next(i for i, g in enumerate(self.groups) if m in g.members)
        actors = self.handle.replicas[index]
        name = self.handle.teachers[m]
        parts = [rows.take(range(at, min(at + WRITTEN, len(rows)))) for at in range(0, len(rows), WRITTEN)]
        waiting = [
            actors[at % len(actors)].generate.remote(name, part, beams, max_new_tokens)
            for at, part in enumerate(parts)
        ]
        return [text for call in waiting for text in self._answer(self.groups[index], call)]

    def each(self, method: str, group: str | None = None) -> dict[tuple[int, int], Any]:
        """What each replica that is alive answers, by group and replica.

        Raises:
            TeacherError: a teacher has no replica left.
        """
        options = {} if group is None else {"concurrency_group": group}
        waiting = {
            (i, r): getattr(actor, method).options(**options).remote()
            for i, actors in enumerate(self.handle.replicas)
            for r, actor in enumerate(actors)
        }
        answers: dict[tuple[int, int], Any] = {}
        lost: dict[int, TeacherError] = {}
        for (i, r), reference in waiting.items():
            again = getattr(self.handle.replicas[i][r], method).options(**options)
            try:
                answers[i, r] = self._answer(self.groups[i], reference, again.remote)
            except TeacherError as error:
                lost[i] = error
        for i in range(len(self.groups)):
            if not any(index == i for index, _ in answers):
                raise lost[i]
        return answers

    def _answer(self, g: Group, reference: Any, again: Callable[[], Any] | None = None) -> Any:
        """The answer to a call; ``again`` sends it to a process that is being started anew."""
        until = time.monotonic() + self.handle.timeout_s
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
            names, pool = ", ".join(spec.name for spec in g.specs), self.handle.pool
            raise TeacherError(
                f"{'' if pool is None else f'teacher pool {pool}: '}teacher {names} does not answer",
                got=_reason(error),
                wanted=f"a replica that is alive and answers within {self.handle.timeout_s:g} s",
                next_step="see the log of its process" if pool is None else up_again(pool),
            ) from None

    def stop(self) -> None:
        """Flushes the stores and ends the actors."""
        self._end()

    def _end(self) -> None:
        actors = [actor for actors in self.handle.replicas for actor in actors]
        closing = [actor.close.remote() for actor in actors]
        ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S)
        for actor in actors:
            ray.kill(actor)


def add_counters(into: dict[str, dict[str, int]], counters: Mapping[str, Mapping[str, int]]) -> None:
    """Adds the counters of one replica."""
    for name, values in counters.items():
        sums = into.setdefault(name, dict.fromkeys(values, 0))
        for key, value in values.items():
            sums[key] += value


def _reason(error: BaseException) -> Any:
    """The last line of an actor's death that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
