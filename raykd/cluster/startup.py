"""How a Ray of a run's own is started: where its files lie, and what of this process' surroundings it must not see.

Decision record: Ray's processes inherit the environment and search the working directory for modules, so that
PYTHONWARNINGS=error ends them and a file torch.py there is taken for torch. Neither is theirs to know. What a user
names (RAY_TMPDIR) is used or refused by name; what nobody named (/tmp/ray of another user) is put elsewhere.

Ray takes seconds to start, nearly all of them in other processes. So it is called on a thread, and whoever needs it
waits for that thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import ray

from raykd.cluster.interrupts import retake_signals
from raykd.cluster.own_processes import claim_own_ray, hold_until_ended
from raykd.compat.ray_private import build_init_options, omit_helpers
from raykd.config import RayConfig
from raykd.errors import ConfigError, ResourceError
from raykd.redaction import redact

PROCESS_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "600",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Ray Train drains one report per interval (2 s unless told otherwise), and waits for ever unless told otherwise."""
SOCKET_BYTES = 107
"""Longest path of a unix socket."""
_SOCKET = f"session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
_HIDDEN = (
    "PYTHONWARNINGS",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "RAY_ADDRESS",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "RAY_RAYLET_PID",
    "RAY_LOG_TO_STDERR",
)
"""Environment variables of this process, or of another Ray's, that mislead the processes of its own one."""


def check_ray_start() -> str:
    """Describe the Ray that the run will start here.

    Raises:
        ConfigError: Its folder cannot be made, or its sockets' names would be too long.
    """
    folder = _folder()
    return f"a Ray of its own on this machine, its files in {folder}"


def _folder() -> Path:
    """Return the folder of Ray's files."""
    named = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    folder = Path(os.environ[named] if named else "/tmp") / "ray"
    reason = _explain_unfit(folder)
    if reason is None:
        return folder
    if named == "RAY_TMPDIR":
        raise ConfigError(
            "RAY_TMPDIR names a folder in which Ray cannot work",
            got=f"RAY_TMPDIR={os.environ['RAY_TMPDIR']}: {reason}",
            wanted=f"a folder of this user's, with a path of at most {SOCKET_BYTES - len(_SOCKET) - 5} bytes",
            next_step="RAY_TMPDIR=/tmp, or another folder that this user may write; unset RAY_TMPDIR takes /tmp",
        )
    other = Path("/tmp") / f"ray-{os.geteuid()}"
    reason = _explain_unfit(other)
    if reason is not None:
        raise ConfigError(
            "there is no folder in which Ray could work",
            got=f"{folder}: {_explain_unfit(folder)}; {other}: {reason}",
            wanted="a folder of this user's with a short path",
            next_step="RAY_TMPDIR=FOLDER",
        )
    return other


def _explain_unfit(folder: Path) -> str | None:
    """Return why Ray cannot work in this folder, which need not be there yet; None if it can."""
    length = len(os.fsencode(folder / _SOCKET))
    if length > SOCKET_BYTES:
        return f"sockets in it would have names of {length} bytes, of {SOCKET_BYTES} that there may be"
    if not folder.is_absolute():
        return "it is not an absolute path"
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    try:
        found = there.stat()
    except OSError as error:
        return f"{there}: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode):
        return f"{there} is no folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} belongs to user {found.st_uid}, and user {os.geteuid()} may not write there"
    link = folder / "session_latest"
    if link.is_symlink() and link.lstat().st_uid not in (os.geteuid(), 0) and _is_sticky(folder):
        return f"{link} belongs to user {link.lstat().st_uid}, and may not be replaced"
    return None


def _is_sticky(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_ISVTX) and folder.stat().st_uid != os.geteuid()


class RayStart:
    """A call of `ray.init` on a thread of its own, so that the main one hears of signals, which Ray takes for itself.

    The thread stays as long as the Ray that it started: the kernel ends its processes together with the thread.

    Args:
        options: Of `ray.init`, beside those that every call has.
        surroundings: Entered around the call.
    """

    def __init__(
        self, options: dict[str, Any], surroundings: AbstractContextManager[object] | None = None
    ) -> None:
        for name, value in PROCESS_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray").setLevel(logging.ERROR)
        self._options = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "namespace": "raykd",
            **options,
        }
        self._surroundings = surroundings or contextlib.nullcontext()
        self._failed: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, name="raykd-ray", daemon=True).start()

    def wait(self, limit_s: float) -> BaseException | None:
        """Wait until Ray is connected.

        Returns:
            What was raised, or that it took too long; None if it is connected.
        """
        until = time.monotonic() + limit_s
        while not self._done.wait(0.02):
            retake_signals()
            if time.monotonic() > until:
                return TimeoutError(f"no answer within {limit_s:g} s")
        retake_signals()
        return self._failed

    def _run(self) -> None:
        try:
            with self._surroundings:
                ray.init(**self._options)
        except BaseException as error:
            self._failed = error
        self._done.set()
        hold_until_ended()


def start_own_ray(config: RayConfig) -> RayStart:
    """Begin to start a Ray of this run's own.

    Raises:
        ConfigError: As `check_ray_start`.
    """
    # Without "local" Ray joins whatever cluster was last started on this machine.
    own = {"address": "local", "num_cpus": config.num_cpus, "include_dashboard": False}
    options = {**own, **build_init_options(_folder())}
    claim_own_ray()
    return RayStart(options, clean_surroundings())


def ray_start_error(error: BaseException) -> ResourceError:
    """Return the error for why Ray did not start here."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ResourceError(
        "Ray cannot be started on this machine",
        got=redact(lines[0][:300]) if lines else type(error).__name__,
        wanted="a Ray of the run's own",
        next_step=f"the files of the newest session in {_folder()}/session_latest/logs say more (gcs_server.err, "
        "raylet.err); a machine that is short of memory, files (ulimit -n) or disk is a frequent cause",
    )


@contextlib.contextmanager
def clean_surroundings() -> Iterator[None]:
    """Start, in the body, a Ray that sees nothing which it must not, and has no process that it does not need."""
    with clean_environment(), omit_helpers():
        yield


@contextlib.contextmanager
def clean_environment() -> Iterator[None]:
    """Hide from Ray's processes what they must not inherit, while the body starts them."""
    kept = {name: os.environ.pop(name) for name in _HIDDEN if name in os.environ}
    lent = {}
    if "RAY_AUTH_TOKEN" not in os.environ and not _can_keep_a_token():
        lent["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # nobody else asks this Ray anything
    os.environ.update(lent)
    try:
        yield
    finally:
        os.environ.update(kept)


def _can_keep_a_token() -> bool:
    """Return whether Ray can read its token, or write one, where it looks for it."""
    if "RAY_AUTH_TOKEN_PATH" in os.environ:
        return True
    try:
        folder = Path.home() / ".ray"
        token = folder / "auth_token"
        if token.exists():
            return os.access(token, os.R_OK)
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return os.access(folder, os.W_OK | os.X_OK)
    except (RuntimeError, OSError):  # no HOME, and no entry of this user
        return False
