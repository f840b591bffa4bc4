"""Define the errors. Every message says what happened, what was got, what was wanted, and the next step.

Errors cross process borders, where Ray pickles them. An exception whose ``__init__`` takes several arguments loses its
type there unless it says how to rebuild itself. `RaykdError.__reduce__` does so for the whole tree.

Exit codes are those of the command line: 2 for a configuration, 3 for data or a model, 4 for failed trials, 5 for the
infrastructure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial


class RaykdError(Exception):
    """Base of all errors that raykd raises on purpose.

    Args:
        what: What went wrong, one sentence that names the thing (a key path, a file and line, a teacher).
        got: The offending value, shortened by the caller.
        wanted: What is accepted.
        next_step: What the user can do now.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, got: object = None, wanted: str | None = None, next_step: str | None = None
    ) -> None:
        self.what, self.got, self.wanted, self.next_step = what, got, wanted, next_step
        super().__init__(self.render())

    def render(self) -> str:
        """Return the message, one line per known part."""
        parts = {"got:": self.got, "wanted:": self.wanted, "next:": self.next_step}
        lines = [f"  {name:<7} {show_value(value)}" for name, value in parts.items() if value is not None]
        return "\n".join([self.what, *lines])

    def __reduce__(self) -> tuple[partial[RaykdError], tuple[str]]:
        rebuild = partial(type(self), got=self.got, wanted=self.wanted, next_step=self.next_step)
        return rebuild, (self.what,)


def show_value(value: object) -> str:
    """Return a value as a message shows it: truth values as YAML has them, not as Python does."""
    return str(value).lower() if isinstance(value, bool) else str(value)


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
    """A key, a value or a combination in a configuration that cannot work."""

    exit_code = 2


class ResourceError(ConfigError):
    """The cluster cannot hold what the run asks for."""


class DataError(RaykdError):
    """A file, a column or a row that cannot be used. Names the file and line if there is one."""

    exit_code = 3


class ModelError(RaykdError):
    """A model that cannot be loaded, or must not be loaded because it could run code."""

    exit_code = 3


class LabelMismatchError(ModelError):
    """A teacher has other labels than the run."""


class NonFiniteError(RaykdError):
    """A loss or a teacher's logits are NaN or infinite."""

    exit_code = 3


class TeacherError(RaykdError):
    """A teacher cannot answer."""

    exit_code = 5


class TeacherLostError(TeacherError):
    """A teacher has no replica left."""


class TrackingError(RaykdError):
    """The MLflow tracking server or database cannot be used."""

    exit_code = 5
    is_away = False
    """Whether MLflow does not answer now but may later, so that a run without `tracking.required` goes on."""


class ClusterError(RaykdError):
    """A cluster that cannot be reached, or that refuses a job."""

    exit_code = 5


class TrainingError(RaykdError):
    """Ray gave up on the workers of a run."""

    exit_code = 5


class SweepError(RaykdError):
    """A sweep that found nothing, or whose trials failed."""

    exit_code = 4
