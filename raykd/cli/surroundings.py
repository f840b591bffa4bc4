"""What of its surroundings the command line does not take over: warnings as errors, modules of the working directory,
a home that is not there. Done before anything heavy is imported; another program that imports raykd keeps its own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import sys
import warnings
from pathlib import Path

_LIBRARIES = {"datasets", "deepspeed", "mlflow", "numpy", "pandas", "pydantic", "ray", "rich", "safetensors",
              "tokenizers", "torch", "transformers", "typer", "yaml"}  # fmt: skip


def prepare_process() -> None:
    """Makes this process fit for libraries that expect an ordinary one."""
    _warnings_are_no_errors()
    _search_no_working_directory()
    os.environ.pop("RAY_CLIENT_MODE", None)  # which Ray reads when it is imported; no run can be driven so
    _have_a_name()
    _have_a_home()


def find_shadowing_files() -> list[Path]:
    """Files in folders of PYTHONPATH that Python takes for a library of that name: a common cause of odd faults."""
    found = []
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        with contextlib.suppress(OSError):
            found += [
                path
                for path in sorted(Path(folder).resolve().glob("*.py"))
                if path.stem in sys.stdlib_module_names or path.stem in _LIBRARIES
            ]
    return found


def _warnings_are_no_errors() -> None:
    """Libraries warn of much; PYTHONWARNINGS=error is for the tests of one's own code."""
    if "error" in os.environ.get("PYTHONWARNINGS", ""):
        del os.environ["PYTHONWARNINGS"]
    for at, (action, *rest) in enumerate(warnings.filters):
        if action == "error":
            warnings.filters[at] = ("default", *rest)  # type: ignore[index]


def _search_no_working_directory() -> None:
    """`python -m` searches it first, so that a file torch.py there would be taken for torch."""
    here = os.path.realpath(os.curdir)
    package = os.path.realpath(Path(__file__).parents[2])
    if sys.argv[0] == "-m" and sys.path and os.path.realpath(sys.path[0] or os.curdir) == here != package:
        del sys.path[0]


def _have_a_name() -> None:
    """A user without an entry in passwd: libraries ask for the name and end in a trace."""
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            os.environ["USER"] = f"user{os.geteuid()}"


def _have_a_home() -> None:
    """A home that is not there and cannot be made: caches go to a folder of this user's in /tmp."""
    home = os.environ.get("HOME")
    if home is None:
        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(os.geteuid()).pw_dir
    if home is not None and os.path.isabs(home) and _can_be(Path(home)):
        return
    other = Path(f"/tmp/raykd-home-{os.geteuid()}")
    with contextlib.suppress(OSError):
        other.mkdir(mode=0o700, exist_ok=True)
        found = other.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            os.environ["HOME"] = str(other)


def _can_be(home: Path) -> bool:
    """Whether it is a folder, perhaps one that may only be read, or can be made."""
    if os.path.lexists(home):
        return home.is_dir() and os.access(home, os.R_OK | os.X_OK)
    above = home.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    return os.access(above, os.W_OK | os.X_OK)
