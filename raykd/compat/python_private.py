"""Private names of Python 3.11."""

from __future__ import annotations

import atexit
import threading


def run_end_of_process() -> None:
    """Do what Python does at the end of a process before it takes modules apart.

    Threads of pools are told to end and waited for, then what was registered with `atexit` is called.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
