"""Sequence to sequence (translation, summarisation): the tokens of a target that an encoder-decoder writes.

Decision record: the model shifts the labels to decoder inputs itself (families differ in how), so a unit is read at
its own place among the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from raykd.distill.signals import UNLABELLED
from raykd.head import Head
from raykd.tasks.base import EncodedBatch, EncodedRows, collate_rows
from raykd.tasks.forms import RowForm
from raykd.tasks.language import LanguageTask, Written, build_target_units, collate_language_rows
from raykd.tasks.registry import register_task
from raykd.text.batch import TextBatch
from raykd.text.codes import has_wrapped_targets
from raykd.text.padding import RIGHT, Padding
from raykd.text.prompts import encode_sources, encode_targets
from raykd.text.tokens import Tokenizer


@register_task
class Seq2Seq(LanguageTask):
    """A target that is written from a source, by an encoder and a decoder."""

    form: ClassVar[RowForm] = "source_target"
    head: ClassVar[Head] = "seq2seq"
    generates: ClassVar[bool] = True
    marks_languages: ClassVar[bool] = True
    kind: Literal["seq2seq"] = "seq2seq"
    written: tuple[Written, ...] = ("chrf", "bleu")
    """Metrics of what is generated for the held-out rows; none generates nothing."""
    max_length: int = Field(128, ge=1)
    """Longest source in tokens, special tokens included; what is longer is truncated."""
    max_target_length: int = Field(128, ge=1)
    """Longest target in tokens, the end token included."""

    @property
    def target_positions(self) -> int:
        """The decoder reads the target alone."""
        return self.max_target_length

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Source tokens of B rows, and their targets as labels; a unit is read at its own label."""
        sources = encode_sources(tokenizer, batch.texts, self.max_length, batch.source_languages or ())
        targets = encode_targets(
            tokenizer, batch.pairs or (), self.max_target_length, as_target=True, languages=batch.languages
        )
        units = build_target_units(tokenizer, batch, sources, targets)
        counts_B = np.diff(units.starts_B1)
        place_N = np.concatenate([np.empty(0, np.int64), *(np.arange(n) for n in counts_B.tolist())])
        pad_id = tokenizer.pad_token_id or 0
        fields = {
            "input_ids": sources.ids,
            "attention_mask": [np.ones_like(row) for row in sources.ids],
            "labels": targets.ids,
        }
        if has_wrapped_targets(tokenizer):  # the model would take the last token that is left of a cut target
            fields["decoder_input_ids"] = [
                np.concatenate([[last], row[:-1]])
                for last, row in zip(targets.last_B, targets.ids, strict=True)
            ]
        return EncodedRows(
            fields=fields,
            pad_values={
                "input_ids": pad_id,
                "attention_mask": 0,
                "labels": UNLABELLED,
                "decoder_input_ids": pad_id,
            },
            lengths_B=np.asarray([len(row) for row in sources.ids], dtype=np.int64) + counts_B,
            labels_N=units.labels_N,
            starts_B1=units.starts_B1,
            places_N2=np.stack([np.zeros_like(place_N), place_N], axis=1),
            extra=units.extra,
            long_B=units.long_B,
        )

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """The picked rows, with their units' offsets."""
        encoded = collate_language_rows(collate_rows(rows, picked, padding), rows, picked)
        tokens = int(encoded.inputs["labels"].numel())
        real, computed = encoded.real_tokens + int(encoded.counts_B.sum()), encoded.computed_tokens + tokens
        return replace(encoded, real_tokens=real, computed_tokens=computed)

    @property
    def prompt_tokens(self) -> int:
        """The source."""
        return self.max_length

    def lengths_key(self) -> object:
        """Targets may be cut."""
        return self.max_target_length
