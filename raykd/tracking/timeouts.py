"""Set how long MLflow waits and how much it says, which it reads from the environment at each call.

Decision record: MLflow takes timeout and retries as environment variables and has no argument for them. Its defaults
make one call take 4 minutes when a server is gone. raykd sets them while a tracker is open and puts them back after.
What the user set is left as it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping

from raykd.environ import set_environment
from raykd.tracking.address import is_server

PROBE_S, PATIENCE_S = 4, 15
"""Seconds for the first answer of a server, and for each later one."""
PROBE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PROBE_S)}
_WHILE_OPEN = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PATIENCE_S),
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_environment_lock = threading.RLock()
_open_trackers = 0
_shortened = contextlib.ExitStack()
"""Puts the variables back that the first open tracker set."""


@contextlib.contextmanager
def set_mlflow_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that MLflow reads at each call, and put them back afterwards."""
    with _environment_lock, set_environment(values):
        yield


def disable_telemetry() -> None:
    """Keep MLflow from reporting its use, unless the user wants it; to be called before it is first imported."""
    # A cluster's job calls nobody unasked.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def ask_briefly(uri: str) -> contextlib.AbstractContextManager[None]:
    """Let a server have `PROBE_S` seconds and no second try, to learn whether it answers at all."""
    return set_mlflow_variables(PROBE if is_server(uri) else {})


def shorten_timeouts() -> None:
    """Let MLflow wait seconds, not 4 minutes, and draw no bars, while a tracker is open."""
    global _open_trackers
    with _environment_lock:
        if _open_trackers == 0:
            unset = {name: value for name, value in _WHILE_OPEN.items() if name not in os.environ}
            _shortened.enter_context(set_environment(unset))
        _open_trackers += 1


def restore_timeouts() -> None:
    """Undo `shorten_timeouts` when the last tracker ends."""
    global _open_trackers
    with _environment_lock:
        _open_trackers -= 1
        if _open_trackers == 0:
            _shortened.close()


@contextlib.contextmanager
def limit_attempts() -> Iterator[None]:
    """Let MLflow try a database once. It tries ten times, 100 s in all, and then says what it did last."""
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
    """Let loggers say nothing below a warning for a while."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
