"""A named pool in the hands of a run: whether it serves what the run wants, and what the run may do with it.

Decision record: compared is what changes an answer, teacher by teacher, so that a run over a named pool learns from
the same numbers as one over a pool of its own, or is refused. Where and how fast a teacher computes (replicas,
CPUs, device, `max_tokens`) is the pool's affair. A run gives back nothing that is not its own: parking and stopping
do nothing, and what was done before it attached is not counted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from raykd.errors import TeacherError
from raykd.teachers.actor import ReplicaStatus
from raykd.teachers.pools.named_pool import NamedPool
from raykd.teachers.pools.pool import TeacherPool, restrict_handle
from raykd.teachers.pools.replica_client import STATUS_GROUP, ReplicaClient, add_counters
from raykd.teachers.replica_state import count_restarts
from raykd.teachers.spec import TeacherInfo, TeacherSpec

_LEVELS = ("loaded",)
"""Counters that say how things are, not how much was done."""


@dataclass(frozen=True)
class TeacherDifference:
    """Something of a teacher in which a pool and a run do not agree."""

    teacher: str
    what: str
    got: str
    wanted: str


def compare_teachers(
    wanted: Sequence[tuple[TeacherSpec, TeacherInfo]], served: NamedPool, *, exactly: bool = False
) -> list[TeacherDifference]:
    """Compare the pool's teachers with the wanted ones; nothing differs where each answers alike.

    Args:
        wanted: What each teacher is asked to be, and what its directory says.
        served: What the pool serves.
        exactly: Whether the pool may have no others.
    """
    found = []
    for spec, info in wanted:
        if spec.name not in served.handle.teachers:
            found.append(
                TeacherDifference(
                    spec.name, "teacher", "not in the pool", f"one of {list(served.handle.teachers)}"
                )
            )
            continue
        found += _compare(spec, info, served.spec(spec.name), served.info(spec.name))
    names = [spec.name for spec, _ in wanted]
    if exactly:
        found += [
            TeacherDifference(name, "teacher", "in the pool", "not there")
            for name in served.handle.teachers
            if name not in names
        ]
    return found


def _compare(
    spec: TeacherSpec, info: TeacherInfo, has: TeacherSpec, is_: TeacherInfo
) -> list[TeacherDifference]:
    """One teacher. Equal are two whose answers are equal; only where `auto` was asked of both may the precision be
    another than it would be here, since it is chosen where the teacher computes."""
    pairs: dict[str, tuple[Any, Any]] = {
        "fingerprint": (is_.fingerprint[:16], info.fingerprint[:16]),
        "labels": (list(has.labels), list(spec.labels)),
        "label_map": (dict(has.label_map), dict(spec.label_map)),
        "language_codes": (dict(has.language_codes), dict(spec.language_codes)),
        "languages": (_spoken(has.languages), _spoken(spec.languages)),
        "max_length": (is_.max_length, info.max_length),
        "task": (has.task.model_dump(exclude={"max_length"}), spec.task.model_dump(exclude={"max_length"})),
    }
    if not has.dtype == spec.dtype == "auto":
        pairs["dtype"] = (is_.dtype, info.dtype)
    if spec.store is not None:
        pairs["store"] = ("none" if has.store is None else "kept", "kept")
    return [
        TeacherDifference(spec.name, what, str(got), str(wanted))
        for what, (got, wanted) in pairs.items()
        if got != wanted
    ]


def _spoken(languages: frozenset[str] | None) -> str:
    return "all" if languages is None else ", ".join(sorted(languages))


def refuse_differences(pool: str, found: Sequence[TeacherDifference], next_step: str) -> None:
    """Raise TeacherError that says all differences; return where there are none."""
    if found:
        raise TeacherError(
            f"teacher pool {pool} serves other teachers",
            got="; ".join(f"{d.teacher}: {d.what} {d.got}" for d in found),
            wanted="; ".join(f"{d.teacher}: {d.what} {d.wanted}" for d in found),
            next_step=next_step,
        )


class AttachedPool:
    """A named pool as a run sees it: the run's teachers in its order; asked, but never stopped and never parked.

    Args:
        served: What the pool serves.
        teachers: The run's.
        timeout_s: Longest wait for one answer.
        on_loss: As `ServingConfig.on_teacher_loss`.

    Raises:
        TeacherError: One of the teachers has no replica left.
    """

    def __init__(
        self, served: NamedPool, teachers: Sequence[str], timeout_s: float, on_loss: str = "fail"
    ) -> None:
        self.served = served
        self.handle = served.handle.select(teachers, timeout_s, on_loss)
        self.groups = list(self.handle.groups)
        self.parked = False
        self._restarts = count_restarts(self.handle)
        self._before: dict[tuple[str, int], ReplicaStatus] = self.replicas.call_each("status", STATUS_GROUP)

    @property
    def replicas(self) -> ReplicaClient:
        """What asks the replicas."""
        return ReplicaClient(self.handle)

    def open(self) -> list[TeacherInfo]:
        """What each teacher says of itself."""
        return [self.served.info(name) for name in self.handle.teachers]

    def counters(self, teachers: Collection[str] | None = None) -> dict[str, dict[str, int]]:
        """Read what the replicas did since this run attached, for all who asked them; `loaded` as it is now."""
        handle = restrict_handle(self.handle, teachers)
        total: dict[str, dict[str, int]] = {}
        for key, now in ReplicaClient(handle).call_each("status", STATUS_GROUP).items():
            before = self._before.get(key)
            done = now.counters if before is None or before.pid != now.pid else _since(before, now)
            add_counters(total, {name: done[name] for name in done if name in handle.teachers})
        return total

    def restarts(self) -> dict[str, int]:
        """Count the restarts since this run attached."""
        return {name: count - self._restarts[name] for name, count in count_restarts(self.handle).items()}

    def stored(self) -> dict[str, int]:
        """Nothing: others ask it too, so what its stores gain is not this run's."""
        return {}

    def park(self) -> None:
        """Nothing: its CPUs are not the run's to give."""

    def stop(self) -> None:
        """Nothing: it serves others."""


