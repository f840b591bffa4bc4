"""Serve MLflow's own pages of one database, to this machine alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from raykd.errors import TrackingError
from raykd.tracking.address import build_sqlite_uri
from raykd.tracking.stores.database import check_database, remove_misspelled_folders


def serve_ui(output: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve MLflow's pages of the database in ``output`` until Ctrl-C.

    Args:
        output: Folder of the runs.
        port: Port on this machine.
        say: Shows a line to the user.

    Raises:
        TrackingError: There is no database, it cannot be used, or the server ends by itself.
    """
    database = output.expanduser().resolve() / "mlflow.db"
    if not database.is_file():
        raise TrackingError(
            "there is no MLflow database to show", got=database, wanted="the `output` folder of a run",
            next_step="raykd ui --output FOLDER; runs on a tracking server are shown by that server",
        )  # fmt: skip
    uri = build_sqlite_uri(database)
    check_database(database, uri)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", uri, "--workers", "1"]
    say(f"http://127.0.0.1:{port} shows {database}; starting takes about 20 s, Ctrl-C ends it")
    with remove_misspelled_folders(uri):
        environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **os.environ}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            code = process.wait()
        finally:
            _end(process)
    raise TrackingError("the MLflow server ended", got=f"exit status {code}", next_step="try another --port")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and the processes that it started; it would take seconds to do so itself."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
