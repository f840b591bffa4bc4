"""`AttachedPool`: a named pool as a run uses it, after a check that it serves what the run wants.

Decision record: what is compared is what changes an answer, teacher by teacher, so that a run over a named pool learns
from the same numbers as one over a pool of its own, or is refused. Where and how fast a teacher computes (replicas,
CPUs, device, `max_tokens`) is the pool's affair. A run does not end what others started: parking and stopping do
nothing, and what was done before it attached is not counted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from raykd.errors import TeacherError
from raykd.teachers.actor import ReplicaStatus
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pools.named_pool import NamedPool
from raykd.teachers.pools.pool import TeacherPool, restrict_handle
from raykd.teachers.pools.replica_client import ReplicaClient, add_counters
from raykd.teachers.replicas import count_restarts
from raykd.teachers.spec import TeacherInfo, TeacherSpec

_GAUGES = ("loaded",)
"""Counters that hold a state, not an amount: the value now counts, not the difference."""


@dataclass(frozen=True)
class TeacherDifference:
    """A property of a teacher in which a pool and a run differ."""

    teacher: str
    what: str
    got: str
    wanted: str


def compare_teachers(
    wanted: Sequence[tuple[TeacherSpec, TeacherInfo]], served: NamedPool, *, exactly: bool = False
) -> list[TeacherDifference]:
    """Compare the pool's teachers with the wanted ones.

    Args:
        wanted: What each teacher is asked to be, and what its directory says.
        served: The pool.
        exactly: Whether the pool may have no others.

    Returns:
        The differences; empty where each teacher gives the same answers.
    """
    found = []
    there = served.handle.teachers
    for spec, info in wanted:
        if spec.name in there:
            found += _compare(spec, info, served.find_spec(spec.name), served.find_info(spec.name))
        else:
            found.append(TeacherDifference(spec.name, "teacher", "not in the pool", f"one of {list(there)}"))
    if exactly:
        names = {spec.name for spec, _ in wanted}
        others = [name for name in there if name not in names]
        found += [TeacherDifference(name, "teacher", "in the pool", "not there") for name in others]
    return found


def _compare(
    spec: TeacherSpec, info: TeacherInfo, has: TeacherSpec, is_: TeacherInfo
) -> list[TeacherDifference]:
    """Compare what the pool has and is with the run's spec and info."""
    pairs: dict[str, tuple[object, object]] = {
        "fingerprint": (is_.fingerprint[:16], info.fingerprint[:16]),
        "labels": (list(has.labels), list(spec.labels)),
        "label_map": (has.teacher.label_map, spec.teacher.label_map),
        "language_codes": (has.teacher.language_codes, spec.teacher.language_codes),
        "languages": (_list_languages(has.languages), _list_languages(spec.languages)),
        "max_length": (is_.max_length, info.max_length),
        "task": (has.task.model_dump(exclude={"max_length"}), spec.task.model_dump(exclude={"max_length"})),
    }
    # `auto` is decided where the teacher computes, so it may differ from what it would be here.
    if not has.dtype == spec.dtype == "auto":
        pairs["dtype"] = (is_.dtype, info.dtype)
    if spec.store is not None:
        pairs["store"] = ("none" if has.store is None else "kept", "kept")
    return [
        TeacherDifference(spec.name, what, str(got), str(wanted))
        for what, (got, wanted) in pairs.items()
        if got != wanted
    ]


def _list_languages(languages: frozenset[str] | None) -> str:
    return "all" if languages is None else ", ".join(sorted(languages))


def refuse_differences(pool: str, found: Sequence[TeacherDifference], next_step: str) -> None:
    """Raise TeacherError with all differences; return where there are none."""
    if found:
        raise TeacherError(
            f"teacher pool {pool} serves other teachers",
            got="; ".join(f"{d.teacher}: {d.what} {d.got}" for d in found),
            wanted="; ".join(f"{d.teacher}: {d.what} {d.wanted}" for d in found),
            next_step=next_step,
        )


class BorrowedPool:
    """A pool that somebody else ends: asked like any other, never stopped and never parked.

    Args:
        handle: The teachers that are asked.
        infos: What they say of themselves, in the handle's order.
    """

    def __init__(self, handle: PoolHandle, infos: Sequence[TeacherInfo]) -> None:
        self.handle = handle
        self._infos = infos

    @property
    def replicas(self) -> ReplicaClient:
        """Asks the replicas."""
        return ReplicaClient(self.handle)

    def open(self) -> list[TeacherInfo]:
        """Return what each teacher says of itself."""
        return list(self._infos)

    def stored(self) -> dict[str, int]:
        """Return nothing: what the stores gain is not this run's alone."""
        return {}

    def park(self) -> None:
        """Do nothing: the CPUs are the owner's to give."""

    def stop(self) -> None:
        """Do nothing: the owner ends it."""


class AttachedPool(BorrowedPool):
    """A named pool as a run sees it: the run's teachers in its order.

    Args:
        served: The named pool.
        teachers: The run's.
        timeout_s: Longest wait for one answer.
        on_loss: As `ServingConfig.on_teacher_loss`.

    Raises:
        TeacherError: One of the teachers has no replica left.
    """

    def __init__(
        self, served: NamedPool, teachers: Sequence[str], timeout_s: float, on_loss: str = "fail"
    ) -> None:
        infos = [served.find_info(name) for name in teachers]
        super().__init__(served.handle.select(teachers, timeout_s, on_loss), infos)
        self._restarts = count_restarts(self.handle)
        self._before = self.replicas.read_statuses()

    def counters(self, teachers: Collection[str] | None = None) -> dict[str, dict[str, int]]:
        """Read what the replicas did since this run attached, for all who asked them; `loaded` as it is now."""
        handle = restrict_handle(self.handle, teachers)
        total: dict[str, dict[str, int]] = {}
        for key, now in ReplicaClient(handle).read_statuses().items():
            before = self._before.get(key)
            # A new process has counted from 0.
            done = now.counters if before is None or before.pid != now.pid else _subtract(before, now)
            add_counters(total, {name: done[name] for name in done if name in handle.teachers})
        return total

    def restarts(self) -> dict[str, int]:
        """Count the restarts since this run attached."""
        return {name: count - self._restarts[name] for name, count in count_restarts(self.handle).items()}


class SurvivingPool(BorrowedPool):
    """A pool after some teachers were lost: those that are left.

    Args:
        whole: The pool.
        infos: What its teachers say of themselves.
        lost: Teachers that have no replica left.
    """

    def __init__(self, whole: TeacherPool, infos: Sequence[TeacherInfo], lost: Collection[str]) -> None:
        left = [info for info in infos if info.name not in lost]
        super().__init__(restrict_handle(whole.handle, [info.name for info in left]), left)
        self._whole = whole

    def counters(self, teachers: Collection[str] | None = None) -> dict[str, dict[str, int]]:
        """Read the counters of the teachers that are left from the whole pool."""
        return self._whole.counters(self.handle.teachers if teachers is None else teachers)

    def restarts(self) -> dict[str, int]:
        """Count the restarts in the whole pool, lost teachers included."""
        return self._whole.restarts()


def _subtract(before: ReplicaStatus, now: ReplicaStatus) -> dict[str, dict[str, int]]:
    """Return the counters now less those before, by teacher."""
    return {
        name: {
            what: value if what in _GAUGES else value - before.counters[name][what]
            for what, value in values.items()
        }
        for name, values in now.counters.items()
    }
