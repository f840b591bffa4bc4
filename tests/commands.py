"""The command line as processes of their own, which end with the test that started them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def started_commands(environment: Mapping[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Gives a function that starts raykd in a folder, with arguments and streams as of `subprocess.Popen`.

    Whatever still runs when the body ends is killed.
    """
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "raykd.cli", *arguments]
        started.append(subprocess.Popen(command, cwd=folder, env=environment, text=True, **streams))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.communicate()
