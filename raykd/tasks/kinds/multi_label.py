"""Give a text or a pair any number of labels: the unit is a row and a label, with two choices, no and yes.

Decision record: a unit's logits are ``[0, z]``, z the model's output of the label, so that a softmax over the two
choices at temperature T is ``sigmoid(z / T)``, a KL divergence is the binary one, and every divergence, weighting,
mixture and schedule holds as it stands. A label that a teacher lacks is a unit that it does not cover. Labels of a
teacher that lead to one of the run's are joined to "any of them": ``1 - prod(1 - p)``, as if they were independent,
since probabilities of labels that occur together cannot be added. How many labels there are follows from the run or
the model (`with_labels`), because rows without gold have as many units as others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_rows
from raykd.distill.features.states import Position
from raykd.distill.objective import Objective
from raykd.distill.signals import UNLABELLED
from raykd.head import Head, TaskSettings
from raykd.tasks.base import SystemAnswers, TaskBase
from raykd.tasks.forms import RowForm
from raykd.tasks.registry import register_task
from raykd.tasks.scores.classes import NO_CLASS, ClassAnswers
from raykd.tasks.scores.classification import compute_classification_metrics
from raykd.tasks.scores.intervals import RowShares
from raykd.tasks.scores.label_sets import (
    apply_thresholds,
    compute_set_metrics,
    count_label_hits,
    tune_thresholds,
)
from raykd.tasks.signature import Column, Signature, name_numbers
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedBatch, EncodedRows, ModelOutputs
from raykd.text.tokens import Tokenizer, tokenize


@register_task
class MultiLabel(TaskBase):
    """Any number of labels per row; N = B x labels, C = 2."""

    form: ClassVar[RowForm] = "labels"
    head: ClassVar[Head] = "multi_label"
    metric_names: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "exact_match", "nll", "ece")
    labelled: ClassVar[bool] = True
    feature_positions: ClassVar[frozenset[Position]] = frozenset({"cls", "mean", "sequence"})
    least_labels: ClassVar[int] = 1
    is_tuned: ClassVar[bool] = True
    kind: Literal["multi_label"] = "multi_label"
    max_length: int = Field(128, ge=1)
    """Longest text in tokens, special tokens included; what is longer is truncated."""
    outputs: int = Field(0, ge=0)
    """Number of labels. A run fills it in from `data.labels`."""
    thresholds: tuple[float, ...] = ()
    """The least probability at which each label is given, in the order of the labels; () is 0.5 for all. Those of a
    saved student are chosen on the validation rows."""

    def with_labels(self, labels: Sequence[str]) -> Self:
        """Return the task with as many outputs as there are labels."""
        return self.model_copy(update={"outputs": len(labels)})

    def with_settings(self, settings: TaskSettings) -> Self:
        """Return the task with the thresholds of a saved student."""
        return self.model_copy(update={"thresholds": tuple(settings.get("thresholds", self.thresholds))})

    def check(self, labels: Sequence[str], objective: Objective) -> None:
        """Refuse thresholds of another number of labels, and weights of classes.

        Raises:
            ValueError: Says what to change.
        """
        if self.thresholds and len(self.thresholds) != len(labels):
            raise ValueError(f"task.thresholds holds {len(self.thresholds)} numbers for {len(labels)} labels")
        for divergence in (term.divergence for term in objective.terms):
            if divergence.least_choices > 2:
                raise ValueError(
                    f"objective.terms: {divergence.kind} needs {divergence.least_choices} choices or more, and a text "
                    "and a label have two: use forward_kl, reverse_kl, jensen_shannon or logit_mse"
                )
        if objective.class_weights is not None:
            raise ValueError(
                "objective.class_weights weighs labels of which a row has one; a row of multi_label may have several: "
                "leave it out (objective.focal_gamma gives rare labels more weight, thresholds are tuned)"
            )

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return the token ids of B rows, and whether each label holds."""
        tokens = tokenize(tokenizer, batch.texts, batch.pairs, self.max_length, batch.languages)
        return EncodedRows(
            tokens.fields,
            tokens.pad_values,
            tokens.lengths_B,
            self.list_unit_labels(batch),
            np.arange(len(batch) + 1) * self.outputs,
            long_B=tokens.long_B,
        )

    def count_units(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return the number of labels, for each row."""
        return np.full(len(batch), self.outputs, dtype=np.int64)

    def name_choices(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return no and yes: a unit is a row and a label."""
        return ("no", "yes")

    def list_unit_labels(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return 1 for each label that holds, 0 for each that does not, row after row."""
        bare = (UNLABELLED,) * self.outputs
        golds = [gold or bare for gold in batch.golds or ((),) * len(batch)]
        return np.asarray(golds, dtype=np.int64).reshape(-1)

    def gather(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return ``[B x labels, 2]``: 0 and the label's output."""
        z_N = self.gather_own(outputs, encoded).reshape(-1)
        if z_N.shape != encoded.labels_N.shape:
            raise ValueError(f"{len(encoded.labels_N)} rows times labels, got {len(z_N)} outputs")
        return torch.stack([torch.zeros_like(z_N), z_N], dim=1)

    def gather_own(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return the outputs as the model gives them, ``[B, its labels]``."""
        logits = outputs.logits
        if logits.ndim != 2 or len(logits) != len(encoded.counts_B):
            raise ValueError(f"a model of several labels gives [B, labels] logits, got {tuple(logits.shape)}")
        return logits

    def encode_answers(
        self,
        raw_NC: NDArray[np.float32],
        counts_B: NDArray[np.int64],
        columns: Sequence[Sequence[int]],
        seen_N: NDArray[np.bool_] | None = None,
    ) -> list[bytes | None]:
        """Encode outputs ``[B, its labels]`` as answers to each of the run's labels; those it lacks are not covered."""
        z_BL = np.zeros((len(raw_NC), len(columns)), dtype=np.float32)
        for label, own in enumerate(columns):
            if own:
                z_BL[:, label] = join_logits(raw_NC[:, list(own)])
        logits_NC = np.stack([np.zeros(z_BL.size, np.float32), z_BL.reshape(-1)], axis=1)
        known_N = np.tile(np.asarray([bool(own) for own in columns], dtype=bool), len(raw_NC))
        if seen_N is not None:  # of each row
            known_N &= np.repeat(seen_N, len(columns))
        finite_N = np.repeat(np.isfinite(raw_NC).all(axis=1), len(columns))
        return encode_rows(DenseAnswer(logits_NC=logits_NC, covered_N=known_N), counts_B, finite_N)

    @property
    def settings(self) -> TaskSettings:
        """The thresholds."""
        return {"thresholds": list(self.thresholds)} if self.thresholds else {}

    def tune(self, answers: SystemAnswers, rows: TextBatch) -> Self:
        """Return the task with the thresholds that suit the rows best, unless the run wrote some down."""
        if self.thresholds or not (rows.labels_B != UNLABELLED).any():
            return self
        found = tune_thresholds(self._read_probabilities(answers), self._read_gold(rows))
        return self.model_copy(update={"thresholds": found})

    def build_predictions(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """Return text, the labels that are given, and the probability of every label."""
        p_BL = self._read_probabilities(answers)
        chosen_BL = apply_thresholds(p_BL, self.thresholds)
        return [
            {
                "text": text,
                "labels": [label for label, given in zip(labels, chosen_L, strict=True) if given],
                "probabilities": own,
            }
            for text, own, chosen_L in zip(rows.texts, name_numbers(labels, p_BL), chosen_BL, strict=True)
        ]

    def build_choices(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """Return text, the labels that are given, and their probabilities."""
        found = self.build_predictions(answers, rows, labels)
        for row in found:
            own = cast("Mapping[str, float]", row["probabilities"])
            row["probabilities"] = {label: own[label] for label in cast("list[str]", row["labels"])}
        return found

    @classmethod
    def build_signature(cls, labels: Sequence[str]) -> Signature:
        """Return the columns: a text or two; the labels as JSON, and the probability of every label in ``p_LABEL``."""
        return Signature(
            (Column("text", "string"), Column("text_pair", "string", required=False)),
            (Column("labels", "string"), *(Column(f"p_{label}", "double") for label in labels)),
        )

    def to_columns(
        self, predictions: Sequence[Mapping[str, object]], labels: Sequence[str]
    ) -> dict[str, list[object]]:
        """Return the labels as JSON, and the probabilities of each label."""
        import json

        rows = [cast("Mapping[str, float]", row["probabilities"]) for row in predictions]
        given: dict[str, list[object]] = {
            "labels": [json.dumps(row["labels"], ensure_ascii=False) for row in predictions]
        }
        return given | {f"p_{name}": [row[name] for row in rows] for name in labels}

    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Return F1 and exact match at 0.5, NLL and ECE of single decisions; with thresholds also F1 at those.

        A label that a system does not know is not given by it, and left out of its NLL and ECE.
        """
        p_BL, gold_BL = self._read_probabilities(answers), self._read_gold(rows)
        known_N = answers.covered_N
        sure = {"nll": float("nan"), "ece": float("nan")}
        if (gold_BL.reshape(-1)[known_N] != UNLABELLED).any():
            sure = compute_classification_metrics(answers.logits_NC[known_N], gold_BL.reshape(-1)[known_N])
        found = compute_set_metrics(apply_thresholds(p_BL, ()), gold_BL)
        if self.thresholds:
            tuned = compute_set_metrics(apply_thresholds(p_BL, self.thresholds), gold_BL)
            found |= {f"tuned_{name}": tuned[name] for name in ("micro_f1", "macro_f1")}
        return found | {name: sure[name] for name in ("nll", "ece")}

    def compute_row_shares(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> RowShares:
        """Return micro-F1 at 0.5 by row."""
        chosen_BL = apply_thresholds(self._read_probabilities(answers), ())
        return RowShares(*count_label_hits(chosen_BL, self._read_gold(rows), axis=1))

    def compare_classes(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> ClassAnswers:
        """Return each label that holds or is given, at the task's thresholds."""
        chosen_BL = apply_thresholds(self._read_probabilities(answers), self.thresholds)
        gold_BL = self._read_gold(rows)
        at_XL = np.broadcast_to(np.arange(len(labels)), gold_BL.shape)
        there_BL = (gold_BL != UNLABELLED) & (chosen_BL | (gold_BL == 1))
        return ClassAnswers(
            tuple(labels),
            np.where(gold_BL == 1, at_XL, NO_CLASS)[there_BL],
            np.where(chosen_BL, at_XL, NO_CLASS)[there_BL],
            "without the label",
        )

    def measure_confidence(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the probability of the likelier of no and yes for each row and label, and whether it is right."""
        p_N, gold_N = self._read_probabilities(answers).reshape(-1), self._read_gold(rows).reshape(-1)
        there_N = answers.covered_N & (gold_N != UNLABELLED)
        p_N, gold_N = p_N[there_N], gold_N[there_N]
        return np.maximum(p_N, 1.0 - p_N), (p_N >= 0.5) == (gold_N == 1)

    def _read_probabilities(self, answers: SystemAnswers) -> NDArray[np.float64]:
        """Return ``[B, labels]``; 0 for a label that the system does not know."""
        gap_N = answers.logits_NC[:, 0].astype(np.float64) - answers.logits_NC[:, 1]
        p_N = np.exp(-np.logaddexp(0.0, gap_N))
        return np.where(answers.covered_N, p_N, 0.0).reshape(-1, self.outputs)

    def _read_gold(self, rows: TextBatch) -> NDArray[np.int64]:
        return self.list_unit_labels(rows).reshape(-1, self.outputs)


def join_logits(logits_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logit of "any of K labels", ``log(p / (1 - p))`` with ``1 - p = prod(1 - p_k)``."""
    if logits_NK.shape[1] == 1:
        return logits_NK[:, 0]
    log_none_N = -np.logaddexp(0.0, logits_NK.astype(np.float64)).sum(axis=1)
    # p / (1 - p) = 1 / (1 - p) - 1; expm1 keeps a small p exact, and a large one is -log(1 - p).
    with np.errstate(over="ignore"):
        small_N = np.log(np.expm1(np.minimum(-log_none_N, 30.0)))
    joined_N: NDArray[np.float32] = np.where(log_none_N < -30.0, -log_none_N, small_N).astype(np.float32)
    return joined_N
