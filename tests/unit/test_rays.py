"""Which Ray a run uses and what is left of its own one; sockets and processes of this machine, no Ray."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raykd.cluster import address as rayaddress
from raykd.cluster.address import check_ray, ray_address
from raykd.cluster.startup import SOCKET_BYTES, check_ray_start, clean_environment
from raykd.config import RayConfig
from raykd.errors import ConfigError, RaykdError

SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@contextlib.contextmanager
def serving(answer: bytes | None) -> Iterator[int]:
    """A server that says this to whoever connects (None: nothing); gives its port."""
    held = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    line, _ = server.accept()
                    held.append(line)
                    if answer is not None:
                        line.recv(64)
                        line.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
    for line in held:
        line.close()


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(rayaddress, "KNOCK_S", 0.5)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:8265", "is the address of a dashboard"),
        ("https://head/ray?token=hunter2", "is the address of a dashboard"),
        ("ray://127.0.0.1:10001", "is one of Ray's client server"),
        ("nonsense", "RAY_ADDRESS=nonsense:6379"),
        ("localhost", "RAY_ADDRESS=localhost:6379"),
        ("localhost:", "is no address of a Ray cluster"),
        ("127.0.0.1:0", "is no address of a Ray cluster"),
        ("127.0.0.1:99999", "is no address of a Ray cluster"),
        ("127.0.0.1:port", "is no address of a Ray cluster"),
        ("::1:6379", "is no address of a Ray cluster"),
        ("6379", "RAY_ADDRESS=HOST:6379"),
        ("127.0.0.1:1", "nobody listens there"),
        ("[::1]:1", "nobody listens there|cannot assign|Cannot assign|not supported"),
        ("no-such-host.invalid:6379", "cannot be resolved"),
    ],
)
def test_an_address_that_no_cluster_can_have_is_one_message(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    monkeypatch.setenv("RAY_ADDRESS", address)
    begun = time.monotonic()
    with pytest.raises(ConfigError) as raised:
        ray_address(RayConfig())
    told = str(raised.value)
    assert re.search(said, told) and "RAY_ADDRESS" in told and "next:" in told and "hunter2" not in told
    assert time.monotonic() - begun < 20.0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "an HTTP server listens there"),
        (b"<!DOCTYPE HTML>", "an HTTP server listens there"),
        (b"-ERR unknown command\r\n", "another service listens there"),
        (b"", "another service listens there"),
        (None, "another service listens there"),
    ],
)
def test_another_service_at_the_port_is_named(answer: bytes | None, said: str) -> None:
    with serving(answer) as port, pytest.raises(ConfigError, match=f"ray.address: 127.0.0.1:{port}; {said}"):
        ray_address(RayConfig(address=f"127.0.0.1:{port}"))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("ray_version", "2.9.0", "Ray 2.9.0, here"), ("python_version", "3.9.1", "Python 3.9.1, here")],
)
def test_other_versions_are_named(key: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rayaddress, "_read_versions", lambda address: {key: value})
    with serving(SETTINGS) as port:
        with pytest.raises(RaykdError, match=said):
            ray_address(RayConfig(address=f"localhost:{port}"))
        monkeypatch.setattr(rayaddress, "_read_versions", lambda address: {})
        assert ray_address(RayConfig(address=f"localhost:{port}")) == f"localhost:{port}"


def test_what_a_cluster_answers_to_a_stranger_is_told_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str) -> dict[str, str]:
        raise RuntimeError("RPC error: InvalidAuthToken: Authentication token is missing or incorrect")

    monkeypatch.setattr(rayaddress, "_read_versions", refuse)
    with serving(SETTINGS) as port, pytest.raises(RaykdError, match="RAY_AUTH_TOKEN_PATH"):
        ray_address(RayConfig(address=f"127.0.0.1:{port}"))


def test_no_address_and_local_are_a_ray_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_address(RayConfig()) is None
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert ray_address(RayConfig()) is None
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    assert ray_address(RayConfig(address="local")) is None
    assert "of its own" in check_ray(RayConfig(address="local"))
    with pytest.raises(ConfigError, match="RAY_ADDRESS: nonsense"):  # which is what Ray's auto takes
        ray_address(RayConfig(address="auto"))


def test_a_folder_in_which_ray_cannot_work_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 20)
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(ConfigError, match=rf"RAY_TMPDIR=.*longlong.* bytes, of {SOCKET_BYTES}"):
        check_ray_start()
    file = Path("/tmp") / f"rk{os.getpid()}"
    file.write_text("")
    try:
        monkeypatch.setenv("RAY_TMPDIR", str(file))
        with pytest.raises(ConfigError, match="is no folder"):
            check_ray_start()
        monkeypatch.setenv("RAY_TMPDIR", "relative")
        with pytest.raises(ConfigError, match="absolute"):
            check_ray_start()
        monkeypatch.delenv("RAY_TMPDIR")
        monkeypatch.setenv("TMPDIR", str(long))  # nobody named that for Ray: it goes elsewhere
        assert f"/tmp/ray-{os.geteuid()}" in check_ray_start()
    finally:
        file.unlink()


def test_what_would_mislead_rays_processes_is_kept_from_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONWARNINGS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.setenv(name, "error")
    with clean_environment():
        assert "PYTHONWARNINGS" not in os.environ and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ
    assert os.environ["PYTHONWARNINGS"] == "error"


LEFT = """
import os, subprocess, sys, time
from pathlib import Path
from raykd.cluster import own_processes as ownray

