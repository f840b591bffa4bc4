"""The command line. Heavy imports come late, inside the commands: `--help` answers at once."""

from __future__ import annotations

import logging
import os
import sys

import typer

from raykd.cli.app import app, errors

# Each registers its commands, in the order in which --help shows them.
from raykd.cli import runs  # noqa: F401  # isort: skip
from raykd.cli import planning  # noqa: F401  # isort: skip
from raykd.cli import sweeps  # noqa: F401  # isort: skip
from raykd.cli import answers  # noqa: F401  # isort: skip
from raykd.cli import teachers  # noqa: F401  # isort: skip
from raykd.cli import records  # noqa: F401  # isort: skip
from raykd.cli import cluster  # noqa: F401  # isort: skip

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as of a shell."""


def main() -> None:
    """Runs the command line; an error of raykd is one message and an exit code, never a traceback."""
    from raykd.errors import RaykdError

    try:
        code = app(prog_name="raykd", standalone_mode=False)
    except RaykdError as error:
        _say(error)
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            _say_fault(error)
            raise SystemExit(1) from None
        show()
        raise SystemExit(getattr(error, "exit_code", 2)) from None
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code
        again = sys.argv[1:2] in (["train"], ["sweep"], ["confirm"])
        going_on = "; --resume goes on from the last checkpoint" if again else ""
        errors.print(f"interrupted{going_on}", highlight=False)
        _leave_ray()
    raise SystemExit(code if isinstance(code, int) else 0)


def _leave_ray() -> None:
    """Ends this process at once if it is connected to Ray: all that was to be put in order is, by now.

    Ray's own way out takes 3 s (measured), and who sent SIGTERM may send SIGKILL by then. What belonged to this process
    ends with it: a cluster sees it go; a Ray of its own is ended here, since two of its processes would outlive it.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        node = ray._private.worker._global_node
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Ray's last lines are of what it misses now
        if node is not None:  # of a cluster that it joined this process has started nothing
            node.kill_all_processes(check_alive=False, allow_graceful=True)
        os._exit(INTERRUPTED)


def _say(error: Exception) -> None:
    from raykd.tracking import redact

    errors.print(f"[bold red]error[/bold red] ({type(error).__name__})", highlight=False)
    errors.print(redact(str(error)), markup=False, highlight=False, soft_wrap=True)


def _say_fault(error: Exception) -> None:
    """An error that nobody foresaw: the trace, which may hold what must not be printed, and what to do."""
    import traceback

    from raykd.tracking import redact

    trace = redact("".join(traceback.format_exception(error)))
    errors.print(trace, markup=False, highlight=False, soft_wrap=True, end="")
    errors.print("This is a fault of raykd, or of a library under it; please report it with these lines.")
