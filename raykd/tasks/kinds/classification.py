"""Classify a text or a pair of texts: the unit is the row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from raykd.distill.features.states import Position
from raykd.head import Head
from raykd.tasks.base import SystemAnswers, TaskBase
from raykd.tasks.forms import RowForm
from raykd.tasks.registry import register_task
from raykd.tasks.scores.classes import ClassAnswers
from raykd.tasks.scores.classification import compute_classification_metrics, log_softmax
from raykd.tasks.scores.intervals import RowShares
from raykd.tasks.signature import Column, Signature, name_numbers
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedBatch, EncodedRows, ModelOutputs
from raykd.text.tokens import Tokenizer, Tokens, find_marker_ids, tokenize


@register_task
class Classification(TaskBase):
    """One label per row; N = B."""

    form: ClassVar[RowForm] = "text"
    head: ClassVar[Head] = "classification"
    metric_names: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "nll", "ece")
    labelled: ClassVar[bool] = True
    feature_positions: ClassVar[frozenset[Position]] = frozenset({"cls", "mean", "sequence"})
    kind: Literal["classification"] = "classification"
    max_length: int = Field(128, ge=1)
    """Longest text in tokens, special tokens included; what is longer is truncated."""
    markers: tuple[str, ...] = ()
    """Signs in the texts that stay one token each, such as those around the part that is judged ("[A]", "[/A]"):
    tokenizers are given them, and rows that lose one to `max_length` are counted. Relations have their own task."""

    @field_validator("markers", check_fields=False)  # relation fixes its markers
    @classmethod
    def _signs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or any(not m or m != m.strip() or " " in m for m in value):
            raise ValueError(f"markers must differ and hold no blank, got {list(value)}")
        return value

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return the token ids of B rows."""
        tokens = tokenize(tokenizer, batch.texts, batch.pairs, self.max_length, batch.languages)
        starts_B1 = np.arange(len(batch) + 1)
        extra = {"unmarked_B": self._find_unmarked(tokenizer, tokens)} if self.markers else {}
        return EncodedRows(
            tokens.fields,
            tokens.pad_values,
            tokens.lengths_B,
            batch.labels_B,
            starts_B1,
            extra=extra,
            long_B=tokens.long_B,
        )

    def _find_unmarked(self, tokenizer: Tokenizer, tokens: Tokens) -> NDArray[np.bool_]:
        """Return ``[B]``: whether a row's tokens lack a marker, which was cut off or never there.

        Raises:
            ConfigError: The tokenizer does not keep a marker as one token.
        """
        ids = find_marker_ids(tokenizer, self.markers)
        return np.asarray([not np.isin(ids, row).all() for row in tokens.fields["input_ids"]], dtype=bool)

    def count_units(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return 1 per row."""
        return np.ones(len(batch), dtype=np.int64)

    def gather(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return the ``[B, C]`` logits, which are already one row per unit."""
        logits = outputs.logits
        if logits.ndim != 2 or logits.shape[0] != encoded.labels_N.shape[0]:
            raise ValueError(f"a classifier gives [B, C] logits, got {tuple(logits.shape)}")
        return logits

    def build_predictions(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """Return text, label and the probability of every label."""
        p_NC = np.exp(log_softmax(answers.logits_NC))
        best_N = p_NC.argmax(axis=1).tolist()
        return [
            {"text": text, "label": labels[best], "probabilities": own}
            for text, best, own in zip(rows.texts, best_N, name_numbers(labels, p_NC), strict=True)
        ]

    def build_choices(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """Return text, label and its probability."""
        p_NC = np.exp(log_softmax(answers.logits_NC))
        best_N = p_NC.argmax(axis=1)
        p_N = p_NC[np.arange(len(best_N)), best_N].round(6).tolist()
        return [
            {"text": text, "label": labels[best], "probability": p}
            for text, best, p in zip(rows.texts, best_N.tolist(), p_N, strict=True)
        ]

    @classmethod
    def build_signature(cls, labels: Sequence[str]) -> Signature:
        """Return the columns: a text or two; the label, and the probability of every label in ``p_LABEL``."""
        return Signature(
            (Column("text", "string"), Column("text_pair", "string", required=False)),
            (Column("label", "string"), *(Column(f"p_{label}", "double") for label in labels)),
        )

    def to_columns(
        self, predictions: Sequence[Mapping[str, object]], labels: Sequence[str]
    ) -> dict[str, list[object]]:
        """Return the labels, and the probabilities of each label."""
        rows = [cast("Mapping[str, float]", row["probabilities"]) for row in predictions]
        columns: dict[str, list[object]] = {"label": [row["label"] for row in predictions]}
        return columns | {f"p_{name}": [row[name] for row in rows] for name in labels}

    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Return accuracy, macro-F1, NLL and ECE of labelled units (`raykd.tasks.scores.classification`)."""
        return compute_classification_metrics(answers.logits_NC, rows.labels_B)

    def compute_row_shares(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> RowShares:
        """Return accuracy by row."""
        right_B = answers.logits_NC.argmax(axis=1) == rows.labels_B
        return RowShares(right_B.astype(np.float64), np.ones(len(right_B)))

    def compare_classes(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> ClassAnswers:
        """Return the label and the most probable one of each row."""
        return ClassAnswers(tuple(labels), rows.labels_B, answers.logits_NC.argmax(axis=1))

    def measure_confidence(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the probability of the most probable label, and whether it is the gold one."""
        p_NC = np.exp(log_softmax(answers.logits_NC))
        return p_NC.max(axis=1), answers.logits_NC.argmax(axis=1) == rows.labels_B
