"""`ParkedActor`: stands in for a `TeacherActor` and loads nothing until it is asked.

Decision record: where readers are on the stores' own node, a parked pool is never asked. Starting a process that
imports torch and transformers would compete with the trials that start at the same moment. So this module imports
neither, and the teachers' specs travel as bytes that are unpickled with the first question.
"""

from __future__ import annotations

import os
import pickle
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it imports torch
    from raykd.answers.source import AnswerSlots
    from raykd.answers.vocabularies import TeacherVocabulary
    from raykd.teachers.actor import TeacherActor
    from raykd.teachers.wire import GroupRequest
    from raykd.text.batch import TextBatch


class ParkedActor:
    """Becomes a `TeacherActor` with the first question. Its methods are those of `TeacherActor`.

    Args:
        arguments: Of `TeacherActor`, pickled.
    """

    def __init__(self, arguments: bytes) -> None:
        self._arguments = arguments
        self._lock = threading.Lock()
        self._teachers: TeacherActor | None = None

    def _wake(self) -> TeacherActor:
        with self._lock:
            if self._teachers is None:
                from raykd.teachers.actor import TeacherActor

                self._teachers = TeacherActor(*pickle.loads(self._arguments))
            return self._teachers

    def answer(self, request: GroupRequest) -> list[AnswerSlots]:
        """See `TeacherActor.answer`."""
        return self._wake().answer(request)

    def lend(self, token: bytes, threads: int) -> None:
        """See `TeacherActor.lend`."""
        self._wake().lend(token, threads)

    def vocabulary(self, name: str) -> TeacherVocabulary:
        """See `TeacherActor.vocabulary`."""
        return self._wake().vocabulary(name)

    def generate(self, name: str, rows: TextBatch, beams: int | None, max_new_tokens: int) -> list[str]:
        """See `TeacherActor.generate`."""
        return self._wake().generate(name, rows, beams, max_new_tokens)

    def counters(self) -> dict[str, dict[str, int]]:
        """See `TeacherActor.counters`; empty until the first question."""
        return {} if self._teachers is None else self._teachers.counters()

    def findings(self) -> dict[str, str]:
        """See `TeacherActor.findings`; empty until the first question."""
        return {} if self._teachers is None else self._teachers.findings()

    def usage(self) -> tuple[float, int]:
        """See `TeacherActor.usage`."""
        return self._wake().usage()

    def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    def close(self) -> None:
        """Flush the stores."""
        if self._teachers is not None:
            self._teachers.close()