logs = Path(sys.argv[1]) / f"session_2026-01-01_00-00-00_000000_{os.getpid()}" / "logs"
other = Path(sys.argv[1]) / f"session_2026-01-01_00-00-00_000000_{os.getpid()}7" / "logs"
logs.mkdir(parents=True); other.mkdir(parents=True)
nap = [sys.executable, "-c", "import time; time.sleep(60)"]
deep = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *nap]
with (logs / "raylet.out").open("w") as file, (other / "raylet.out").open("w") as file7:
    worker = subprocess.Popen(deep, stdout=file, start_new_session=True)
    orphaned = ["sh", "-c", '"$@" 2> /dev/null & echo $! 1>&2', "sh"]
    orphan = subprocess.run([*orphaned, *nap], stdout=file, stderr=subprocess.PIPE)
    reader = subprocess.run([*orphaned, "tail", "-f", str(logs / "raylet.out")], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE)
    foreign = subprocess.Popen(nap, stdout=file7)
    named = subprocess.Popen([*nap, f"--log={logs}"], stdout=subprocess.DEVNULL)
orphan, reader = int(orphan.stderr), int(reader.stderr)
time.sleep(1.0)
assert not ownray.started_here()
ownray.kill_own_ray()
assert worker.poll() is None  # nothing was started here by us
ownray.claim_own_ray()
found = ownray.find_own_processes()
assert {worker.pid, orphan, named.pid} <= set(found) and not {foreign.pid, reader} & set(found), found
assert len(found) == 4, found  # the worker's child too
ownray.kill_own_ray()
assert ownray.find_own_processes() == {}
assert foreign.poll() is None
foreign.kill(); os.kill(reader, 9)
print("done")
"""


def test_processes_of_the_own_ray_are_found_and_ended_and_no_others(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEFT, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "done\n", done.stderr


SETTLED = """
import os, sys, warnings
sys.argv[0] = "-m"
from raykd.cli import surroundings
here = os.getcwd()
sys.path.insert(0, here)
surroundings.prepare_process()
warnings.warn("old", DeprecationWarning)
print(here in sys.path, os.environ.get("PYTHONWARNINGS"), os.environ["HOME"], os.environ.get("USER"))
"""


def test_the_command_line_settles_in_strange_surroundings(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong torch')")
    root = str(Path(__file__).parents[2])
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": root, "PYTHONWARNINGS": "error"}
    homes = {str(tmp_path): str(tmp_path), "/proc/nowhere/home": f"/tmp/raykd-home-{os.geteuid()}"}
    for home, taken in homes.items():
        done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, timeout=60,
                              check=False, cwd=tmp_path, env={**base, "HOME": home})  # fmt: skip
        assert done.stdout.split()[:2] == ["False", "None"], done.stderr
        if os.geteuid() != 0 or home == str(tmp_path):  # root may make any folder
            assert done.stdout.split()[2] == taken


def test_a_file_of_pythonpath_that_is_taken_for_a_library_is_named(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("x = 1")
    root = Path(__file__).parents[2]
    run = (
        root / "examples" / "sentiment_zh_en_fr.yaml"
    )  # a broken one would be told before torch is asked anything
    paths = os.pathsep.join([str(root), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-m", "raykd.cli", "check", str(run)], capture_output=True, text=True, timeout=60,
        check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert str(tmp_path / "torch.py") in done.stderr and "PYTHONPATH" in done.stderr
