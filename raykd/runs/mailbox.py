"""The way of news from workers and trials to the driver; imports nothing heavy, since it is a process of its own."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from raykd.errors import RaykdError, TeacherError
from raykd.point import Point


@dataclass(frozen=True)
class Event:
    """What a worker tells the driver. kind: started, point, done or error."""

    kind: str
    job: str
    point: Point | None = None
    total_steps: int = 0
    error: RaykdError | None = None


class Mailbox:
    """Events on their way from workers to the driver; an actor without CPU."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._hopeless = False
        self._sent = 0
        self._lock = threading.Lock()

    def put(self, *events: Event) -> None:
        """Adds events."""
        with self._lock:
            self._events.extend(events)
            self._sent += len(events)
            self._hopeless |= any(
                e.error is not None and not isinstance(e.error, TeacherError) for e in events
            )

    def hopeless(self) -> bool:
        """Whether a worker met an error that another attempt meets again."""
        return self._hopeless

    def sent(self) -> int:
        """Events so far, taken or not."""
        with self._lock:
            return self._sent

    def drain(self) -> list[Event]:
        """Takes all events."""
        with self._lock:
            events, self._events = self._events, []
        return events
