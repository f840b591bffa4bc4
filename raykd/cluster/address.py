"""Whether the Ray that a run asks for can be there: its address is read, its port is knocked at, its versions compared.

Decision record: Ray itself tries an address where nobody listens for 14 minutes, and one that it cannot read ends in a
trace. All that is asked here takes seconds at most and starts nothing, so that `raykd check` says it too.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from raykd.cluster.own_processes import started_here
from raykd.cluster.startup import check_ray_start
from raykd.compat.ray_private import find_local_cluster, read_cluster_metadata
from raykd.config import RayConfig
from raykd.errors import ConfigError, RaykdError, ResourceError
from raykd.redaction import redact

KNOCK_S, ASK_S = 5.0, 8.0
"""Longest waits: for an answer at a port, for what a cluster says of itself."""
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""How a client of HTTP/2, which gRPC is, begins: a greeting and empty settings."""
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^:/\[\]\s]+):(?P<port>\d{1,5})")


def check_ray(config: RayConfig) -> str:
    """Describe which Ray the run will use, as far as can be known before it connects.

    Raises:
        ConfigError: As `ray_address`, or a Ray of its own cannot be started.
        ResourceError: As `ray_address`.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized() and not started_here():
        return "the Ray that this process is connected to"
    address = ray_address(config)
    if address is None:
        return check_ray_start()
    return f"a cluster answers at {address}"


def ray_address(config: RayConfig) -> str | None:
    """Return host and port of the cluster that is asked for; None where the run starts a Ray of its own.

    Raises:
        ConfigError: It is no address of a cluster.
        ResourceError: There is no cluster, or one of other versions.
    """
    given, where = configured_address(config)
    if given is None or given == "local":
        return None
    if given == "auto":
        given, where = _find_cluster_here(), "the cluster that was last started here"
    host, port = _parse_host_port(given, where)
    _check_port(given, host, port, where)
    _check_versions(f"{host}:{port}", given, where)
    return given


def configured_address(config: RayConfig) -> tuple[str | None, str]:
    """Return the address as it is written, and where: `ray.address` or RAY_ADDRESS."""
    environment = os.environ.get("RAY_ADDRESS", "").strip() or None
    if config.address is None or (config.address == "auto" and environment):
        return environment, "RAY_ADDRESS"
    return config.address.strip(), "ray.address"


def _parse_host_port(given: str, where: str) -> tuple[str, int]:
    """Return host and port of an address.

    Raises:
        ConfigError: It is something else.
    """
    got = f"{where}: {redact(given)}"
    wanted = "host:port of the cluster's head (6379 is Ray's own choice), auto, or local"
    scheme = given.partition("://")[0].lower() if "://" in given else ""
    own = f"{_how_to_ask_for_none(where)} starts a Ray on this machine"
    if scheme in ("http", "https"):
        raise ConfigError(
            f"{where} is the address of a dashboard, which takes jobs and no runs",
            got=got,
            wanted=wanted,
            next_step=f"raykd submit RUN.yaml --address {redact(given)} runs it there; or {where}=HOST:6379; or {own}",
        )
    if scheme == "ray":
        raise ConfigError(
            f"{where} is one of Ray's client server, through which no run can be driven",
            got=got,
            wanted=wanted,
            next_step=f"raykd submit sends the run to the cluster; on one of its machines {where}=HOST:6379; or {own}",
        )
    found = _HOST_PORT.fullmatch(given)
    if found is None or not 0 < int(found["port"]) < 65536:
        likely = given if re.fullmatch(r"[\w.-]+", given) and not given.isdigit() else "HOST"
        raise ConfigError(
            f"{where} is no address of a Ray cluster",
            got=got,
            wanted=wanted,
            next_step=f"{where}={likely}:6379 if a head runs there (`ray start --head` starts one); or {own}",
        )
    return found["host"].strip("[]"), int(found["port"])


def _find_cluster_here() -> str:
    try:
        found = find_local_cluster()
    except (ValueError, OSError) as error:
        found, why = None, _first_line(error)
    else:
        why = "none was found"
    if found is None:
        raise ResourceError(
            "there is no Ray cluster on this machine",
            got=f"ray.address: auto; {why}",
            wanted="a cluster that was started with `ray start`",
            next_step="`ray start --head` starts one; ray.address=local starts a Ray for this run alone",
        )
    return found


def _check_port(given: str, host: str, port: int, where: str) -> None:
    """Check that a server of gRPC answers there.

    Raises:
        ConfigError: None does.
    """
    resolved = _run_within(KNOCK_S, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    if not isinstance(resolved, list):
        raise _no_cluster_error(
            given, where, f"the name {host} cannot be resolved ({_first_line(resolved, KNOCK_S)})"
        )
    failed: object = None
    until = time.monotonic() + KNOCK_S
    for family, kind, protocol, _, place in resolved:
        left = until - time.monotonic()
        if left <= 0:
            break
        try:
            with socket.socket(family, kind, protocol) as line:
                line.settimeout(left)
                line.connect(place)
                _check_protocol(line, given, where)
                return
        except (OSError, TimeoutError) as error:
            failed = error
    quiet = failed is None or isinstance(failed, TimeoutError)
    reason = (
        f"no answer in {KNOCK_S:g} s (a firewall, or another network)"
        if quiet
        else f"nobody listens there ({_first_line(failed)})"
    )
    raise _no_cluster_error(given, where, reason)


def _check_protocol(line: socket.socket, given: str, where: str) -> None:
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # it speaks through TLS, which Ray checks itself
    line.settimeout(KNOCK_S)
    line.sendall(_HTTP2)
    answer = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while len(answer) < 9 and (more := line.recv(64)):
            answer += more
    if answer[3:4] == b"\x04" and not answer.startswith(b"HTTP/"):
        return
    what = "an HTTP server" if answer.startswith((b"HTTP/", b"<")) else "another service"
    raise _no_cluster_error(given, where, f"{what} listens there, and no head of a Ray cluster")


def _how_to_ask_for_none(where: str) -> str:
    """Return what to do so that no cluster is asked for."""
    return "unset RAY_ADDRESS" if where == "RAY_ADDRESS" else "ray.address=null"


def _no_cluster_error(given: str, where: str, reason: str) -> ConfigError:
    return ConfigError(
        f"there is no Ray cluster at {redact(given)}",
        got=f"{where}: {redact(given)}; {reason}",
        wanted="the address of a cluster that runs",
        next_step="`ray status` on its head shows whether it runs; `ray start --head` starts one here; or "
        f"{_how_to_ask_for_none(where)}, which starts a Ray for this run alone",
    )


def _check_versions(address: str, given: str, where: str) -> None:
    """Check that the cluster's Ray and Python are those of this process.

    Raises:
        ResourceError: They are not, or the cluster does not say.
    """
    with _silence_stderr():
        said = _run_within(ASK_S, lambda: _read_versions(address))
    if not isinstance(said, dict):
        raise cannot_connect(given, where, said)
    own = {"ray_version": _ray_version(), "python_version": platform.python_version()}
    others = [
        f"{key.partition('_')[0].capitalize()} {said[key]}, here {value}"
        for key, value in own.items()
        if said.get(key, value) != value
    ]
    if others:
        raise ResourceError(
            f"the Ray cluster at {redact(given)} has other versions",
            got="; ".join(others),
            wanted="the same Ray and the same Python on all machines",
            next_step="install the cluster's versions here, or raykd submit RUN.yaml, which runs it with the cluster's",
        )


def _read_versions(address: str) -> dict[str, Any]:
    kept = read_cluster_metadata(address, ASK_S)
    said = json.loads(kept) if kept else {}
    return said if isinstance(said, dict) else {}


@contextlib.contextmanager
def _silence_stderr() -> Iterator[None]:
    """Hide Ray's own lines, which its C++ part writes past Python; the error that is raised says what they say."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _ray_version() -> str:
    from importlib.metadata import version

    return version("ray")


