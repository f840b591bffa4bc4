"""`ParkedActor`: a place that holds nothing until somebody asks.

Decision record: where readers are on the stores' own node nobody ever asks a parked pool, and starting a process
that imports torch and transformers competes with the trials that start at the same moment. So this module imports
nothing of the kind, and the teachers' specs travel as bytes, which are looked at with the first question.
"""

from __future__ import annotations

import os
import pickle
import threading
from typing import Any


class ParkedActor:
    """Becomes a `TeacherActor` with the first question.

    Args:
        arguments: of `TeacherActor`, pickled.
    """

    def __init__(self, arguments: bytes) -> None:
        self._arguments = arguments
        self._lock = threading.Lock()
        self._awake: Any = None

    def _actor(self) -> Any:
        with self._lock:
            if self._awake is None:
                from raykd.teachers.actor import TeacherActor

                self._awake = TeacherActor(*pickle.loads(self._arguments))
            return self._awake

    def answer(self, request: Any) -> Any:
        """As `TeacherActor.answer`."""
        return self._actor().answer(request)

    def vocabulary(self, name: str) -> Any:
        """As `TeacherActor.vocabulary`."""
        return self._actor().vocabulary(name)

    def generate(self, name: str, rows: Any, beams: int | None, max_new_tokens: int) -> Any:
        """As `TeacherActor.generate`."""
        return self._actor().generate(name, rows, beams, max_new_tokens)

    def counters(self) -> dict[str, dict[str, int]]:
        """As `TeacherActor.counters`; empty while nobody has asked."""
        return {} if self._awake is None else self._actor().counters()

    def findings(self) -> dict[str, str]:
        """As `TeacherActor.findings`; empty while nobody has asked."""
        return {} if self._awake is None else self._actor().findings()

    def usage(self) -> Any:
        """As `TeacherActor.usage`."""
        return self._actor().usage()

    def pid(self) -> int:
        """The process id."""
        return os.getpid()

    def close(self) -> None:
        """Flushes the stores."""
        if self._awake is not None:
            self._awake.close()
