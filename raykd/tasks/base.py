"""Define what a task is: the unit of prediction, how rows are encoded and read, how answers are scored and shown.

Decision record: a task owns all its facets, so nothing outside asks of which kind a task is, and a new task is one
file. How encoded rows become batches is common to all tasks: `raykd.text.encoding`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_rows
from raykd.devices import without_gradients
from raykd.distill.features.states import Position
from raykd.distill.objective import Objective
from raykd.head import Head, TaskSettings
from raykd.spec import Spec
from raykd.tasks.forms import RowForm
from raykd.tasks.label_columns import ColumnMap, map_label_columns
from raykd.tasks.scores.classes import ClassAnswers, ClassScores, compute_class_scores
from raykd.tasks.scores.intervals import RowShares
from raykd.tasks.signature import Signature
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedBatch, EncodedRows, ModelOutputs, collate_rows
from raykd.text.padding import RIGHT, Padding
from raykd.text.ragged import compute_starts, expand_ranges
from raykd.text.tokens import Tokenizer

Network = Callable[..., object]
"""A model of the task's head, called with a batch's inputs as keyword arguments."""


@dataclass(frozen=True)
class SystemAnswers:
    """Answers of one system to B rows. Made by evaluations, read by a task's `compute_metrics`.

    Attributes:
        logits_NC: Raw float32 logits of all units in the rows' order; `MASKED` where a unit has fewer choices than C.
        counts_B: Units of each row.
        covered_N: False where the system said nothing about a unit.
        texts: The text generated for each row; None where nothing is generated.
        nll_B: Summed negative log-likelihood of each row's target, in nats; None where there is no target.
        tokens_B: Tokens of each row's target; None where there is no target.
        hits_B: Tokens of the target that are the most likely ones; None where nobody counted.
    """

    logits_NC: NDArray[np.float32]
    counts_B: NDArray[np.int64]
    covered_N: NDArray[np.bool_]
    texts: tuple[str, ...] | None = None
    nll_B: NDArray[np.float64] | None = None
    tokens_B: NDArray[np.int64] | None = None
    hits_B: NDArray[np.int64] | None = None

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> SystemAnswers:
        """Return the answers to these rows, in this order."""
        picked = np.asarray(rows, dtype=np.int64)
        units = expand_ranges(compute_starts(self.counts_B), picked)
        return SystemAnswers(
            self.logits_NC[units],
            self.counts_B[picked],
            self.covered_N[units],
            None if self.texts is None else tuple(self.texts[i] for i in picked),
            None if self.nll_B is None else self.nll_B[picked],
            None if self.tokens_B is None else self.tokens_B[picked],
            None if self.hits_B is None else self.hits_B[picked],
        )


@dataclass(frozen=True)
class PendingRows:
    """The answers of a forward pass that a device may still compute. Made by `TaskBase.start_answers`.

    Attributes:
        tensors: What the device computes.
        encode: Makes of them, as numpy arrays in the same order, one body per row (`raykd.answers.codec`); None for a
            row with a logit that is not finite.
    """

    tensors: tuple[torch.Tensor, ...]
    encode: Callable[[Sequence[NDArray[Any]]], list[bytes | None]]


class TaskBase(Spec):
    """What one prediction is, and everything that follows from it.

    A task owns its facets: what a row of it consists of (`form`), which head of a model it reads (`head`), its metrics
    (also by row and by class: `compute_row_shares`, `compare_classes`, `measure_confidence`), how a prediction is shown
    (`build_predictions`) and served (`build_signature`, `to_columns`), what it may be combined with (`check`,
    `union_vocabulary`, `marks_languages`). A class registers itself with `raykd.tasks.registry.register_task`.
    """

    form: ClassVar[RowForm]
    head: ClassVar[Head]
    """The head of a model that the task reads."""
    metric_names: ClassVar[tuple[str, ...]]
    """Names of what `compute_metrics` returns; a run is judged by the first unless it names another."""
    labelled: ClassVar[bool]
    """Whether the choices are the run's labels, so that models have a column per label and a teacher's columns are
    matched by name. It has no default: forgotten, it would make a student without the run's labels."""
    least_labels: ClassVar[int] = 2
    """Labels of the run that a teacher must know to have something to say; a choice needs two."""
    language: ClassVar[bool] = False
    """Whether the choices are a model's own vocabulary: then it gives hidden states, and answers are short forms."""
    vectors: ClassVar[bool] = False
    """Whether an answer is a vector, whose columns mean something to its own model alone (`place_answers`)."""
    generates: ClassVar[bool] = False
    """Whether models of the task write text."""
    marks_languages: ClassVar[bool] = False
    """Whether models may mark sources and targets with their languages."""
    union_vocabulary: ClassVar[bool] = False
    """Whether a student may have the union of its teachers' vocabularies."""
    is_tuned: ClassVar[bool] = False
    """Whether something is chosen after the training on the validation rows (`tune`)."""
    feature_positions: ClassVar[frozenset[Position]] = frozenset()
    """Where states of an encoder may be compared; empty where a row is not one sequence."""
    has_scale: ClassVar[bool] = False
    """Whether answers are numbers on a scale, which a teacher may have another one of."""
    kind: str
    max_length: int

    def with_labels(self, labels: Sequence[str]) -> Self:
        """Return the task for a run, or a model, with these labels."""
        return self

    def with_settings(self, settings: TaskSettings) -> Self:
        """Return the task as a saved student remembers it (`settings`)."""
        return self

    def check(self, labels: Sequence[str], objective: Objective) -> None:
        """Refuse labels, and parts of an objective, that the task cannot have.

        Raises:
            ConfigError: Says what to change.
        """

    @abstractmethod
    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return the token ids, units and gold labels of B rows."""

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """Return the picked rows as a batch, padded for one model."""
        return collate_rows(rows, picked, padding)

    @abstractmethod
    def count_units(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return ``[B]``: the units of each row, a property of the text that every model agrees on."""

    def name_choices(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the names of a unit's choices, where they are the same for all units; else ()."""
        return tuple(labels)

    def count_choices(self, batch: TextBatch, labels: Sequence[str]) -> int:
        """Return C: the choices that a unit of these rows has, at most."""
        return len(self.name_choices(labels))

    def compute_mean_logits(self, batch: TextBatch, classes: int) -> float:
        """Return the mean number of logits in a teacher's answer to one of these rows: units times choices."""
        return float(np.mean(self.count_units(batch))) * classes

    def list_unit_labels(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return ``[N]``: the gold label of each unit, or `UNLABELLED`."""
        return batch.labels_B

    @without_gradients
    def evaluate_batch(self, model: Network, encoded: EncodedBatch) -> SystemAnswers:
        """Return a model's answers to a batch."""
        logits_NC = self.gather(encoded.run(model), encoded).float().cpu().numpy()
        return SystemAnswers(logits_NC, encoded.counts_B, encoded.find_seen())

    def choose(self, model: Network, encoded: EncodedBatch) -> SystemAnswers:
        """Return answers of which `build_predictions` reads the choice alone, if they are quicker to compute."""
        return self.evaluate_batch(model, encoded)

    @abstractmethod
    def gather(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return ``[N, C]`` logits out of the model's outputs, one row per unit.

        The columns are the model's own, in its own order. For a student these are the run's labels. A teacher's are
        brought to the run's labels after `gather`, by `start_answers` with the columns of `map_columns`.
        """

    def gather_taught(
        self, outputs: ModelOutputs, encoded: EncodedBatch
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return a student's logits as `gather` does, and those that the gold term reads where it reads others."""
        return self.gather(outputs, encoded), None

    def locate_features(
        self, encoded: EncodedBatch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return where `train.alignment` reads the F vectors of a batch, ``[F]`` each: row, sequence and token.

        The token is None where a sequence has one vector, or one token by which it is answered.
        """
        row_B = torch.arange(len(encoded.counts_B), device=encoded.labels_N.device)
        return row_B, row_B, None

    def scale_answers(self, logits_NC: torch.Tensor) -> torch.Tensor:
        """Return answers as numbers by which two answers of a model are compared: probabilities."""
        return torch.asinh(logits_NC) if self.has_scale else logits_NC.softmax(dim=-1)

    def relate_units(self, logits_NC: torch.Tensor) -> torch.Tensor:
        """Return the student's logits over the choices that all units of a micro-batch share, as losses read them."""
        return logits_NC

    def place_answers(
        self, answers_NC: NDArray[np.float32], covered_N: NDArray[np.bool_], counts_B: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return a teacher's answers over the choices that the student has, and which units it covers.

        Args:
            answers_NC: Of the units of a micro-batch, over the teacher's own columns.
            covered_N: Which units it answered.
            counts_B: Units of each row.
        """
        return answers_NC, covered_N

    def map_columns(
        self,
        own: Sequence[str],
        wanted: Sequence[str],
        label_map: Mapping[str, str | None],
        name: str,
        missing: Sequence[str] = (),
    ) -> tuple[tuple[int, ...], ...]:
        """Return for each of the run's labels the teacher's columns that make it up; () for a task without labels.

        Arguments and errors are those of `map_label_columns`.
        """
        if not self.labelled:
            return ()
        return map_label_columns(own, wanted, label_map, name, missing, least=self.least_labels).columns

    def start_answers(
        self, model: Network, encoded: EncodedBatch, columns: Sequence[Sequence[int]]
    ) -> PendingRows:
        """Compute what a teacher answers to each row of a batch; wait for no device.

        A label that the teacher does not know has the logit -inf.

        Args:
            model: The teacher's.
            encoded: The rows in its tokens.
            columns: The teacher's columns of each of the run's labels (`map_columns`).
        """
        seen = () if encoded.seen_N is None else (encoded.seen_N,)

        def encode(arrays: Sequence[NDArray[Any]]) -> list[bytes | None]:
            return self.encode_answers(arrays[0], encoded.counts_B, columns, *arrays[1:])

        return PendingRows((self.gather_own(encoded.run(model), encoded).float(), *seen), encode)

    def gather_own(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return a teacher's outputs in its own columns, as `encode_answers` takes them."""
        return self.gather(outputs, encoded)

    def encode_answers(
        self,
        raw_NC: NDArray[np.float32],
        counts_B: NDArray[np.int64],
        columns: Sequence[Sequence[int]],
        seen_N: NDArray[np.bool_] | None = None,
    ) -> list[bytes | None]:
        """Encode what a teacher said in its own columns as answers in the run's.

        Args:
            raw_NC: Its logits.
            counts_B: Units of each row.
            columns: As for `start_answers`.
            seen_N: False where it did not see a unit; None where it saw all.

        Returns:
            One body per row; None for a row with a logit that is not finite.
        """
        logits_NC = raw_NC
        if self.labelled:
            logits_NC = ColumnMap(tuple(map(tuple, columns))).apply(raw_NC, unknown=-np.inf)
        covered_N = np.ones(len(raw_NC), dtype=bool) if seen_N is None else seen_N
        answer = DenseAnswer(logits_NC=logits_NC, covered_N=covered_N)
        return encode_rows(answer, counts_B, np.asarray(np.isfinite(raw_NC).all(axis=1)))

    def tune(self, answers: SystemAnswers, rows: TextBatch) -> Self:
        """Return the task with what is chosen after the training, by a student's answers to the validation rows.

        It is called where `is_tuned` says so.
        """
        return self

    def measure_unit(self, rows: TextBatch) -> float:
        """Return in what the loss counts differences of answers: 1, except where answers have a scale of their own."""
        return 1.0

    def find_start(self, rows: TextBatch, labels: Sequence[str]) -> float | NDArray[np.float32] | None:
        """Return where a new head begins, by the training rows: its one bias, or a chain's scores; None is 0."""
        return None

    @property
    def head_settings(self) -> Mapping[str, Any]:
        """What the head of a student is told beside its kind; empty for a head that has no settings."""
        return {}

    @property
    def settings(self) -> TaskSettings:
        """What a saved student must remember to be asked as it was judged: its kind, where its head serves another."""
        return {} if self.kind == self.head else {"kind": self.kind}

    @classmethod
    def build_served_settings(cls, longest: int) -> dict[str, object]:
        """Return the settings with which a saved model of the task is asked.

        Args:
            longest: Tokens of the longest text that the model reads.
        """
        return {"max_length": longest}

    @classmethod
    @abstractmethod
    def build_signature(cls, labels: Sequence[str]) -> Signature:
        """Return the columns that a saved model of the task reads, and those that it answers with."""

    def to_columns(
        self, predictions: Sequence[Mapping[str, object]], labels: Sequence[str]
    ) -> dict[str, list[object]]:
        """Return predictions as the output columns of `build_signature`: by name a cell for each row."""
        return {
            column.name: [row[column.name] for row in predictions]
            for column in self.build_signature(labels).outputs
        }

    def build_answer_key(self) -> object:
        """Return what changes a teacher's answer beside labels and lengths, as JSON; a part of the store's name."""
        return self.kind

    def build_predictions(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """Return the answer to each row as people and programs read it: plain data, one mapping per row."""
        raise NotImplementedError(f"{self.kind} has no predictions to show")

    def build_choices(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """Return predictions without the probabilities of what was not chosen."""
        return self.build_predictions(answers, rows, labels)

    @abstractmethod
    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Return the scores of one system on labelled rows of one language."""

    def compute_row_shares(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> RowShares | None:
        """Return the first metric as a ratio of two sums over labelled rows, which an interval is drawn from."""
        return None

    def compare_classes(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> ClassAnswers | None:
        """Return gold and prediction of labelled rows by class; None for a task whose answers are of no class."""
        return None

    def score_classes(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> ClassScores | None:
        """Score each class on labelled rows; None for a task without classes, or where no class occurs."""
        compared = self.compare_classes(answers, rows, labels)
        return compute_class_scores(compared) if compared is not None and len(compared.gold_X) else None

    def measure_confidence(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
        """Return the probability of each answer to labelled rows and whether it is right, for calibration."""
        return None
