"""Sequence to sequence (translation, summarisation): the tokens of a target that an encoder-decoder writes.

Decision record: the model shifts the labels to decoder inputs itself (families differ in how), so a unit is read at
its own place among the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from raykd.distill.signals import UNLABELLED, TextBatch
from raykd.tasks.base import EncodedBatch, EncodedRows, collate, starts_of
from raykd.tasks.forms import RowForm
from raykd.tasks.language import (
    LanguageTask,
    Written,
    language_batch,
    row_seeds,
    target_tokens,
    vocabulary_size,
)
from raykd.text.padding import RIGHT, Padding
from raykd.text.tokens import Tokenizer, tokenize


class Seq2Seq(LanguageTask):
    """A target that is written from a source, by an encoder and a decoder."""

    form: ClassVar[RowForm] = "source_target"
    kind: Literal["seq2seq"] = "seq2seq"
    written: tuple[Written, ...] = ("chrf", "bleu")
    max_length: int = Field(128, ge=1)
    """Longest source in tokens, special tokens included; what is longer is truncated."""
    max_target_length: int = Field(128, ge=1)
    """Longest target in tokens, the end token included."""

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Source tokens of B rows, and their targets as labels; a unit is read at its own label."""
        source = tokenize(tokenizer, batch.texts, None, self.max_length)
        targets = target_tokens(tokenizer, batch.pairs or (), self.max_target_length, as_target=True)
        counts_B = np.asarray([len(row) for row, _ in targets], dtype=np.int64)
        place_N = np.concatenate([np.empty(0, np.int64), *(np.arange(n) for n in counts_B.tolist())])
        return EncodedRows(
            fields={name: rows for name, rows in source.fields.items() if name != "token_type_ids"}
            | {"labels": [row for row, _ in targets]},
            pad_values={**source.pad_values, "labels": UNLABELLED},
            lengths_B=source.lengths_B + counts_B,
            labels_N=np.concatenate([np.empty(0, np.int64), *(row for row, _ in targets)]),
            starts_B1=starts_of(counts_B),
            places_N2=np.stack([np.zeros_like(place_N), place_N], axis=1),
            extra={
                "offsets_N": np.concatenate([np.empty(0, np.int64), *(row for _, row in targets)]),
                "seeds_B": row_seeds(batch),
                "vocabulary": np.asarray(vocabulary_size(tokenizer)),
            },
        )

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """The picked rows, with their units' offsets."""
        encoded = language_batch(collate(rows, picked, padding), rows, picked)
        tokens = int(encoded.inputs["labels"].numel())
        real, computed = encoded.real_tokens + int(encoded.counts_B.sum()), encoded.computed_tokens + tokens
        return replace(encoded, real_tokens=real, computed_tokens=computed)

    @property
    def prompt_tokens(self) -> int:
        """The source."""
        return self.max_length

    def lengths_key(self) -> Any:
        """Targets may be cut."""
        return self.max_target_length
