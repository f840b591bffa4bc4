"""Write a run's log file: the records of all loggers, without secrets."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from raykd.redaction import RedactingFilter

NOISY = (
    "ray",
    "ray.train",
    "ray.tune",
    "mlflow",
    "alembic",
    "sqlalchemy",
    "DeepSpeed",
    "datasets",
    "transformers",
)
"""Loggers of libraries whose records go to the log file instead of the terminal."""


@contextlib.contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Send the records of all loggers and all warnings to a log file while the body runs.

    Afterwards the process is as before, so its next run logs to a file of its own.
    """
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(RedactingFilter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    silence_libraries()
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()


def silence_libraries() -> None:
    """Remove the libraries' handlers from the terminal. Called again after an import, which adds them again."""
    for name in NOISY:
        noisy = logging.getLogger(name)
        for old in list(noisy.handlers):
            noisy.removeHandler(old)
        noisy.propagate = True
