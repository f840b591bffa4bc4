"""`StoredPool`: the teachers of a run whose answers are all stored, without a process for them.

Decision record: what a run will ask is known before it starts, so its driver can look whether every answer is there.
Stores are local to a node. So this is tried only where the cluster is the driver's own node alone; on several nodes the
teachers' actors say what is stored where they are. Hidden states need the teacher's output head, and written texts its
weights, so such teachers get their actors. Of very many rows evenly spaced ones are looked for, up to the first that is
missing: an answer that is missing all the same is computed in the process that asks for it, and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import ray
from numpy.typing import NDArray

from raykd.config import ServingConfig
from raykd.data.rows import Rows
from raykd.distill.weighting import Weighting
from raykd.tasks.kinds.language import LanguageTask
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pools.local_replica import LocalReplica
from raykd.teachers.pools.own_pool import Placement, group_placements
from raykd.teachers.pools.pool import restrict_handle
from raykd.teachers.pools.replica_client import ReplicaClient
from raykd.teachers.source import TeacherRouter
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.teachers.store import make_text_keys
from raykd.teachers.teacher import Teacher

log = logging.getLogger("raykd.teachers")
MOST_CHECKED = 100_000
"""Most rows of a set whose answers are looked for."""
_AT_ONCE = 5000


@dataclass(frozen=True)
class NeededAnswers:
    """Rows that the teachers will be asked about.

    Attributes:
        rows: The rows.
        weighting: Decides which teachers are asked for a row; None asks all that speak its language.
        teachers: Names of those that take part; None is all.
        states: Whether states of encoders are asked for beside answers, which teachers compute in their own processes.
    """

    rows: Rows
    weighting: Weighting | None = None
    teachers: tuple[str, ...] | None = None
    states: bool = False

    def route(self, teachers: Sequence[str], languages: Sequence[frozenset[str] | None]) -> NDArray[np.bool_]:
        """Return which teacher is asked about which row, ``[M, N]``.

        Args:
            teachers: Names of all teachers, in the order of M.
            languages: The languages that each was declared for; None for any.
        """
        asked_MN = np.zeros((len(teachers), len(self.rows)), dtype=bool)
        members = [m for m, name in enumerate(teachers) if self.teachers is None or name in self.teachers]
        router = TeacherRouter(
            tuple(teachers[m] for m in members), tuple(languages[m] for m in members), self.weighting
        )
        if members and len(self.rows):
            asked_MN[members] = router.route(self.rows)
        return asked_MN

    def is_same(self, other: NeededAnswers) -> bool:
        """Return whether both ask the same teachers about the same rows, whatever comes with the answers."""
        routes = (self.weighting, self.teachers) == (other.weighting, other.teachers)
        return routes and (self.rows is other.rows or self.rows.fingerprint() == other.rows.fingerprint())


class StoredPool:
    """A pool without processes: readers take answers from the stores of this node.

    Args:
        teachers: The opened teachers of each placement, in the order of M.
        placements: The placements.
        serving: Time-outs.
        node: This process's Ray node.
    """

    def __init__(
        self, teachers: Sequence[Teacher], placements: Sequence[Placement], serving: ServingConfig, node: str
    ) -> None:
        self._teachers = list(teachers)
        self._infos = [teacher.open() for teacher in teachers]
        groups = tuple(
            replace(g, specs=tuple(self._park(m) for m in g.members), replicas=1)
            for g in group_placements(placements)
        )
        self.handle = PoolHandle(
            groups=groups,
            replicas=tuple((LocalReplica(g.specs, g.threads),) for g in groups),
            teachers=tuple(p.spec.name for p in placements),
            teacher_languages=tuple(p.spec.languages for p in placements),
            timeout_s=serving.timeout_s,
            nodes=tuple((node,) for _ in groups),
            answers=tuple((tuple(self._infos[m].answers for m in g.members),) for g in groups),
            max_restarts=serving.max_restarts,
            on_loss=serving.on_teacher_loss,
        )

    def _park(self, m: int) -> TeacherSpec:
        return replace(self._teachers[m].spec, parked=self._infos[m])

    @property
    def replicas(self) -> ReplicaClient:
        """Asks the teachers in this process."""
        return ReplicaClient(self.handle)

    def open(self) -> list[TeacherInfo]:
        """Return what each teacher says of itself."""
        return self._infos

    def park(self) -> None:
        """Do nothing: no process holds anything."""

    def stop(self) -> None:
        """Close the stores."""
        for teacher in self._teachers:
            teacher.close()

    def counters(self, teachers: Collection[str] | None = None) -> dict[str, dict[str, int]]:
        """Count what was computed in this process all the same."""
        return ReplicaClient(restrict_handle(self.handle, teachers)).counters()

    def stored(self) -> dict[str, int]:
        """Count the answers in each teacher's store."""
        return {teacher.name: teacher.stored or 0 for teacher in self._teachers}

    def restarts(self) -> dict[str, int]:
        """Return 0 for each teacher."""
        return dict.fromkeys(self.handle.teachers, 0)


def open_stored_pool(
    placements: Sequence[Placement], serving: ServingConfig, needed: Sequence[NeededAnswers]
) -> StoredPool | None:
    """Open the teachers in this process if their stores on this node hold every answer that is needed.

    Args:
        placements: The teachers, in the order of M.
        serving: Time-outs.
        needed: What they will be asked.

    Returns:
        The pool; None where an answer is missing, a teacher may be asked for more than answers, or readers may be on
        other nodes.

    Raises:
        ModelError, LabelMismatchError, TeacherError: As `Teacher.open`.
    """
    node = ray.get_runtime_context().get_node_id()
    nodes = [found["NodeID"] for found in ray.nodes() if found["Alive"]]
    if any(part.states for part in needed):
        return None
    if nodes != [node] or not all(_is_asked_for_answers_alone(p.spec) for p in placements):
        return None
    teachers = [
        Teacher(replace(p.spec, device="cuda" if p.actor.num_gpus > 0 else "cpu")) for p in placements
    ]
    if not _hold_all(teachers, needed):
        for teacher in teachers:
            teacher.close()
        return None
    log.info("every answer is stored: no teacher's process is started")
    return StoredPool(teachers, placements, serving, node)


def _is_asked_for_answers_alone(spec: TeacherSpec) -> bool:
    task = spec.task
    if spec.store is None:
        return False
    return not isinstance(task, LanguageTask) or (task.answers.kind != "hidden" and not task.written)


def _hold_all(teachers: Sequence[Teacher], needed: Sequence[NeededAnswers]) -> bool:
    """Return whether the stores hold every answer; a teacher that will be asked must be ready to answer."""
    for teacher in teachers:
        teacher.open()
    missing: set[str] = set()
    names = tuple(teacher.name for teacher in teachers)
    languages = tuple(teacher.spec.languages for teacher in teachers)
    for part in needed:
        count = min(len(part.rows), MOST_CHECKED)
        for begin in range(0, count, _AT_ONCE):
            at = np.arange(begin, min(begin + _AT_ONCE, count)) * len(part.rows) // count
            some = replace(part, rows=part.rows.select(at))
            keys = make_text_keys(some.rows.take(range(len(at))))
            for teacher, asked_B in zip(teachers, some.route(names, languages), strict=True):
                if teacher.name not in missing and not teacher.holds(
                    [keys[i] for i in np.flatnonzero(asked_B)]
                ):
                    missing.add(teacher.name)
                    teacher.backend.check_ready()
            if len(missing) == len(teachers):
                return False
    return not missing
