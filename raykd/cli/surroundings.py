"""Prepare the process of the command line for libraries that expect an ordinary environment.

Turns warnings as errors off, removes the working directory from the module path, sets a user name and a home if they
are missing, and lets the garbage collector look less often. torch, which takes a second to import, waits until it is
used: a configuration is read and mostly checked without it. Runs before anything heavy is imported. A program that
imports raykd keeps its own environment.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pwd
import stat
import sys
import warnings
from pathlib import Path

from raykd.compat.python_private import import_later

_LIBRARIES = {"datasets", "deepspeed", "mlflow", "numpy", "pandas", "pydantic", "ray", "rich", "safetensors",
              "tokenizers", "torch", "transformers", "typer", "yaml"}  # fmt: skip

GC_THRESHOLDS = (50_000, 20, 100)
"""Python's are 700, 10, 10. Imports make hundreds of thousands of objects and no garbage: with Python's thresholds a
sixth of the CPU time of `raykd check` went into 760 collections, with these there are 24."""


def prepare_process() -> None:
    """Prepare this process; see the module."""
    _allow_warnings()
    _drop_working_directory()
    os.environ.pop(
        "RAY_CLIENT_MODE", None
    )  # Ray reads it on import; a run cannot be driven through Ray Client
    _set_user_name()
    _set_home()
    gc.set_threshold(*GC_THRESHOLDS)
    import_later("torch")


def find_shadowing_files() -> list[Path]:
    """Return files in folders of PYTHONPATH that shadow a library of the same name, a common cause of odd errors."""
    found = []
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        with contextlib.suppress(OSError):
            found += [
                path
                for path in sorted(Path(folder).resolve().glob("*.py"))
                if path.stem in sys.stdlib_module_names or path.stem in _LIBRARIES
            ]
    return found


def _allow_warnings() -> None:
    """Stop warnings of libraries from being raised: PYTHONWARNINGS=error is meant for tests of one's own code."""
    if "error" in os.environ.get("PYTHONWARNINGS", ""):
        del os.environ["PYTHONWARNINGS"]
    for at, (action, *rest) in enumerate(warnings.filters):
        if action == "error":
            warnings.filters[at] = ("default", *rest)  # type: ignore[index]


def _drop_working_directory() -> None:
    """Remove the working directory from the module path. `python -m` puts it first, where a file torch.py would shadow
    torch.
    """
    here = os.path.realpath(os.curdir)
    package = os.path.realpath(Path(__file__).parents[2])
    if sys.argv[0] == "-m" and sys.path and os.path.realpath(sys.path[0] or os.curdir) == here != package:
        del sys.path[0]


def _set_user_name() -> None:
    """Set a name for a user without an entry in passwd. Libraries ask for it and fail."""
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            os.environ["USER"] = f"user{os.geteuid()}"


def _set_home() -> None:
    """Set a home in /tmp, owned by this user, if there is none and none can be made. Libraries put caches there."""
    home = os.environ.get("HOME")
    if home is None:
        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(os.geteuid()).pw_dir
    if home is not None and os.path.isabs(home) and _is_usable(Path(home)):
        return
    other = Path(f"/tmp/raykd-home-{os.geteuid()}")
    with contextlib.suppress(OSError):
        other.mkdir(mode=0o700, exist_ok=True)
        found = other.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            os.environ["HOME"] = str(other)


def _is_usable(home: Path) -> bool:
    """Return whether a home is a readable folder, or can be made."""
    if os.path.lexists(home):
        return home.is_dir() and os.access(home, os.R_OK | os.X_OK)
    above = home.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    return os.access(above, os.W_OK | os.X_OK)
