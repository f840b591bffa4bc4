"""Model sequence to sequence (translation, summarisation): units are the tokens that an encoder-decoder writes.

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
from raykd.tasks.forms import RowForm
from raykd.tasks.kinds.language import LanguageTask, Written, build_target_rows
from raykd.tasks.registry import register_task
from raykd.text.batch import TextBatch
from raykd.text.codes import has_wrapped_targets
from raykd.text.encoding import EncodedBatch, EncodedRows
from raykd.text.padding import RIGHT, Padding
from raykd.text.prompts import encode_sources, encode_targets
from raykd.text.ragged import count_each
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
        """Places of the longest target, which the decoder reads alone."""
        return self.max_target_length

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return the source tokens of B rows, and their targets as labels; a unit is read at its own label."""
        sources = encode_sources(
            tokenizer, batch.texts, self.max_length, batch.source_languages or (), batch.languages
        )
        targets = encode_targets(
            tokenizer, batch.pairs or (), self.max_target_length, as_target=True, languages=batch.languages
        )
        pad_id = tokenizer.pad_token_id or 0
        fields = {
            "input_ids": sources.ids,
            "attention_mask": [np.ones_like(row) for row in sources.ids],
            "labels": targets.ids,
        }
        # Left to itself the model would begin with the last token that is left of a cut target.
        if has_wrapped_targets(tokenizer):
            fields["decoder_input_ids"] = [
                np.concatenate([[last], row[:-1]])
                for last, row in zip(targets.last_B, targets.ids, strict=True)
            ]
        return build_target_rows(
            tokenizer,
            batch,
            sources,
            targets,
            fields=fields,
            pad_values={
                "input_ids": pad_id,
                "attention_mask": 0,
                "labels": UNLABELLED,
                "decoder_input_ids": pad_id,
            },
            first_B=np.zeros(len(batch), dtype=np.int64),
            lengths_B=count_each(sources.ids) + count_each(targets.ids),
        )

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """Return the picked rows as a batch; the targets' tokens count as computed too."""
        encoded = super().collate(rows, picked, padding)
        tokens = int(encoded.inputs["labels"].numel())
        real, computed = encoded.real_tokens + int(encoded.counts_B.sum()), encoded.computed_tokens + tokens
        return replace(encoded, real_tokens=real, computed_tokens=computed)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the source."""
        return self.max_length

    def build_lengths_key(self) -> object:
        """Return the limit at which targets are cut."""
        return self.max_target_length
