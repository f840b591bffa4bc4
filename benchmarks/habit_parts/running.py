"""How a command of a case is run: apart, with a time limit, and so that nothing of it is left.

Decision record: most commands are answered by a fork of this process, in which torch, transformers and raykd are
imported already. A new interpreter takes four seconds for that, the command itself a few tenths. Commands that start
Ray, set the interpreter's environment or change what can be imported take a new interpreter. No thread may run in this
process when it forks, so torch has one thread and cases that run side by side are processes of their own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.habit_parts.table import Step

ROOT = Path(__file__).resolve().parents[2]
QUIET = {
    "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RAY_AUTH_MODE": "disabled",
}  # fmt: skip
FOREIGN = (
    "RAY_ADDRESS",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_RUN_ID",
)
"""Variables of whoever runs the benchmark that would change what a case does."""
GRACE_S = 20.0
"""Seconds between the request to end and the end."""
LOADED = (
    "raykd.cli", "raykd.preflight.check", "raykd.scoring.model", "raykd.prediction.predictor", "raykd.models.loading",
    "raykd.networks.recurrent", "transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert",
    "mlflow", "datasets",
)  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """What became of a command.

    Attributes:
        code: Its exit code; None where it was ended after its time limit.
        output: Standard output, then standard error.
        started: Whether it started a Ray of its own.
    """

    code: int | None
    stdout: str
    stderr: str
    seconds: float
    started: bool

    @property
    def output(self) -> str:
        """All that was printed."""
        return f"{self.stdout}\n{self.stderr}"


def load_libraries() -> None:
    """Import once what every fork needs."""
    os.environ.update(QUIET)
    import torch

    torch.set_num_threads(1)
    for name in LOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


@contextlib.contextmanager
def copied(case: Path) -> Iterator[Path]:
    """A copy of a case in a folder of its own, which is removed after it.

    Its path is short, because Ray's sockets below it may have paths of 107 bytes at most.
    """
    home = Path(tempfile.mkdtemp(prefix="hab"))
    try:
        copy = home / "c"
        shutil.copytree(case, copy)
        yield copy
    finally:
        end_leftovers(home)
        shutil.rmtree(home, ignore_errors=True)


def run_step(step: Step, folder: Path, overrides: Sequence[str] = (), *, fresh: bool = False) -> Ran:
    """Run one command in a folder.

    Args:
        overrides: Added to the arguments of a raykd command.
        fresh: Whether every command takes a new interpreter.
    """
    home = folder.parent
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(home / "r")}
    for name in FOREIGN:
        environment.pop(name, None)
    environment["PATH"] = f"{_commands(home)}{os.pathsep}{os.environ.get('PATH', '')}"
    for name, value in step.env.items():
        environment.pop(name, None) if value is None else environment.update({name: value})
    words = ["bash", "-c", step.run] if step.shell else [*shlex.split(step.run), *overrides]
    (home / "r").mkdir(exist_ok=True)
    before = _sessions(home)
    begun = time.monotonic()
    forked = step.command and not (fresh or step.fresh or step.env or step.starts_processes)
    body = _in_this_interpreter(words[1:]) if forked else _in_a_new_one(words)
    code = _wait(_spawn(body, folder, environment), step.timeout)
    out, err = ((home / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    started = bool(_sessions(home) - before)
    return Ran(code, out, err, time.monotonic() - begun, started)


def _sessions(home: Path) -> set[Path]:
    """Folders of the Rays that commands started; Ray puts them below RAY_TMPDIR."""
    return set((home / "r").glob("**/session_*_*"))


def _commands(home: Path) -> Path:
    """A folder in which `raykd` and `python` are this installation's."""
    folder = home / "bin"
    if not folder.exists():
        folder.mkdir()
        for name, arguments in (("raykd", "-m raykd.cli"), ("python", "")):
            path = folder / name
            path.write_text(
                f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n', encoding="utf-8"
            )
            path.chmod(0o755)
    return folder


def _in_this_interpreter(arguments: Sequence[str]) -> Callable[[Mapping[str, str]], int]:
    """raykd's command line in the fork."""

    def body(environment: Mapping[str, str]) -> int:
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["raykd", *arguments]
        from raykd.cli import main

        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    return body


def _in_a_new_one(words: Sequence[str]) -> Callable[[Mapping[str, str]], int]:
    """A program in place of the fork."""

    def body(environment: Mapping[str, str]) -> int:
        path = shutil.which(words[0], path=environment["PATH"]) or words[0]
        os.execve(path, list(words), dict(environment))

    return body


def _spawn(body: Callable[[Mapping[str, str]], int], folder: Path, environment: Mapping[str, str]) -> int:
    """Start a process in a session of its own and return its id; its output goes to files beside the folder."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDONLY)
        out, err = (os.open(folder.parent / n, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for n in ("out", "err"))
        for target, source in enumerate((nothing, out, err)):
            os.dup2(source, target)
        # Whoever runs this may have put something else in their place.
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(at, mode, encoding="utf-8") for at, mode in enumerate("rww")
        )
        code = body(environment)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as error:
        os.write(2, f"the command could not be run: {error!r}\n".encode())
    finally:
        os._exit(code)


def _wait(pid: int, timeout: float) -> int | None:
    """The exit code of a process; None where it had to be ended, with all of its group."""
    deadline = time.monotonic() + timeout
    asked = False
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return None if asked else os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL if asked else signal.SIGTERM)
            asked, deadline = True, time.monotonic() + GRACE_S
        time.sleep(0.02)


def ask_fork(question: Callable[[], str | None]) -> str | None:
    """Return what a function says when a fork calls it: models that it loads leave no threads here."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = question() or ""
        except BaseException as error:
            said = f"could not be compared: {type(error).__name__}: {error}"
        os.write(write, said.encode()[:60_000])
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8", errors="replace") as answer:
        said = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return said or (f"could not be compared: exit code {code}" if code else None)


def end_leftovers(home: Path) -> None:
    """End processes whose command line or environment names the folder of a case: its Ray, if it outlived it."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            named = any(
                str(home).encode() + b"/" in (entry / part).read_bytes() for part in ("cmdline", "environ")
            )
        except OSError:
            continue
        if named:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(entry.name), signal.SIGKILL)
