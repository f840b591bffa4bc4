"""`Finding`: one line of `raykd check`, `raykd plan` and `raykd doctor`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raykd.errors import RaykdError


@dataclass(frozen=True)
class Finding:
    """What was found about one part of a run or a machine.

    Attributes:
        what: The part.
        detail: What it is; "" if there is an error.
        doubt: Whether a person should look at it.
        error: Why it cannot work; None if it can.
        argument: What has to be added to the command that starts the run.
    """

    what: str
    detail: str = ""
    doubt: bool = False
    error: RaykdError | None = None
    argument: str = ""


def find(what: str, look: Callable[[], str]) -> Finding:
    """Return what a look says, or the error that it raises."""
    try:
        return Finding(what, look())
    except RaykdError as error:
        return Finding(what, error=error)