def cannot_connect(given: str | None, where: str, error: object) -> RaykdError:
    """Return the error for what Ray said when it could not connect."""
    if isinstance(error, RaykdError):
        return error
    said = _first_line(error)
    token = "token" in said.lower() or "auth" in said.lower()
    return ResourceError(
        f"cannot connect to the Ray cluster {redact(str(given))}",
        got=f"{where}: {redact(str(given))}; {said}",
        wanted="a running cluster with the same Ray version" + (", and its token" if token else ""),
        next_step="the cluster's token: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN_PATH=FILE or ~/.ray/auth_token"
        if token
        else "`ray start --head` starts one here; else check the address and, if the cluster asks for a "
        "token, RAY_AUTH_MODE=token",
    )


def _first_line(error: object, waited_s: float = ASK_S) -> str:
    """Return the first line of an error, as `_run_within` returns it; None is an answer that never came."""
    if error is None:
        return f"no answer in {waited_s:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return redact(lines[0][:300]) if lines else type(error).__name__


def _run_within(seconds: float, body: Callable[[], Any]) -> Any:
    """Return what the body returns, or the exception it raised; None if it took too long."""
    result: list[Any] = [None]

    def run() -> None:
        try:
            result[0] = body()
        except Exception as error:
            result[0] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=seconds)
    return result[0]
