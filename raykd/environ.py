"""Environment variables that are set for a while, and the proxies that they name."""

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
    """Sets these variables while the body runs and puts back what was there; not safe against other threads."""
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
    """Ask a server of this machine directly from now on, whatever HTTP_PROXY says; others are asked as before.

    Clients read NO_PROXY, or no_proxy where both are there, at each request.
    """
    host = urlsplit(url if "://" in url else f"//{url}").hostname
    if not host or not is_this_machine(host) or find_proxy(url) is None:
        return
    said = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, [said, host]))


def find_proxy(url: str) -> str | None:
    """Return the variable and address of the proxy that a request to this URL goes through; None for none."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    proxies = getproxies_environment()
    scheme = parts.scheme if parts.scheme in proxies else "all"
    if scheme not in proxies or not parts.hostname or proxy_bypass_environment(parts.hostname, proxies):
        return None
    return f"{scheme.upper()}_PROXY={proxies[scheme]}"


UTF8_RESTART = "RAYKD_UTF8"
"""Set for a Python that was started again in UTF-8 mode, so that it is not done twice."""


def use_utf8() -> None:
    """Starts Python again in its UTF-8 mode where file names are not UTF-8; returns where they are.

    Names of files are UTF-8 in run files, whatever the locale says. The terminal keeps its encoding.
    """
    if sys.getfilesystemencoding().lower().replace("-", "") == "utf8" or UTF8_RESTART in os.environ:
        return
    said = getattr(sys.stdout, "encoding", None) or "ascii"
    environment = {**os.environ, "PYTHONUTF8": "1", UTF8_RESTART: "1"}
    environment.setdefault("PYTHONIOENCODING", said)
    with contextlib.suppress(OSError):
        os.execve(sys.executable, sys.orig_argv, environment)
