"""Set environment variables for a while, and find the proxies that they name."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]


@contextlib.contextmanager
def set_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables while the body runs, then restore the earlier values. Not thread-safe."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_this_machine(host: str) -> bool:
    """Return whether a host's name or address can only mean this machine."""
    name = host.strip("[]").lower()
    if name in ("localhost", socket.gethostname().lower(), socket.gethostname().split(".")[0].lower()):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def bypass_proxy(url: str) -> None:
    """Exempt a server on this machine from HTTP_PROXY from now on. Other servers are not affected.

    Clients read NO_PROXY at each request, or no_proxy if both are set.
    """
    host = urlsplit(url if "://" in url else f"//{url}").hostname
    if not host or not is_this_machine(host) or find_proxy(url) is None:
        return
    exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, [exempt, host]))


def find_proxy(url: str) -> str | None:
    """Return the proxy of a request to this URL as VARIABLE=address; None without a proxy."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    proxies = getproxies_environment()
    scheme = parts.scheme if parts.scheme in proxies else "all"
    if scheme not in proxies or not parts.hostname or proxy_bypass_environment(parts.hostname, proxies):
        return None
    return f"{scheme.upper()}_PROXY={proxies[scheme]}"


UTF8_RESTART = "RAYKD_UTF8"
"""Set in a Python that was restarted in UTF-8 mode, so that it is not restarted again."""


def use_utf8() -> None:
    """Restart Python in UTF-8 mode if the locale's file names are not UTF-8.

    File names in run files are UTF-8, whatever the locale says. The terminal keeps its encoding.
    """
    if sys.getfilesystemencoding().lower().replace("-", "") == "utf8" or UTF8_RESTART in os.environ:
        return
    terminal = getattr(sys.stdout, "encoding", None) or "ascii"
    environment = {**os.environ, "PYTHONUTF8": "1", UTF8_RESTART: "1"}
    environment.setdefault("PYTHONIOENCODING", terminal)
    with contextlib.suppress(OSError):
        os.execve(sys.executable, sys.orig_argv, environment)
