"""`LentThreads`: the threads that workers lend to a teacher's process while they wait for its answers.

Decision record:

- A worker that waits for an answer computes nothing, so its CPUs idle. It says so to the process that it waits for,
  which then answers a further waiting request beside the first one, with as many threads as it has of its own. Two
  requests of one thread each are faster than one of two threads, and an answer stays the same to the bit whether
  threads were lent or not.
- A loan ends with the answer that the worker waits for, so it needs no message of its own and survives no worker: the
  worker wakes up and computes again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class LentThreads:
    """Counts the threads that are lent to this process now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_request: dict[bytes, int] = {}

    @contextlib.contextmanager
    def open_request(self, token: bytes) -> Iterator[None]:
        """Accept a loan for a request until the body ends.

        Args:
            token: Of the request; b"" for one whose sender lends nothing.
        """
        with self._lock:
            if token:
                self._by_request[token] = 0
        try:
            yield
        finally:
            with self._lock:
                self._by_request.pop(token, None)

    def lend(self, token: bytes, threads: int) -> bool:
        """Take a loan; return whether the request is still open. One that comes after the answer is void."""
        with self._lock:
            if token not in self._by_request:
                return False
            self._by_request[token] = threads
            return True

    def count(self) -> int:
        """Return how many threads are lent now."""
        with self._lock:
            return sum(self._by_request.values())
