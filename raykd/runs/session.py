"""The frame of a command: Ray and MLflow opened together, signals that end it in order."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from raykd.config import RayConfig
from raykd.errors import RaykdError
from raykd.runs.cluster import connect
from raykd.runs.folder import RunFolder, hush
from raykd.tracking import Tracker, redact
from raykd.tracking.tracker import Status

log = logging.getLogger("raykd.runs")
LAST_WORDS_S = 2.0
"""Longest wait for what an interrupted run writes last."""
INTERRUPTED = 130


class Session:
    """Ray, connected, and an MLflow run that is being opened beside it: each takes seconds.

    Args:
        start_tracker: opens the MLflow run; runs on a thread of its own.
    Raises:
        ResourceError: there is no such cluster.
    """

    def __init__(self, config: RayConfig, folder: RunFolder, start_tracker: Callable[[], Tracker]) -> None:
        self._folder = folder
        self._background = ThreadPoolExecutor(max_workers=1)
        self._starting = self._background.submit(start_tracker)
        self._tracker: Tracker | None = None
        try:
            connect(config)
            listen()
        except BaseException as error:
            self.end(error)
            raise
        log.info("connected to Ray: %s; its logs are in %s", ray.cluster_resources(), _ray_logs())

    def tracker(self) -> Tracker:
        """The MLflow run, waited for.

        Raises:
            TrackingError: it cannot be opened.
        """
        if self._tracker is None:
            self._tracker = self._starting.result()
            self._background.shutdown(wait=False)
            hush()
            log.info("MLflow run %s at %s", self._tracker.run_id, redact(self._tracker.uri))
            self._folder.write_state(mlflow_run_id=self._tracker.run_id)
            at_interrupt(lambda: self.end(KeyboardInterrupt()))
        return self._tracker

    def end(self, error: BaseException | None = None) -> None:
        """Ends the MLflow run as the command ended."""
        with contextlib.suppress(
            RaykdError
        ):  # that it could not be opened was told, or is not the first error
            status: Status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            (self._tracker or self._starting.result()).finish("FINISHED" if error is None else status)
        self._background.shutdown(wait=False)


def _ray_logs() -> str:
    node = ray._private.worker.global_worker.node
    return str(node.get_logs_dir_path()) if node is not None else "the cluster"


class _Interrupts:
    """What this process does when it is told to end. at_once: done beside the unwinding. threads: those at it."""

    def __init__(self) -> None:
        self.at_once: list[Callable[[], None]] = []
        self.threads: list[threading.Thread] = []
        self.told = False


_interrupts = _Interrupts()


@contextlib.contextmanager
def interruptible(*at_once: Callable[[], None]) -> Iterator[None]:
    """SIGTERM ends the run like Ctrl-C does, so that its state is written; a second signal ends the process at once.

    Args:
        at_once: done first, on a thread each: who sent the signal may send SIGKILL three seconds later, and by then
            what lasts (state, MLflow) must be written; actors and placement groups end with this process anyway.
    """
    global _interrupts
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    outer, _interrupts = _interrupts, _Interrupts()
    _interrupts.at_once.extend(at_once)
    listen()
    try:
        yield
    finally:
        for thread in _interrupts.threads:
            thread.join(timeout=LAST_WORDS_S)
        _interrupts = outer
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before[0])
            signal.signal(signal.SIGTERM, before[1])


def at_interrupt(action: Callable[[], None]) -> None:
    """Adds to what is done first when this process is told to end."""
    _interrupts.at_once.append(action)


def listen() -> None:
    """Takes SIGINT and SIGTERM; called again after connecting, since Ray takes SIGTERM for itself."""

    def interrupt(number: int, frame: Any) -> None:
        if _interrupts.told:
            os._exit(INTERRUPTED)  # Ray ends what belonged to this process
        _interrupts.told = True
        for action in _interrupts.at_once:
            thread = threading.Thread(target=_guarded, args=(action,), daemon=True)
            _interrupts.threads.append(thread)
            thread.start()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, interrupt)


def _guarded(action: Callable[[], None]) -> None:
    try:
        action()
    except Exception:
        log.exception("the last words of an interrupted run were not all written")
