"""A head and two nodes, each a Ray of its own on this machine: a run sent by `raykd submit` through the real Jobs API.

The head asks for a token and takes no work; teachers go to one node, students to the other; what the student learns is
what it learns on one node. One cluster serves all tests of this file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.nightly
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TOKEN = "0123456789abcdef0123456789abcdef0123456789abcdef"
NODES = {"teacher": 2, "student": 2}
"""Of each node its custom resource and its CPUs."""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Nodes:
    """A head and two nodes: `ray start --block` processes, ended by their ids."""

    folder: Path
    gcs: int = field(default_factory=free_port)
    dashboard: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def environment(self) -> dict[str, str]:
        """Of everything that has the token."""
        clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        return {
            **clean,
            "PATH": f"{BIN}{os.pathsep}{clean['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",
        }

    def start(self, *arguments: str) -> None:
        # Each has a folder of its own, as on a machine of its own: where nodes share one, a node removes what another
        # has unpacked of a job.
        temporary = self.folder / f"n{len(self.processes)}"
        arguments = (*arguments, f"--temp-dir={temporary}")
        with (self.folder / "ray.log").open("ab") as log:
            # Jobs are run by a node's agent, whose default port is that of every other Ray of this machine.
            agent = f"--dashboard-agent-listen-port={free_port()}"
            command = [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", agent, *arguments]
            self.processes.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=self.folder)
            )

    def up(self) -> None:
        (self.folder / "token").write_text(TOKEN)
        (self.folder / "token").chmod(0o600)
        self.start(
            "--head", "--node-ip-address=127.0.0.1", f"--port={self.gcs}", "--num-cpus=0",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}", "--include-dashboard=true",
            "--object-store-memory=100000000", f"--ray-client-server-port={free_port()}",
        )  # fmt: skip
        self.wait_for(1)
        for there, (name, cpus) in enumerate(NODES.items(), start=2):
            self.start(
                f"--address=127.0.0.1:{self.gcs}", f"--num-cpus={cpus}", f'--resources={{"{name}": 1}}',
                "--object-store-memory=100000000",
            )  # fmt: skip
            self.wait_for(there)

    def wait_for(self, nodes: int) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            assert all(p.poll() is None for p in self.processes), (self.folder / "ray.log").read_text()
            try:
                if len([n for n in self.listed("nodes") if n["state"] == "ALIVE"]) >= nodes:
                    return
            except OSError:
                pass
            time.sleep(0.3)
        raise TimeoutError((self.folder / "ray.log").read_text())

    def get(self, path: str, token: str | None = TOKEN) -> tuple[int, bytes]:
        request = urllib.request.Request(self.address + path)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def listed(self, what: str) -> list[dict[str, Any]]:
        """Actors or nodes, from the state API."""
        status, body = self.get(f"/api/v0/{what}?limit=1000&detail=1")
        if status != 200:
            raise OSError(body)
        result: list[dict[str, Any]] = json.loads(body)["data"]["result"]["result"]
        return result

    def down(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Short, as the paths of Ray's sockets have a limit."""
    path = Path(tempfile.mkdtemp(prefix="sbm"))
    shutil.copy(ROOT / "cluster" / "run.yaml", path)
    (path / "work").mkdir()
    shutil.move(path / "run.yaml", path / "work" / "run.yaml")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[Nodes]:
    found = Nodes(folder)
    try:
        found.up()
        yield found
    finally:
        found.down()


