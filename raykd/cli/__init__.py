"""Run the command line.

Heavy imports stand inside the commands, so that `--help` answers at once. Signal handlers are set before anything else
is imported, because a signal may come at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from raykd.cli import surroundings
from raykd.cluster import interrupts as interrupt
from raykd.compat.python_private import run_end_of_process
from raykd.environ import use_utf8


def _is_the_program() -> bool:
    """Return whether this process is the command line, not a program that imports it."""
    started = sys.orig_argv[1:]
    pairs = [started[at : at + 2] for at in range(len(started))]
    return (
        os.path.basename(sys.argv[0]) == "raykd" or ["-m", "raykd"] in pairs or ["-m", "raykd.cli"] in pairs
    )


def _say_interrupted() -> None:
    again = sys.argv[1:2] in (["train"], ["sweep"], ["compare"], ["confirm"])
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # progress bars hide the cursor
    next_step = "; --resume goes on from the last checkpoint, if there is one" if again else ""
    print(f"{cursor}interrupted{next_step}", file=sys.stderr, flush=True)
    sys.stdout.flush()


_DISK_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_OWNS_PROCESS = _is_the_program()
"""Decided once: a test that calls `main` must not end with it."""
if _OWNS_PROCESS:
    use_utf8()
    interrupt.listen_for_signals(_say_interrupted)
    surroundings.prepare_process()

import typer  # noqa: E402

from raykd.cli.app import app, errors  # noqa: E402
from raykd.cli.terminal import escape_unencodable, redirect_to_null  # noqa: E402

# Importing a module registers its commands. The order is that of --help.
from raykd.cli import runs  # noqa: E402, F401  # isort: skip
from raykd.cli import models  # noqa: E402, F401  # isort: skip
from raykd.cli import planning  # noqa: E402, F401  # isort: skip
from raykd.cli import sweeps  # noqa: E402, F401  # isort: skip
from raykd.cli import comparisons  # noqa: E402, F401  # isort: skip
from raykd.cli import answers  # noqa: E402, F401  # isort: skip
from raykd.cli import reports  # noqa: E402, F401  # isort: skip
from raykd.cli import teachers  # noqa: E402, F401  # isort: skip
from raykd.cli import records  # noqa: E402, F401  # isort: skip
from raykd.cli import cluster  # noqa: E402, F401  # isort: skip


def main() -> None:
    """Run the command line. An error of raykd ends as one message and an exit code, not as a traceback."""
    try:
        _run()
    except SystemExit as error:
        if _OWNS_PROCESS and isinstance(error.code, int):
            _leave(error.code)
        raise


def _leave(code: int) -> NoReturn:
    """End this process now: taking the modules of Ray and torch apart takes Python two seconds and frees nothing more.

    What is to be done at the end of a process is done first, and what is printed is seen before Ray has ended.
    """
    run_end_of_process()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads
            stream.flush()
    if "raykd.cluster.own_processes" in sys.modules:
        from raykd.cluster.own_processes import leave_own_ray

        leave_own_ray()
    os._exit(code)


def _run() -> None:
    interrupt.allow_unwinding()
    try:
        _main()
    except KeyboardInterrupt:  # a second Ctrl-C while the first was being handled
        interrupt.end_if_told()
        raise SystemExit(interrupt.INTERRUPTED) from None
    finally:
        interrupt.allow_unwinding(False)


def _main() -> None:
    from raykd.errors import RaykdError

    escape_unencodable()
    try:
        code = app(prog_name="raykd", standalone_mode=False)
    except RaykdError as error:
        interrupt.end_if_told()  # an error during an ordered end is no error of the run
        _say(error)
        _say_unrecorded()
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        code = interrupt.INTERRUPTED
    except BrokenPipeError:
        redirect_to_null(sys.stdout)
        code = 0
    except Exception as error:
        interrupt.end_if_told()
        if isinstance(error, OSError) and error.errno in _DISK_REFUSALS:
            _say(_make_disk_error(error))
            raise SystemExit(2) from None
        show = getattr(error, "show", None)
        if show is None and (files := surroundings.find_shadowing_files()):
            _say(_shadowed(files, error))
            raise SystemExit(2) from None
        if show is None:
            _say_fault(error)
            raise SystemExit(1) from None
        show()
        raise SystemExit(getattr(error, "exit_code", 2)) from None
    _say_unrecorded()
    interrupt.end_if_told()
    if code == interrupt.INTERRUPTED:  # typer turns Ctrl-C into this code
        _say_interrupted()
    raise SystemExit(code if isinstance(code, int) else 0)


def _say_unrecorded() -> None:
    """Print what MLflow did not take, and the command that sends it."""
    if "raykd.tracking" not in sys.modules:
        return
    from raykd.tracking import redact, take_unrecorded_lines

    for line in take_unrecorded_lines():
        errors.print(redact(line), markup=False, highlight=False, soft_wrap=True)


def _say(error: Exception) -> None:
    from raykd.redaction import redact

    errors.print(f"[bold red]error[/bold red] ({type(error).__name__})", highlight=False)
    errors.print(redact(str(error)), markup=False, highlight=False, soft_wrap=True)


def _make_disk_error(error: OSError) -> Exception:
    from raykd.errors import ResourceError

    return ResourceError(
        "a file cannot be written",
        got=f"{error.strerror}: {error.filename or 'a file without a name'}",
        wanted="a disk with room that may be written",
        next_step="free space, or name another folder, and start the command again",
    )


def _shadowed(files: Sequence[Path], error: Exception) -> Exception:
    from raykd.errors import ConfigError

    return ConfigError(
        "files in a folder of PYTHONPATH are taken for libraries of the same name",
        got=f"{', '.join(map(str, files))}; {type(error).__name__}: {error}",
        wanted="folders without files that are called like a library",
        next_step="rename them, or take their folder off PYTHONPATH",
    )


def _say_fault(error: Exception) -> None:
    """Print an unforeseen error: the traceback without secrets, and what to do."""
    import traceback

    from raykd.redaction import redact

    trace = redact("".join(traceback.format_exception(error)))
    errors.print(trace, markup=False, highlight=False, soft_wrap=True, end="")
    errors.print("This is a fault of raykd, or of a library under it; please report it with these lines.")


if _is_the_program():
    interrupt.run_before_exit(_say_unrecorded)
