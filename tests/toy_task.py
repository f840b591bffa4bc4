"""A task in a file of its own: how certain a text's sentiment is, as three classes of stars, scored by its own metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from raykd.tasks import SystemAnswers, register_task
from raykd.tasks.kinds.classification import Classification
from raykd.tasks.scores.metrics import Metric, register_metric
from raykd.text.batch import TextBatch

register_metric(Metric("rank_distance", "rank distance", "number", higher_is_better=False))


@register_task
class Ordinal(Classification):
    """One of ordered labels a row; a guess that is two places off is twice as wrong."""

    kind: Literal["ordinal"] = "ordinal"  # type: ignore[assignment]
    metric_names: ClassVar[tuple[str, ...]] = ("rank_distance", "accuracy", "nll")

    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Mean distance of the guessed label from the gold one, beside those of classification."""
        labelled = rows.labels_B >= 0
        away = np.abs(answers.logits_NC.argmax(axis=1) - rows.labels_B)[labelled]
        base = super().compute_metrics(answers, rows, labels)
        return {"rank_distance": float(away.mean()), "accuracy": base["accuracy"], "nll": base["nll"]}
