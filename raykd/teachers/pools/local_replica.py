"""`LocalReplica`: a group's teachers in the process that asks them, behind the calls of an actor's handle.

Decision record: where every answer that a run needs is stored, its readers take them from the store themselves and a
teacher is asked for nothing. A process of its own would only import torch and wait. What was evicted or damaged
meanwhile is computed where it is missed, with a warning, as by a parked pool. A replica travels by pickle to the
processes that read the store, and makes nothing before the first question.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from raykd.teachers.spec import TeacherSpec
from raykd.teachers.teacher import Teacher, count_nothing
from raykd.teachers.timing import Timing

if TYPE_CHECKING:
    from raykd.teachers.actor import TeacherActor
    from raykd.text.batch import TextBatch


class LocalReplica:
    """Answers in the calling process: ``replica.answer.remote(request)`` returns when the answer is there.

    Args:
        specs: The group's teachers, parked.
        threads: Intra-op threads under which they would compute, and under which their times were taken.
    """

    def __init__(self, specs: Sequence[TeacherSpec], threads: int) -> None:
        self.specs, self.threads = tuple(specs), threads
        self._lock = threading.Lock()
        self._teachers: TeacherActor | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return LocalReplica, (self.specs, self.threads)

    def __getattr__(self, name: str) -> LocalCall:
        if name.startswith("_"):
            raise AttributeError(name)
        return LocalCall(self, name)

    def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of `TeacherActor`; this process keeps its own number of threads."""
        own: Callable[..., Any] | None = getattr(type(self), f"_{method}", None)
        return self._run(method, *arguments) if own is None else own(self, *arguments)

    def _run(self, method: str, *arguments: Any) -> Any:
        import torch

        threads = torch.get_num_threads()
        try:
            return getattr(self._wake(), method)(*arguments)
        finally:
            torch.set_num_threads(threads)

    def _wake(self) -> TeacherActor:
        with self._lock:
            if self._teachers is None:
                from raykd.teachers.actor import TeacherActor

                self._teachers = TeacherActor(self.specs, self.threads)
            return self._teachers

    # what costs nothing as long as no teacher was asked -------------------------------------------------------

    def _counters(self) -> dict[str, dict[str, int]]:
        if self._teachers is not None:
            return self._teachers.counters()
        return {spec.name: count_nothing() for spec in self.specs}

    def _findings(self) -> dict[str, str]:
        return {} if self._teachers is None else self._teachers.findings()

    def _pid(self) -> int:
        return os.getpid()

    def _close(self) -> None:
        if self._teachers is not None:
            self._teachers.close()

    def _measure_times(
        self, samples: Mapping[str, TextBatch], student: TeacherSpec | None
    ) -> dict[str, tuple[Timing | None, Timing | None]]:
        if all(spec.device == "cpu" for spec in self.specs):
            found: dict[str, tuple[Timing | None, Timing | None]] = self._run(
                "measure_times", samples, student
            )
            return found
        # This process was given no GPU to time the student on; the teachers' times are kept ones in any case.
        return {
            spec.name: (Teacher(spec).measure_time(samples[spec.name]), None)
            for spec in self.specs
            if spec.name in samples
        }


@dataclass(frozen=True)
class LocalCall:
    """A method of a `LocalReplica`, called as one of an actor's handle."""

    replica: LocalReplica
    method: str

    def options(self, **_: object) -> LocalCall:
        """Return the call: there is no queue of requests here."""
        return self

    def remote(self, *arguments: object) -> ray.ObjectRef[Any]:
        """Run the method, and return its result as a reference."""
        return ray.put(self.replica.call(self.method, *arguments))
