"""Predict a number for a text or a pair of texts: the unit is the row, and its one "logit" is the value.

Decision record: values stay in the data's own unit from the teachers to the saved model, whose one output transformers
reads as it stands. The loss alone counts in standard deviations of the labelled training values
(`measure_unit`), so that a scale of 0 to 5 and one of 0 to 100 need the same learning rate and alpha. A new head begins
at the mean of these values, because the way from 0 to the mean would take most of a short training. The squared
difference to the teachers' weighted mean is the one divergence that has a meaning for numbers; temperature, mixture and
what compares probabilities have none and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from raykd.distill.features.states import Position
from raykd.distill.objective import Objective
from raykd.distill.signals import UNLABELLED
from raykd.head import Head
from raykd.tasks.base import SystemAnswers, TaskBase
from raykd.tasks.forms import RowForm
from raykd.tasks.refusals import refuse_keys
from raykd.tasks.registry import register_task
from raykd.tasks.scores.intervals import RowShares
from raykd.tasks.scores.values import compute_value_metrics
from raykd.tasks.signature import Column, Signature
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedBatch, EncodedRows, ModelOutputs, collate_rows
from raykd.text.padding import RIGHT, Padding
from raykd.text.tokens import Tokenizer, tokenize

_IDLE = ("temperature", "mixture", "label_smoothing")
"""Keys of an objective that say something of probabilities."""


@register_task
class Regression(TaskBase):
    """A number per row; N = B, C = 1."""

    form: ClassVar[RowForm] = "value"
    head: ClassVar[Head] = "regression"
    metric_names: ClassVar[tuple[str, ...]] = ("mse", "mae", "pearson", "spearman")
    labelled: ClassVar[bool] = False
    feature_positions: ClassVar[frozenset[Position]] = frozenset({"cls", "mean", "sequence"})
    has_scale: ClassVar[bool] = True
    kind: Literal["regression"] = "regression"
    max_length: int = Field(128, ge=1)
    """Longest text, or pair of texts, in tokens, special tokens included; what is longer is truncated."""

    def check(self, labels: Sequence[str], objective: Objective) -> None:
        """Refuse what compares probabilities, which one number has none of.

        Raises:
            ValueError: Names the key and what to write instead.
        """
        if objective.plain:
            return
        for term in objective.terms:
            if term.divergence.least_choices > 1:
                raise ValueError(
                    f"objective.terms: {term.divergence.kind} compares probabilities, and a regression has one number: "
                    "write terms: [{divergence: {kind: logit_mse}}], the squared difference to the teachers' mean"
                )
        if objective.weighting.inner.needs_probabilities:
            raise ValueError(
                f"objective.weighting {objective.weighting.inner.kind} reads how sure teachers are, which one number "
                "does not say: write weighting: {kind: by_language}, uniform or fixed"
            )
        refuse_keys(objective, _IDLE, "a regression, whose answers are no probabilities")

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return the token ids of B rows, and their values."""
        tokens = tokenize(tokenizer, batch.texts, batch.pairs, self.max_length, batch.languages)
        return EncodedRows(
            tokens.fields,
            tokens.pad_values,
            tokens.lengths_B,
            batch.labels_B,
            np.arange(len(batch) + 1),
            extra={"values_N": get_values(batch).astype(np.float32)},
            long_B=tokens.long_B,
        )

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """Return the picked rows as a batch, with their gold values."""
        batch = collate_rows(rows, picked, padding)
        values_N = rows.extra["values_N"][np.asarray(picked, dtype=np.int64)]
        batch.extra["values_N"] = torch.from_numpy(values_N)
        return batch

    def count_units(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return 1 per row."""
        return np.ones(len(batch), dtype=np.int64)

    def name_choices(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return one name: that of the value."""
        return ("value",)

    def measure_unit(self, rows: TextBatch) -> float:
        """Return the standard deviation of the labelled values; 1 where they do not differ."""
        values_X = get_values(rows)[rows.labels_B != UNLABELLED]
        return float(values_X.std()) if len(values_X) and np.ptp(values_X) > 0.0 else 1.0

    def find_start(self, rows: TextBatch, labels: Sequence[str]) -> float | None:
        """Return the mean of the labelled values."""
        values_X = get_values(rows)[rows.labels_B != UNLABELLED]
        return float(values_X.mean()) if len(values_X) else None

    def gather(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return the ``[B, 1]`` values."""
        logits = outputs.logits
        if logits.ndim != 2 or logits.shape != (encoded.labels_N.shape[0], 1):
            raise ValueError(f"a regression gives [B, 1] values, got {tuple(logits.shape)}")
        return logits

    def build_predictions(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """Return texts and values."""
        values = [round(value, 6) for value in answers.logits_NC[:, 0].astype(float).tolist()]
        if rows.pairs is None:
            return [{"text": text, "value": value} for text, value in zip(rows.texts, values, strict=True)]
        return [
            {"text": text, "text_pair": pair, "value": value}
            for text, pair, value in zip(rows.texts, rows.pairs, values, strict=True)
        ]

    @classmethod
    def build_signature(cls, labels: Sequence[str]) -> Signature:
        """Return the columns: a text or two; the value."""
        return Signature(
            (Column("text", "string"), Column("text_pair", "string", required=False)),
            (Column("value", "double"),),
        )

    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Return MSE, MAE and both correlations over labelled rows (`raykd.tasks.scores.values`)."""
        there_B = rows.labels_B != UNLABELLED
        return compute_value_metrics(answers.logits_NC[there_B, 0], get_values(rows)[there_B])

    def compute_row_shares(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> RowShares:
        """Return the squared error by row."""
        away_B = answers.logits_NC[:, 0].astype(np.float64) - get_values(rows)
        return RowShares(np.square(away_B), np.ones(len(away_B)))

    def to_columns(
        self, predictions: Sequence[Mapping[str, object]], labels: Sequence[str]
    ) -> dict[str, list[object]]:
        """Return the values."""
        return {"value": [row["value"] for row in predictions]}


def get_values(rows: TextBatch) -> NDArray[np.float64]:
    """Return ``[B]``: the gold value of each row; 0 where it has none."""
    values = rows.values or ((),) * len(rows)
    return np.asarray([own[0] if own else 0.0 for own in values], dtype=np.float64)