class SurvivingPool:
    """A pool after some teachers were lost, as its owner sees it: asked like any other, ended by its owner.

    Args:
        whole: The pool.
        infos: What its teachers say of themselves.
        lost: Teachers that have no replica left.
    """

    def __init__(self, whole: TeacherPool, infos: Sequence[TeacherInfo], lost: Collection[str]) -> None:
        self._whole = whole
        self._infos = [info for info in infos if info.name not in lost]
        self.handle = restrict_handle(whole.handle, [info.name for info in self._infos])
        self.groups, self.parked = list(self.handle.groups), whole.parked

    @property
    def replicas(self) -> ReplicaClient:
        """What asks the replicas."""
        return ReplicaClient(self.handle)

    def open(self) -> list[TeacherInfo]:
        """What each teacher says of itself."""
        return list(self._infos)

    def counters(self, teachers: Collection[str] | None = None) -> dict[str, dict[str, int]]:
        """As the whole pool, of the teachers that are left."""
        return self._whole.counters(self.handle.teachers if teachers is None else teachers)

    def restarts(self) -> dict[str, int]:
        """As the whole pool, lost teachers too."""
        return self._whole.restarts()

    def stored(self) -> dict[str, int]:
        """Nothing: it is its owner's."""
        return {}

    def park(self) -> None:
        """Nothing: it is its owner's."""

    def stop(self) -> None:
        """Nothing: it is its owner's."""


def _since(before: ReplicaStatus, now: ReplicaStatus) -> dict[str, dict[str, int]]:
    return {
        name: {
            what: value if what in _LEVELS else value - before.counters[name][what]
            for what, value in values.items()
        }
        for name, values in now.counters.items()
    }
