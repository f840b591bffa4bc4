"""`TeacherBackend`: computes the answers of one teacher, behind one interface for every kind of teacher.

Decision record: the members of `raykd.config.TeacherConfig` are plain config in a lower room; here each kind has the
class that serves it. Store, batching, replicas, routing, retries, counters and reports are above, the same for every
kind. A new kind is a member there and a file in `backends/`, named in `BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from raykd.answers.vocabularies import TeacherVocabulary
from raykd.prediction.selftest import PaddingFinding
from raykd.teachers.backends.model import ModelBackend
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.teachers.timing import Timing
from raykd.text.batch import TextBatch


class TeacherBackend(Protocol):
    """Computes the answers of one teacher.

    Attributes:
        finding: What a self-test found of how rows share a forward pass; None before it, and for a kind that has none.
    """

    finding: PaddingFinding | None

    def describe(self) -> TeacherInfo:
        """Return fingerprint, labels, precision and the key of its answers; loads no weights.

        Raises:
            ModelError: It cannot be used.
            LabelMismatchError: Its labels are not the run's.
        """

    @property
    def loaded(self) -> bool:
        """Whether it is ready to compute."""

    def load(self) -> object:
        """Make it ready to compute; else the first `compute` does."""

    def compute(self, batch: TextBatch) -> list[bytes]:
        """Answer every row, encoded (`raykd.answers.codec`), in order.

        Raises:
            NonFiniteError: An answer holds NaN or infinity.
        """

    def halve(self) -> None:
        """Compute half as much at once from now on: a whole pass did not fit into memory."""

    def counters(self) -> dict[str, int]:
        """Count the rows that were computed (`forwarded`), and tokens before and after padding."""

    def time(self, batch: TextBatch) -> Timing | None:
        """Measure what a text takes; None where it is not loaded."""

    def conditions(self, batch: TextBatch) -> Timing:
        """Return the conditions under which these rows would be timed here, without a time."""

    def vocabulary(self) -> TeacherVocabulary:
        """Return the tokenizer of a language model, and its output head where answers are hidden states."""

    def generate(self, rows: TextBatch, *, beams: int | None, max_new_tokens: int) -> list[str]:
        """Write a text for each prompt or source."""


BACKENDS: dict[str, Callable[[TeacherSpec], TeacherBackend]] = {
    "model": ModelBackend,
    "trained": ModelBackend,  # once it is trained it is a model like any other
}
"""The class that serves each kind of teacher."""


def make_backend(spec: TeacherSpec) -> TeacherBackend:
    """Make the backend of a teacher; nothing is read or loaded yet."""
    return BACKENDS[spec.kind](spec)


def describe_teacher(spec: TeacherSpec) -> TeacherInfo:
    """Return what is known of a teacher before its weights are in memory.

    Raises:
        ModelError: It cannot be used.
        LabelMismatchError: Its labels are not the run's.
    """
    return make_backend(spec).describe()
