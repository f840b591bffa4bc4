"""The way of news from workers and trials to the driver; imports nothing heavy, since it is a process of its own.

Decision record: the driver ends the mailbox, and does not leave it to the last reference to it: the error of a run
that failed holds its frames, so in a process that goes on (a notebook) the actor would live as long as that error.
It is placed on the head node, whose loss ends the run anyway: without CPUs it would fit any node, and a lost worker's
node would take all news with it. A run's only worker keeps its mailbox itself, and is asked for it: what is lost with
its process is in the checkpoint that the next attempt goes on from, or comes again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from raykd.errors import RaykdError, TeacherError
from raykd.point import Point
from raykd.timeline import Span


@dataclass(frozen=True)
class Event:
    """What a worker tells the driver.

    Attributes:
        kind: What happened.
        job: Name of the job.
        point: A point of the curves; of kinds started and done only its step counts. Of kind tokens its step is the
            number of rows that are tokenised.
        total_steps: Optimizer steps of the job, of kinds started, point and done; of kind tokens all rows.
        error: Of kind error.
        text: Of kinds note and log.
        logger: Of kind log: name and level of the record.
        spans: Of kind spans: what the worker's time went to since the last ones.
    """

    kind: Literal["tokens", "started", "point", "done", "note", "log", "error", "spans"]
    job: str
    point: Point | None = None
    total_steps: int = 0
    error: RaykdError | None = None
    text: str = ""
    spans: Sequence[Span] = ()
    logger: tuple[str, int] = ("", logging.INFO)


class EventSink(Protocol):
    """Where a worker puts its events."""

    def put(self, *events: Event, wait: bool = False) -> None:
        """Add events; ``wait`` returns once they have arrived."""

    def hopeless(self) -> bool:
        """Return whether a worker met an error that another attempt meets again."""


class _LogSender(logging.Handler):
    """Sends records as events; arguments as for `sending_logs`."""

    def __init__(self, sink: EventSink, job: str) -> None:
        super().__init__()
        self._sink, self._job = sink, job

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; see `logging.Handler`."""
        try:
            logger = (record.name, record.levelno)
            self._sink.put(Event("log", self._job, text=record.getMessage(), logger=logger))
        except Exception:  # a line that cannot be sent must not end the training
            self.handleError(record)


@contextlib.contextmanager
def sending_logs(sink: EventSink, job: str) -> Iterator[None]:
    """Send what raykd logs in this process to the driver, which has the run's log file, while the body runs.

    Args:
        sink: Where to.
        job: Name of the job.
    """
    logger, handler = logging.getLogger("raykd"), _LogSender(sink, job)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def log_event(event: Event, job: str) -> None:
    """Log in this process what a worker logged.

    Args:
        event: Of kind log.
        job: Name of its job for a person.
    """
    name, level = event.logger
    logging.getLogger(name).log(level, "%s: %s", job, event.text)


class Mailbox:
    """Events on their way from workers to the driver; an actor without CPU, or a part of the only worker."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._hopeless = False
        self._sent = 0
        self._lock = threading.Lock()

    def put(self, *events: Event, wait: bool = False) -> None:
        """Add events, at once."""
        with self._lock:
            self._events.extend(events)
            self._sent += len(events)
            self._hopeless |= any(
                e.error is not None and not isinstance(e.error, TeacherError) for e in events
            )

    def hopeless(self) -> bool:
        """Return whether a worker met an error that another attempt meets again."""
        return self._hopeless

    def sent(self) -> int:
        """Return the number of events so far, taken or not."""
        with self._lock:
            return self._sent

    def drain(self) -> list[Event]:
        """Take all events."""
        with self._lock:
            events, self._events = self._events, []
        return events


@dataclass(frozen=True)
class RemoteMailbox:
    """A mailbox on the cluster, as a worker sees it.

    Attributes:
        actor: The actor's handle.
    """

    actor: Any

    def put(self, *events: Event, wait: bool = False) -> None:
        """Send events; ``wait`` returns once they have arrived."""
        import ray

        sent = self.actor.put.remote(*events)
        if wait:
            ray.get(sent)

    def hopeless(self) -> bool:
        """Return whether a worker met an error that another attempt meets again."""
        import ray

        return bool(ray.get(self.actor.hopeless.remote()))


@contextlib.contextmanager
def mailbox_on_cluster() -> Iterator[Any]:
    """Yield the actor while the body runs; it is dead afterwards, however the body ended."""
    import ray

    from raykd.compat.ray_private import find_head_resource

    mailbox: Any = ray.remote(Mailbox).options(num_cpus=0, resources=find_head_resource()).remote()
    try:
        yield mailbox
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(mailbox)
