"""The exception tree: every error says what happened, what was got, what was wanted and the next step.

Errors cross process borders (Ray pickles them), and an exception whose ``__init__`` takes several
arguments loses its type there unless it says how to rebuild itself; `RaykdError.__reduce__` does so once
for the whole tree.

Exit codes are those of the command line: 2 for a configuration, 3 for data or a model, 5 for the
infrastructure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class RaykdError(Exception):
    """Base of all errors that raykd raises on purpose.

    Args:
        what: what went wrong, one sentence, naming the thing (a key path, a file and line, a teacher).
        got: the offending value, already shortened by the caller.
        wanted: what would have been accepted.
        next_step: what the user can do now.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, got: object = None, wanted: str | None = None, next_step: str | None = None
    ) -> None:
        self.what, self.got, self.wanted, self.next_step = what, got, wanted, next_step
        super().__init__(self.render())

    def render(self) -> str:
        """The message, one line for each part that is known."""
        lines = [self.what]
        if self.got is not None:
            lines.append(f"  got:    {self.got}")
        if self.wanted is not None:
            lines.append(f"  wanted: {self.wanted}")
        if self.next_step is not None:
            lines.append(f"  next:   {self.next_step}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.what, self.got, self.wanted, self.next_step))


def _rebuild(
    kind: type[RaykdError], what: str, got: object, wanted: str | None, next_step: str | None
) -> RaykdError:
    return kind(what, got=got, wanted=wanted, next_step=next_step)


@contextmanager
def prefix_errors(subject: str, *kinds: type[RaykdError]) -> Iterator[None]:
    """Put a subject before what the errors of the body say, for example "teacher fr: its labels are missing".

    Args:
        subject: What the body is about.
        kinds: Errors that are about the subject; others pass unchanged.
    """
    try:
        yield
    except kinds as error:
        raise type(error)(
            f"{subject}: {error.what}", got=error.got, wanted=error.wanted, next_step=error.next_step
        ) from None


class ConfigError(RaykdError):
    """A key, a value or a combination in a YAML that cannot work."""

    exit_code = 2


class ResourceError(ConfigError):
    """The cluster cannot hold what the run asks for."""


class DataError(RaykdError):
    """A file, a column or a row that cannot be used; names the file and line where there is one."""

    exit_code = 3


class ModelError(RaykdError):
    """A model directory that cannot be loaded or must not be loaded."""

    exit_code = 3


class LabelMismatchError(ModelError):
    """A teacher's labels are not the run's labels."""


class NonFiniteError(RaykdError):
    """A loss or a teacher's logits are NaN or infinite."""

    exit_code = 3


class TeacherError(RaykdError):
    """A teacher cannot answer."""

    exit_code = 5


class TeacherLostError(TeacherError):
    """A teacher has no process left that answers."""


class TrackingError(RaykdError):
    """The MLflow tracking server or database cannot be used."""

    exit_code = 5
    is_away = False
    """Whether MLflow does not answer now and may later: a run that need not be recorded goes on without it."""


class ClusterError(RaykdError):
    """A cluster that cannot be reached, or that takes no job from us."""

    exit_code = 5


class TrainingError(RaykdError):
    """Ray Train gave up on the run for a reason of the infrastructure."""

    exit_code = 5


class SweepError(RaykdError):
    """A sweep that found nothing, or whose trials failed."""

    exit_code = 4
