"""Receive on a thread of the driver what workers and trials send.

Decision record: the main thread waits for Ray Train or Tune. One other thread looks a few times a second, so that
points, bars and MLflow need no lock.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import ray

POLL_S = 0.2
"""Seconds between two looks."""
ON_THE_WAY_S = 0.05
"""Seconds within which messages on their way arrive; senders do not wait for them."""


@contextlib.contextmanager
def listen(take: Callable[[], None], *, name: str, patience_s: float | None = None) -> Iterator[None]:
    """Call ``take`` repeatedly while the body runs, and for the remaining messages afterwards.

    Args:
        take: Processes what has arrived since the last call. Two threads never call it at once, unless
            ``patience_s`` has passed.
        name: Name of the thread.
        patience_s: Longest wait for the thread's last call, in seconds; None waits until it ends.
    """
    finished = threading.Event()

    def listen() -> None:
        while not finished.wait(POLL_S):
            try:
                take()
            except ray.exceptions.RayError:  # the mailbox is gone
                return

    thread = threading.Thread(target=listen, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join(timeout=patience_s)
        with contextlib.suppress(ray.exceptions.RayError):
            take()
            time.sleep(ON_THE_WAY_S)
            take()
