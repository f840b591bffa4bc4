"""The frame of a command: Ray and MLflow opened together, signals that end it in order."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray

from raykd.config import RayConfig
from raykd.runs.cluster import connect
from raykd.runs.folder import RunFolder, hush
from raykd.tracking import Tracker, redact

log = logging.getLogger("raykd.runs")


def open_session(config: RayConfig, folder: RunFolder, start_tracker: Callable[[], Tracker]) -> Tracker:
    """Connects to Ray and opens the MLflow run at the same time: each takes seconds."""
    with ThreadPoolExecutor(max_workers=1) as background:
        starting = background.submit(start_tracker)
        try:
            connect(config)
            listen()
        except BaseException as error:
            starting.result().finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        log.info("connected to Ray: %s; its logs are in %s", ray.cluster_resources(), _ray_logs())
        tracker = starting.result()
    hush()
    log.info("MLflow run %s at %s", tracker.run_id, redact(tracker.uri))
    folder.write_state(mlflow_run_id=tracker.run_id)
    return tracker


def _ray_logs() -> str:
    node = ray._private.worker.global_worker.node
    return str(node.get_logs_dir_path()) if node is not None else "the cluster"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends the run like Ctrl-C does, so that its state is written."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    listen()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before[0])
            signal.signal(signal.SIGTERM, before[1])


def listen() -> None:
    """Takes SIGINT and SIGTERM; called again after connecting, since Ray takes SIGTERM for itself."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, interrupt)
