"""A real MLflow server that is killed in the middle of a run and started again, on the same port and database."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raykd.point import Point
from raykd.tracking import SyncResult, Tracker, find_waiting_folders, send_waiting

pytestmark = pytest.mark.nightly
STEPS = 300


class Server:
    """An MLflow server; `start` waits until it answers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **quiet},
                start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.25)
        raise TimeoutError(self.uri)

    def kill(self) -> None:
        """The server and its workers, which are a process group of their own."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    server.start()
    yield server
    server.kill()


def points(first: int, last: int) -> list[Point]:
    return [
        Point(s, {"train/loss": 1.0 / s, "train/alpha": 0.5}, 1_000_000 + s) for s in range(first, last + 1)
    ]


def history(uri: str, run_id: str, name: str) -> list[int]:
    from mlflow import MlflowClient

    return sorted(m.step for m in MlflowClient(uri).get_metric_history(run_id, name))


def run_of(uri: str, run_id: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri).get_run(run_id)


def test_a_server_that_dies_and_comes_back_gets_every_point_once(
    server: Server, tmp_path: Path, capsys: Any
) -> None:
    tracker = Tracker.start(server.uri, "e", "back", params={"a": 1}, tags={}, directory=tmp_path / "back")
    tracker.log_points(points(1, 100))
    assert tracker.flush(30.0)
    server.kill()
    longest = 0.0
    for step in range(101, 201):
        begun = time.monotonic()
        tracker.log_points(points(step, step))
        longest = max(longest, time.monotonic() - begun)
        time.sleep(0.02)
    assert not tracker.flush(10.0)
    server.start()
    begun = time.monotonic()
    while (tmp_path / "back" / "mlflow_spool.jsonl").exists() and time.monotonic() < begun + 150:
        time.sleep(0.1)
    emptied_s = time.monotonic() - begun
    tracker.log_points(points(201, STEPS))
    tracker.log_text("hello", "hello.txt")
    tracker.finish()
    assert not list((tmp_path / "back").glob("mlflow_*"))
    for name in ("train/loss", "train/alpha"):
        assert history(server.uri, tracker.run_id, name) == list(range(1, STEPS + 1))
    assert run_of(server.uri, tracker.run_id).info.status == "FINISHED"
    with capsys.disabled():
        print(f"\n[time to recover] server back to spool empty: {emptied_s:.1f} s; longest log_points while it was "
              f"away: {1e3 * longest:.1f} ms")  # fmt: skip


def test_what_a_run_could_not_record_before_its_end_is_sent_by_the_command(
    server: Server, tmp_path: Path
) -> None:
    import yaml

    from raykd.config.loading import dump_run
    from tests.worlds import run_config

    folder = tmp_path / "gone"
    tracker = Tracker.start(server.uri, "e", "gone", params={"a": 1}, tags={}, directory=folder)
    tracker.log_points(points(1, 50))
    assert tracker.flush(30.0)
    server.kill()
    tracker.log_points(points(51, STEPS))
    tracker.set_tags({"raykd.lost_teachers": "en"})
    tracker.log_text("a table", "results.md")
    tracker.log_table([{"a": 1}], "results.json")
    tracker.finish("FAILED", timeout_s=5.0)
    server.start()
    assert run_of(server.uri, tracker.run_id).info.status == "RUNNING"
    tree = yaml.safe_load(dump_run(run_config()))
    (folder / "run.json").write_text("{}", encoding="utf-8")
    (folder / "run.yaml").write_text(
        yaml.safe_dump({**tree, "tracking": {"uri": server.uri}}), encoding="utf-8"
    )
    command = [sys.executable, "-m", "raykd.cli", "mlflow", "sync", str(folder)]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    # The writer of this process, which outlives `finish` here alone, may have been quicker with the points.
    assert re.search(r"sent (250|0) points and", first) and "nothing waits" in second
    run = run_of(server.uri, tracker.run_id)
    assert run.info.status == "FAILED" and run.data.tags["raykd.lost_teachers"] == "en"
    assert history(server.uri, tracker.run_id, "train/loss") == list(range(1, STEPS + 1))
    from mlflow import MlflowClient

    names = {f.path for f in MlflowClient(server.uri).list_artifacts(tracker.run_id)}
    assert {"results.md", "results.json"} <= names
    assert find_waiting_folders(folder) == [] and send_waiting(server.uri, folder) == SyncResult()
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"])[0]["path"] == "results.json"


def black_hole(port: int) -> socket.socket:
    """A listening socket that nobody reads, once the last process of the killed server has let go of the port."""
    until = time.monotonic() + 20.0
    while True:
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def test_a_socket_that_accepts_and_never_answers_holds_nobody_up(server: Server, tmp_path: Path) -> None:
    tracker = Tracker.start(server.uri, "e", "hole", params={}, tags={}, directory=tmp_path / "hole")
    server.kill()
    with black_hole(int(server.uri.rpartition(":")[2])):
        longest = 0.0
        for step in range(1, 301):  # "training"
            begun = time.monotonic()
            tracker.log_points(points(step, step))
            longest = max(longest, time.monotonic() - begun)
            time.sleep(0.01)
        assert longest < 1.0, "a step waited for the server"
        tracker.finish("KILLED")
    server.start()
    sent = send_waiting(server.uri, tmp_path / "hole")
    assert sent.points == 300
    assert history(server.uri, tracker.run_id, "train/loss") == list(range(1, 301))
    assert run_of(server.uri, tracker.run_id).info.status == "KILLED"
