"""Classification of a text or a pair of texts: the unit is the row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.distill.signals import TextBatch
from raykd.spec import Spec
from raykd.tasks import metrics
from raykd.tasks.base import EncodedBatch, EncodedRows, Tokenizer, pad, tokenize


class Classification(Spec):
    """One label a row; N = B."""

    kind: Literal["classification"] = "classification"
    max_length: int = 128
    """Longest text in tokens, special tokens included; what is longer is truncated."""

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Token ids of B rows."""
        return tokenize(tokenizer, batch.texts, batch.pairs, self.max_length)

    def collate(self, rows: EncodedRows, labels_B: NDArray[np.int64], picked: Sequence[int]) -> EncodedBatch:
        """The picked rows as a padded batch."""
        inputs = pad(rows, picked)
        return EncodedBatch(
            inputs=inputs,
            labels_N=torch.from_numpy(np.ascontiguousarray(labels_B[np.asarray(picked, dtype=np.int64)])),
            real_tokens=int(rows.lengths_B[np.asarray(picked, dtype=np.int64)].sum()),
            computed_tokens=int(inputs["input_ids"].numel()),
        )

    def gather(self, logits: torch.Tensor, encoded: EncodedBatch) -> torch.Tensor:
        """``[B, C]`` logits are already one a unit."""
        if logits.ndim != 2 or logits.shape[0] != encoded.labels_N.shape[0]:
            raise ValueError(f"a classifier gives [B, C] logits, got {tuple(logits.shape)}")
        return logits

    def metrics(self, logits_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> dict[str, float]:
        """Accuracy, macro-F1, NLL and ECE of labelled units; see `raykd.tasks.metrics`."""
        return metrics.classification(logits_NC, labels_N)
