"""Open the teachers of a command, count what they do, and review them on the validation rows before they teach.

Decision record: train, sweep and compare begin with this, so that a broken teacher stops each of them before a student
is trained, with the same message.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from raykd.config import Run
from raykd.driver.given_answers import check_all_given_answers
from raykd.driver.jobs import Job, TaskJob
from raykd.driver.pool import open_pools
from raykd.driver.session import Session
from raykd.driver.teacher_counts import TeacherCounts
from raykd.scoring.ensembles.agreement import fill_missing_labels
from raykd.scoring.several_tasks import Pools, review_all_teachers
from raykd.scoring.teacher_scores import TeacherReview, record_reviews, refuse_poor_teachers
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pools.stored_pool import NeededAnswers
from raykd.timeline import stage

log = logging.getLogger("raykd.runs")


@dataclass
class TeacherStage:
    """The opened teachers of a run, by task.

    Attributes:
        config: The run whose teachers they are.
        student: The job whose rows they are reviewed on. `review` gives held-out rows without gold the teachers'
            labels.
        session: The command's session.
        say: Shows lines.
        pools: The opened teachers of each task that has some.
        counts: What they did for the run, over all its starts.
        reviews: Their scores on the validation rows, by task; empty before `review`.
    """

    config: Run
    student: Job
    session: Session
    say: Callable[[str], None]
    pools: Pools
    counts: TeacherCounts
    reviews: dict[str, TeacherReview] = field(default_factory=dict)

    @property
    def handles(self) -> dict[str, PoolHandle]:
        """The pools in the form that workers and trials get."""
        return {task: pool.handle for task, (pool, _) in self.pools.items()}

    def review(self, *, asked_alike: bool = True) -> None:
        """Score the teachers on the validation rows; print and record the scores.

        Args:
            asked_alike: Whether the run's own weighting decides who is asked; False where trials differ in that.

        Raises:
            DataError: No held-out row has a gold label, and the teachers answer none.
        """
        with stage("teachers reviewed"):
            filled = {
                task: fill_missing_labels(self.config.members[task], self.student.data[task], pool)
                for task, (pool, _) in self.pools.items()
            }
            self.student = replace(self.student, data={**self.student.data, **filled})
            self.reviews = review_all_teachers(
                self.config, self.student, self.pools, self.say, asked_alike=asked_alike
            )
        record_reviews(self.reviews, self.session.open_tracker(), self.session.folder)

    def refuse_poor(self, key: str = "teachers") -> None:
        """Refuse to go on with teachers that are not good enough to teach.

        Args:
            key: Key of the teachers in an override.

        Raises:
            ModelError: Names the teachers, and why (`teachers[].on_poor`).
        """
        refuse_poor_teachers(self.reviews.values(), self.config, key)


@contextlib.contextmanager
def open_teachers(
    config: Run,
    jobs: Sequence[Job],
    student: Job,
    session: Session,
    say: Callable[[str], None],
    *,
    routed: bool = False,
    more: Mapping[str, Sequence[NeededAnswers]] = MappingProxyType({}),
) -> Iterator[TeacherStage]:
    """Open the teachers of every task while the body runs, without loading weights.

    Args:
        config: The run whose teachers they are.
        jobs: The teachers that were trained first.
        student: The job whose rows they are reviewed on.
        session: The command's session; its folder keeps the counters.
        say: Shows lines.
        routed: Whether the run's own weighting decides who is asked about training rows; False where trials may ask
            others.
        more: By task, what teachers are asked beyond that.
    """
    for line in check_all_given_answers(config, {name: task.data for name, task in student.tasks.items()}):
        log.warning("%s", line)
        say(f"note: {line}")
    trained = {job.name: job.output for job in jobs}
    needed = {
        name: [*list_needed_answers(task, routed), *more.get(name, ())]
        for name, task in student.tasks.items()
        if not task.config.plain
    }
    with contextlib.ExitStack() as stack:
        with stage("teachers opened"):
            pools = stack.enter_context(open_pools(config, trained, say, needed))
        counts = TeacherCounts(session.folder, [pool for pool, _ in pools.values()])
        with counts.watch():
            yield TeacherStage(config, student, session, say, pools, counts)


def list_needed_answers(task: TaskJob, routed: bool) -> list[NeededAnswers]:
    """Return what teachers are asked for a task: all rows that score them, and what they teach.

    Args:
        task: The student's task.
        routed: As in `open_teachers`.
    """
    weighting = task.config.objective.weighting if routed else None
    scored = [NeededAnswers(rows) for rows in (task.data.validation, task.data.test) if rows is not None]
    states = bool(task.config.objective.features)
    return [NeededAnswers(task.data.asked, weighting, states=states), *scored]
