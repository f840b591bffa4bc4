"""`BackendBase`: what every backend of a teacher offers, with defaults for a kind that has no weights.

Decision record: store, batching, replicas, routing, retries, counters and reports are above, the same for every kind.
A backend says what the teacher is before it answers, and answers a batch. The name of its store is made here, so that
no kind forgets a part of it.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.codec import VERSION
from raykd.answers.vocabularies import TeacherVocabulary
from raykd.config import TeacherBase
from raykd.distill.features.states import FeatureRequest
from raykd.errors import NonFiniteError, TeacherError
from raykd.teachers.backends.self_test import compare_answers
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.teachers.timing import Timing, describe_conditions
from raykd.text.batch import TextBatch

if TYPE_CHECKING:
    from raykd.prediction.selftest import PaddingFinding

T = TypeVar("T", bound=TeacherBase)

_FORMAT = f"answers of layout {VERSION}, rows that do not depend on their neighbours"
"""How answers are made and written; when it changes, older stores are not read."""


class BackendBase(ABC, Generic[T]):
    """Computes the answers of one teacher. A kind defines `describe` and `compute`.

    For a kind that knows logits ``[N, own labels]`` (of probabilities their logarithm), one row per text, or per word
    of a tagger's texts, these are two lines::

        def describe(self) -> TeacherInfo:
            return self.build_info(fingerprint, labels)

        def compute(self, batch: TextBatch) -> list[bytes]:
            return self.finish(batch, self.encode_logits(batch, logits_NC))

    Args:
        spec: What to load and how to answer. Nothing is read before the first `describe` or `compute`.

    Attributes:
        spec: As given.
        teacher: The teacher's configuration.
        forwarded: Rows that were computed.
        finding: What a self-test found of how rows share a forward pass; None before it, and for a kind that has none.
        keeps_gaps: Whether that it has no answer to a text (`NO_ANSWER`) is stored, as answers are.
        has_few_shapes: Whether forward passes have one of a few shapes (`raykd.text.buckets`), as on a GPU.
        rows_at_once: Rows after which answers are stored; None stores those of a whole request together.
    """

    is_concurrent: ClassVar[bool] = False
    """Whether several threads may call `compute` at once; else they take turns."""

    def __init__(self, spec: TeacherSpec) -> None:
        self.spec = spec
        self.teacher = cast(T, spec.teacher)
        self.forwarded = 0
        self.finding: PaddingFinding | None = None
        self.keeps_gaps = True
        self.has_few_shapes = False
        self.rows_at_once: int | None = None

    @abstractmethod
    def describe(self) -> TeacherInfo:
        """Return fingerprint, labels, precision and the name of its answers; loads no weights.

        Raises:
            ModelError: It cannot be used.
            LabelMismatchError: Its labels are not the run's.
        """

    @abstractmethod
    def compute(self, batch: TextBatch) -> list[bytes]:
        """Answer every row, encoded (`raykd.answers.codec`), in order.

        Raises:
            NonFiniteError: An answer holds NaN or infinity.
        """

    def compute_features(self, batch: TextBatch, features: FeatureRequest) -> list[bytes]:
        """Answer every row as `compute` does, with states behind each answer (`raykd.answers.features`).

        Raises:
            TeacherError: The kind has no states.
        """
        raise TeacherError(
            f"teacher {self.spec.name} has no hidden states",
            got=f"kind {self.teacher.kind}",
            wanted="a teacher that is a model of transformers",
        )

    def build_info(
        self,
        fingerprint: str,
        labels: Sequence[str],
        *,
        parameters: int = 0,
        dtype: str = "float32",
        dtype_reason: str = "no weights",
        max_length: int = 0,
    ) -> TeacherInfo:
        """Return what the teacher is, with the run's labels found among its own by name.

        Args:
            fingerprint: Hash of all that its answers depend on, beside the run's settings.
            labels: Its own, in the order of its columns; none where it has none.
            parameters: Number of weights.
            dtype: Precision in which it computes.
            dtype_reason: Why that one, for people.
            max_length: Tokens after which it cuts a text; 0 where it does not count tokens.

        Raises:
            LabelMismatchError: Its labels are not the run's.
        """
        spec, teacher = self.spec, self.teacher
        # Everything that changes an answer. The order and the form are part of the names of stores on disk.
        parts: list[object] = [
            fingerprint,
            spec.labels,
            sorted(teacher.label_map.items()),
            max_length,
            dtype,
            spec.task.build_answer_key(),
            spec.device.partition(":")[0],
            _FORMAT,
        ]
        if teacher.scale is not None:
            parts.append(teacher.scale.model_dump())
        if teacher.language_codes:
            parts.append(sorted(teacher.language_codes.items()))
        return TeacherInfo(
            name=spec.name,
            fingerprint=fingerprint,
            parameters=parameters,
            dtype=dtype,
            dtype_reason=dtype_reason,
            device=spec.device,
            max_length=max_length,
            answers=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
            columns=self.map_columns(labels),
            labels=tuple(labels),
        )

    def map_columns(self, labels: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Return for each of the run's labels the columns of the teacher's own that make it up.

        Raises:
            LabelMismatchError: Its labels are not the run's.
        """
        spec, teacher = self.spec, self.teacher
        return spec.task.map_columns(labels, spec.labels, teacher.label_map, spec.name, teacher.missing)

    def encode_logits(
        self, batch: TextBatch, logits_NC: NDArray[np.float32], covered_N: NDArray[np.bool_] | None = None
    ) -> list[bytes | None]:
        """Encode logits over the teacher's own labels as answers over the run's; None for a row that is not finite.

        Args:
            batch: The rows.
            logits_NC: Of each unit of the rows (a text, or a word of a tagger's text), row after row.
            covered_N: False for a unit without an answer; None where there is none.
        """
        task = self.spec.task
        own_NC = self.rescale(np.asarray(logits_NC, dtype=np.float32))
        return task.encode_answers(own_NC, task.count_units(batch), self.describe().columns, covered_N)

    def rescale(self, values_N1: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the teacher's numbers on the run's scale, where it has one of its own (`TeacherBase.scale`)."""
        scale = self.teacher.scale
        return values_N1 if scale is None else scale.apply(values_N1)

    def finish(self, batch: TextBatch, answers: Sequence[bytes | None]) -> list[bytes]:
        """Count the rows of a batch as computed, and return their answers.

        Raises:
            NonFiniteError: An answer is None; names the teacher and the rows.
        """
        self.forwarded += len(batch)
        bad = [i for i, answer in enumerate(answers) if answer is None]
        if bad:
            raise NonFiniteError(
                f"teacher {self.spec.name} answered with NaN or infinite logits",
                got=f"rows {[batch.ids[i] for i in bad[:5]]} and {max(0, len(bad) - 5)} more",
                wanted="finite logits",
                next_step="try serving.dtype: float32; if it stays, the teacher's weights are broken",
            )
        return [answer for answer in answers if answer is not None]

    def try_out(self, batch: TextBatch) -> str:
        """Answer some rows as a check does, before a run starts; describe what was found.

        Args:
            batch: Rows of the run in the teacher's languages.

        Raises:
            RaykdError: As `compute` would raise later; or its answer to a text depends on other texts.
        """
        return compare_answers(self.compute, batch, self.spec.name)

    def describe_place(self) -> str:
        """Return how and where it computes, for a check."""
        info = self.describe()
        return f"{info.dtype} on {info.device}"

    def estimate_tokens(self, batch: TextBatch) -> float | None:
        """Return the tokens that a row costs on average; None for a kind that does not cost tokens. Asks nobody."""
        return None

    def check_ready(self) -> None:
        """Raise what surely keeps it from answering now; called before processes start, where answers are missing.

        Raises:
            RaykdError: It cannot answer.
        """

    @property
    def loaded(self) -> bool:
        """Whether it is ready to compute."""
        return True

    def load(self) -> object:
        """Make it ready to compute; else the first `compute` does."""
        return None

    def halve(self) -> None:
        """Compute half as much at once from now on: a whole pass did not fit into memory."""

    def counters(self) -> dict[str, int]:
        """Count the rows that were computed (`forwarded`), and tokens before and after padding."""
        return {"forwarded": self.forwarded, "real_tokens": 0, "computed_tokens": 0}

    def time(self, batch: TextBatch) -> Timing | None:
        """Measure what a text takes; None where it is not loaded, or where no time is comparable with a model's."""
        return None

    def conditions(self, batch: TextBatch) -> Timing:
        """Return the conditions under which these rows would be timed here, without a time."""
        dtype = self.describe().dtype
        return describe_conditions(batch.texts, torch.get_num_threads(), self.spec.device, dtype)

    def vocabulary(self) -> TeacherVocabulary:
        """Return the tokenizer of a language model, and its output head where answers are hidden states.

        Raises:
            TeacherError: It has no vocabulary.
        """
        raise self._not_a_language_model("has no vocabulary")

    def generate(self, rows: TextBatch, *, beams: int | None, max_new_tokens: int) -> list[str]:
        """Write a text for each prompt or source.

        Raises:
            TeacherError: It writes no text.
        """
        raise self._not_a_language_model("writes no text")

    def _not_a_language_model(self, what: str) -> TeacherError:
        return TeacherError(
            f"teacher {self.spec.name} {what}",
            got=f"kind {self.teacher.kind}",
            wanted="a teacher that is a language model",
        )