def raykd(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raykd.cli", *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=200)


def submitted(nodes: Nodes, folder: Path) -> subprocess.CompletedProcess[str]:
    return raykd(
        "submit", "work/run.yaml", f"serving.store={folder / 'store'}", "tracking.log_model=false",
        "--address", nodes.address, "--output", str(folder / "far"), env=nodes.environment, cwd=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def near(nodes: Nodes, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The same run on one node, whose processes go beside those of the cluster."""
    anywhere = ["workers.resources.student=0", "teacher_defaults.actor.resources.teacher=0",
                "teacher_defaults.training.workers.resources.student=0"]  # fmt: skip
    command = [sys.executable, "-m", "raykd.cli", "train", "work/run.yaml", f"output={folder / 'near'}",
               f"serving.store={folder / 'near-store'}", "tracking.log_model=false", "ray.num_cpus=2", *anywhere]  # fmt: skip
    clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"RAY_AUTH_MODE": "disabled"}
    with (folder / "near.log").open("w") as log:
        process = subprocess.Popen(command, env=clean, cwd=folder, stdout=log, stderr=log, text=True)
    yield process
    if process.poll() is None:
        process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def sent(near: subprocess.Popen[str], nodes: Nodes, folder: Path) -> subprocess.CompletedProcess[str]:
    """The run, sent to the cluster and followed to its end."""
    return submitted(nodes, folder)


def curves(run: Path) -> dict[tuple[str, int], dict[str, float]]:
    """What was measured, by job and step; durations are no results."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for line in (run / "curves.jsonl").read_text().splitlines():
        point = json.loads(line)
        values = {
            k: float(v)
            for k, v in point["values"].items()
            if not k.endswith(("_s", "per_second", "hit_rate"))
        }
        found.setdefault((point["job"], point["step"]), {}).update(values)
    return found


def test_the_job_is_followed_to_its_end(sent: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert "uploads 1 file, 1." in sent.stdout
    assert "run.yaml" in sent.stdout and "job small-" in sent.stdout
    assert json.loads((folder / "far" / "small" / "run.json").read_text())["status"] == "finished"
    assert TOKEN not in sent.stdout + sent.stderr


def test_teachers_and_students_are_where_they_were_asked_to_be(
    sent: subprocess.CompletedProcess[str], nodes: Nodes
) -> None:
    node_of = {
        name: node["node_id"]
        for node in nodes.listed("nodes")
        for name in NODES
        if name in node["resources_total"]
    }
    actors = nodes.listed("actors")
    places = {
        kind: {a["node_id"] for a in actors if a["class_name"].startswith(kind)}
        for kind in ("TeacherActor", "RayTrainWorker")
    }
    assert places == {"TeacherActor": {node_of["teacher"]}, "RayTrainWorker": {node_of["student"]}}, [
        (a["class_name"], a["node_id"]) for a in actors
    ]
    alive = [a["class_name"] for a in actors if a["state"] != "DEAD" and "Teacher" in a["class_name"]]
    assert alive == []


def test_what_the_student_learns_is_what_it_learns_on_one_node(
    sent: subprocess.CompletedProcess[str], near: subprocess.Popen[str], folder: Path
) -> None:
    assert near.wait(timeout=120) == 0, (folder / "near.log").read_text()
    far, here = curves(folder / "far" / "small"), curves(folder / "near" / "small")
    assert far.keys() == here.keys() and len(far) > 4
    for at in far:
        assert far[at] == pytest.approx(here[at], abs=1e-6, nan_ok=True), at


def test_a_job_that_is_sent_again_goes_on_where_it_was(
    sent: subprocess.CompletedProcess[str], nodes: Nodes, folder: Path
) -> None:
    (folder / "work" / "notes.txt").write_text("so that Ray unpacks it elsewhere")
    again = submitted(nodes, folder)
    assert again.returncode == 0 and "finished already" in again.stdout, again.stdout + again.stderr


def test_nobody_without_the_token_is_answered(nodes: Nodes, folder: Path) -> None:
    assert nodes.get("/api/jobs/")[0] == 200
    assert nodes.get("/api/jobs/", token=None)[0] == 401
    assert nodes.get("/api/jobs/", token="another-token-of-another-cluster")[0] == 403
    without = {k: v for k, v in nodes.environment.items() if not k.startswith("RAY_AUTH")}
    told = raykd("jobs", "--address", nodes.address, env={**without, "RAY_AUTH_MODE": "disabled"}, cwd=folder)
    assert told.returncode == 5 and "asks for a token" in told.stderr and "RAY_AUTH_TOKEN_PATH" in told.stderr


def test_jobs_are_listed(sent: subprocess.CompletedProcess[str], nodes: Nodes, folder: Path) -> None:
    told = raykd("jobs", "--address", nodes.address, env=nodes.environment, cwd=folder)
    lines = told.stdout.splitlines()
    assert told.returncode == 0 and lines[0].split()[:2] == ["id", "status"], told.stderr
    assert lines[1].startswith("small-") and "SUCCEEDED" in lines[1] and "raykd train run.yaml" in lines[1]


@pytest.mark.nightly
def test_a_sweep_is_sent_and_goes_on_when_it_is_sent_again(nodes: Nodes, folder: Path) -> None:
    shutil.copy(ROOT / "cluster" / "space.yaml", folder / "work")

    def send(samples: int) -> subprocess.CompletedProcess[str]:
        return raykd(
            "submit", "work/space.yaml", f"num_samples={samples}", f"set.serving.store={folder / 'store'}",
            "set.tracking.log_model=false", "--address", nodes.address, "--output", str(folder / "far"),
            env=nodes.environment, cwd=folder,
        )  # fmt: skip

    first = send(2)
    assert first.returncode == 0, first.stdout + first.stderr
    journal = folder / "far" / "small-search" / "trials.csv"
    before = journal.read_text().splitlines()
    again = send(3)
    assert again.returncode == 0, again.stdout + again.stderr
    after = journal.read_text().splitlines()
    assert len(before) == 1 + 2 and len(after) == 1 + 3
