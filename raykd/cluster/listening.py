"""Take in what workers and trials send, on a thread of the driver.

Decision record: the main thread waits for Ray Train or Tune and cannot look; one thread looks a few times a second, so
that points, bars and MLflow are in order without a lock around them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import ray

POLL_S = 0.2
"""Between two looks."""
ON_THE_WAY_S = 0.05
"""Messages are sent without waiting; those on their way arrive within this."""


@contextlib.contextmanager
def listen(take: Callable[[], None], *, name: str, patience_s: float | None = None) -> Iterator[None]:
    """Call ``take`` again and again while the body runs, and for what is left once the body has ended.

    Args:
        take: Takes in what has arrived since the last call. Never called by two threads at once, unless
            ``patience_s`` ran out.
        name: Of the thread.
        patience_s: Longest wait for the thread's last call; None waits to its end.
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
