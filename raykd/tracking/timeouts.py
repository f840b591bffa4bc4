"""How long MLflow waits, and how much it says: its knobs are environment variables of the process.

Decision record: MLflow reads timeout and retries from the environment at each request and has no argument
for them. Its defaults make one call take 4 minutes when a server is gone. They are lent to the environment
while a tracker is open and taken back after, and what the user set is left as it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping

from raykd.environ import set_environment

PROBE_S, PATIENCE_S = 4, 15
"""Seconds for the first answer of a server, and for each later one."""
PROBE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PROBE_S)}
_LENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PATIENCE_S),
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_environment_lock = threading.RLock()
_open_trackers = 0
_lent: list[str] = []


@contextlib.contextmanager
def set_mlflow_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that MLflow reads at each call, put back afterwards."""
    with _environment_lock, set_environment(values):
        yield


def shorten_timeouts() -> None:
    """While a tracker is open MLflow waits seconds, not 4 minutes, and draws no bars, unless the user set it."""
    global _open_trackers
    with _environment_lock:
        if _open_trackers == 0:
            _lent[:] = [name for name in _LENT if name not in os.environ]
            os.environ.update({name: _LENT[name] for name in _lent})
        _open_trackers += 1


def restore_timeouts() -> None:
    """Undoes `shorten_timeouts` when the last tracker ends."""
    global _open_trackers
    with _environment_lock:
        _open_trackers -= 1
        if _open_trackers == 0:
            for name in _lent:
                os.environ.pop(name, None)


@contextlib.contextmanager
def limit_attempts() -> Iterator[None]:
    """MLflow opens a database once: it tries ten times, 100 s in all, and says what it did last."""
    from mlflow.store.db import utils

    before = getattr(utils, "MAX_RETRY_COUNT", None)
    utils.MAX_RETRY_COUNT = 1
    try:
        yield
    finally:
        if before is not None:
            utils.MAX_RETRY_COUNT = before


@contextlib.contextmanager
def silence_loggers(*names: str) -> Iterator[None]:
    """Loggers that say nothing below a warning for a while."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
