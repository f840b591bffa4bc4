"""Name the relation between two marked entities of a text: the unit is the row, a pair of entities.

Decision record: a relation is a classification of a text that carries markers (`raykd.tasks.markers`), so every model,
head and teacher of classification serves it. What differs is how a long text is cut (around the entities) and how it is
scored: the label that says that there is no relation counts as nothing found, as in TACRED and SemEval-2010 task 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from raykd.distill.objective import Objective
from raykd.errors import ConfigError
from raykd.tasks.base import SystemAnswers
from raykd.tasks.forms import RowForm
from raykd.tasks.kinds.classification import Classification
from raykd.tasks.markers import MARKERS, cut_around_markers, is_marked
from raykd.tasks.registry import register_task
from raykd.tasks.scores.classes import NO_CLASS, ClassAnswers
from raykd.tasks.scores.intervals import RowShares
from raykd.tasks.scores.relations import compute_relation_f1
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedRows
from raykd.text.tokens import Tokenizer


@register_task
class Relation(Classification):
    """One label per pair of entities; N = B."""

    form: ClassVar[RowForm] = "marked"
    metric_names: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "accuracy", "nll", "ece")
    markers: ClassVar[tuple[str, ...]] = MARKERS  # type: ignore[misc]
    kind: Literal["relation"] = "relation"  # type: ignore[assignment]
    max_length: int = Field(128, ge=1)
    """Longest text in tokens, special tokens included; of a longer one the part around the entities is read."""
    negative_label: str | None = None
    """The label of entities without a relation (Other, unknown, no_relation): micro and macro F1 leave it out. None:
    every label is a relation."""

    def check(self, labels: Sequence[str], objective: Objective) -> None:
        """Refuse a negative label that the run does not have."""
        if self.negative_label is not None and labels and self.negative_label not in labels:
            raise ConfigError(
                "task.negative_label is no label of the run",
                got=self.negative_label,
                wanted=f"one of {list(labels)}, or null where every label is a relation",
            )

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return the token ids of B rows; a long text is cut around its entities."""
        rows = super().encode(tokenizer, batch)
        cut = [i for i in np.flatnonzero(rows.extra["unmarked_B"]).tolist() if is_marked(batch.texts[i])]
        if not cut:
            return rows
        texts = tuple(cut_around_markers(tokenizer, batch.texts[i], self.max_length) for i in cut)
        again = super().encode(tokenizer, replace(batch.take(cut), texts=texts))
        fields = {name: list(values) for name, values in rows.fields.items()}
        for name, values in fields.items():
            for i, value in zip(cut, again.fields[name], strict=True):
                values[i] = value
        rows.lengths_B[cut] = again.lengths_B
        rows.extra["unmarked_B"][cut] = again.extra["unmarked_B"]
        return replace(rows, fields=fields)

    @property
    def settings(self) -> dict[str, str | int]:
        """What a saved student must remember: its kind, and which label is no relation."""
        own: dict[str, str | int] = {"kind": self.kind}
        return own if self.negative_label is None else own | {"negative_label": self.negative_label}

    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Return micro and macro F1 of relations, accuracy over all labels, NLL and ECE of labelled units."""
        base = super().compute_metrics(answers, rows, labels)
        known = rows.labels_B >= 0
        f1 = compute_relation_f1(
            answers.logits_NC[known].argmax(axis=1), rows.labels_B[known], labels, self.negative_label
        )
        return base | f1

    def compute_row_shares(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> RowShares:
        """Return micro F1 by row: twice its hit, and the relations of gold and prediction."""
        gold_B, own_B = self._number(rows.labels_B, labels), self._number(answers.logits_NC.argmax(1), labels)
        right_B = (gold_B == own_B) & (gold_B != NO_CLASS)
        found_B = (gold_B != NO_CLASS).astype(np.float64) + (own_B != NO_CLASS)
        return RowShares(2.0 * right_B, found_B)

    def compare_classes(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> ClassAnswers:
        """Return the relation of gold and of the prediction of each row; the negative label is none."""
        return ClassAnswers(
            tuple(label for label in labels if label != self.negative_label),
            self._number(rows.labels_B, labels),
            self._number(answers.logits_NC.argmax(axis=1), labels),
            self.negative_label or "",
        )

    def _number(self, labels_B: NDArray[np.integer], labels: Sequence[str]) -> NDArray[np.int64]:
        """Return labels as numbers among those that are relations; `NO_CLASS` for the negative one."""
        kept = [label for label in labels if label != self.negative_label]
        numbers = [NO_CLASS if label == self.negative_label else kept.index(label) for label in labels]
        found: NDArray[np.int64] = np.asarray(numbers, dtype=np.int64)[labels_B]
        return found
