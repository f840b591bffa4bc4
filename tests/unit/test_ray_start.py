"""When a Ray of a run's own is begun, who waits for it and what it is made of; `ray.init` is a fake."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray._private import utils
from ray._private.node import Node

from raykd.cluster import address, connection, interrupts, startup
from raykd.compat.ray_private import omit_helpers
from raykd.config import RayConfig
from raykd.errors import ConfigError, ResourceError


class FakeRay:
    """Stands for the calls of Ray that starting one needs.

    Attributes:
        begun: The options of each call of `init`.
        may_start: Set when `init` may go on.
        fails: What `init` raises.
        connected: Whether this process is.
    """

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.may_start = threading.Event()
        self.fails: Exception | None = None
        self.connected = False

    def init(self, **options: Any) -> None:
        self.begun.append(options)
        self.may_start.wait(10.0)
        if self.fails is not None:
            raise self.fails
        self.connected = True

    def is_initialized(self) -> bool:
        return self.connected


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", fake.init)
    monkeypatch.setattr("ray.is_initialized", fake.is_initialized)
    monkeypatch.setattr(startup, "claim_own_ray", lambda: None)
    monkeypatch.setattr(startup, "hold_until_ended", lambda: None)
    monkeypatch.setattr(connection, "kill_own_ray", lambda: None)
    monkeypatch.setattr(connection, "_ahead", None)
    return fake


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "owns_process", lambda: True)


def call_in_thread(body: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=body)
    thread.start()
    return thread


@pytest.mark.usefixtures("owner")
def test_a_ray_that_was_begun_ahead_is_the_one_that_is_waited_for(ray: FakeRay) -> None:
    connection.start_ray_ahead(RayConfig(num_cpus=3))
    connection.start_ray_ahead(RayConfig(num_cpus=3))
    waiting = call_in_thread(lambda: connection.connect_ray(RayConfig(num_cpus=3)))
    waiting.join(0.2)
    assert waiting.is_alive()
    ray.may_start.set()
    waiting.join(5.0)
    assert not waiting.is_alive()
    (options,) = ray.begun
    assert (options["address"], options["num_cpus"], options["include_dashboard"]) == ("local", 3, False)
    connection.connect_ray(RayConfig(num_cpus=3))  # connected: nothing more is begun
    assert len(ray.begun) == 1


@pytest.mark.usefixtures("owner")
def test_why_it_did_not_start_is_told_when_it_is_waited_for(ray: FakeRay) -> None:
    ray.fails = RuntimeError("no memory")
    ray.may_start.set()
    connection.start_ray_ahead(RayConfig())
    with pytest.raises(ResourceError, match="Ray cannot be started") as raised:
        connection.connect_ray(RayConfig())
    assert "no memory" in str(raised.value)


@pytest.mark.usefixtures("ray")
def test_a_program_that_goes_on_begins_no_ray_before_it_is_needed() -> None:
    assert not interrupts.owns_process()
    connection.start_ray_ahead(RayConfig())
    assert connection._ahead is None


@pytest.mark.usefixtures("owner", "ray")
@pytest.mark.parametrize("given", ["10.0.0.1:6379", "auto"])
def test_a_cluster_that_is_asked_for_is_not_touched_ahead(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.start_ray_ahead(RayConfig(address=given))
    monkeypatch.setenv("RAY_ADDRESS", given)
    connection.start_ray_ahead(RayConfig())
    assert connection._ahead is None


@pytest.mark.usefixtures("owner")
def test_inside_a_ray_that_is_there_none_is_begun(ray: FakeRay) -> None:
    ray.connected = True
    connection.start_ray_ahead(RayConfig())
    assert connection._ahead is None


@pytest.mark.usefixtures("owner", "ray")
def test_a_folder_in_which_ray_cannot_work_is_left_to_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * startup.SOCKET_BYTES)))
    connection.start_ray_ahead(RayConfig())
    assert connection._ahead is None
    with pytest.raises(ConfigError, match="RAY_TMPDIR"):
        address.check_ray(RayConfig())


def test_a_check_does_not_take_the_ray_that_was_begun_for_a_cluster(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.connected = True
    assert "connected to" in address.check_ray(RayConfig())
    assert connection.cluster_address(RayConfig(), "a pool") is None
    for module in (address, connection):
        monkeypatch.setattr(module, "started_here", lambda: True)
    assert "a Ray of its own" in address.check_ray(RayConfig())
    with pytest.raises(ConfigError, match="needs a Ray cluster that outlives this command"):
        connection.cluster_address(RayConfig(), "a pool")


def test_what_is_left_out_of_a_ray_is_back_afterwards() -> None:
    before = (Node.start_api_server, Node.start_monitor, Node.start_log_monitor)
    asked = utils.get_dashboard_dependency_error
    with pytest.raises(ZeroDivisionError), omit_helpers():
        node = Node.__new__(Node)
        node.start_api_server(include_dashboard=False, raise_on_failure=False)
        node.start_monitor()
        node.start_log_monitor()
        assert node.webui_url == "" and isinstance(utils.get_dashboard_dependency_error(), ImportError)
        raise ZeroDivisionError
    assert (Node.start_api_server, Node.start_monitor, Node.start_log_monitor) == before
    assert utils.get_dashboard_dependency_error is asked


FORGETTING = """
import ray
ray._private.worker.disconnect = lambda exiting: print("shut down")
if {forget}:
    from raykd.compat.ray_private import forget_shutdown_at_exit
    forget_shutdown_at_exit()
"""


@pytest.mark.parametrize("forget", [False, True])
def test_ray_is_not_shut_down_at_the_end_once_that_is_forgotten(forget: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORGETTING.format(forget=forget)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.count("shut down") == (not forget), done


STARTING = """
from raykd.cluster.connection import connect_ray
from raykd.config import RayConfig

if __name__ == "__main__":
    connect_ray(RayConfig(num_cpus=1))
    import ray
    print("connected", ray.get(ray.remote(lambda: 7).remote()))
"""


@pytest.mark.nightly
def test_ray_starts_where_its_dashboards_packages_are_missing(tmp_path: Path) -> None:
    # As on a machine that Ray alone was copied to: the node's agent must not look for them.
    for name in ("opencensus", "aiohttp_cors"):
        (tmp_path / name).mkdir()
        text = f'raise ModuleNotFoundError("No module named {name!r}", name={name!r})'
        (tmp_path / name / "__init__.py").write_text(text, encoding="utf-8")
    script = tmp_path / "start.py"
    script.write_text(STARTING, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path}, check=False,
    )  # fmt: skip
    assert "connected 7" in done.stdout, done.stderr[-2000:]
