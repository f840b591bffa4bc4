"""Causal language modelling (dialogue, continuation): the tokens after a prompt, which is not trained.

Decision record: prompt and target are tokenised apart and joined, so that the border lies between two tokens in every
tokenizer and what is trained is what `generate` is asked for. A prompt that is too long loses its beginning, which is
farthest from the target, and the target its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from raykd.distill.signals import TextBatch
from raykd.tasks.base import EncodedBatch, EncodedRows, collate, starts_of
from raykd.tasks.forms import RowForm
from raykd.tasks.language import LanguageTask, language_batch, row_seeds, target_tokens, vocabulary_size
from raykd.text.padding import RIGHT, Padding
from raykd.text.tokens import Tokenizer


class CausalLM(LanguageTask):
    """A target that follows a prompt (which may be empty), by a decoder."""

    form: ClassVar[RowForm] = "target"
    kind: Literal["causal_lm"] = "causal_lm"
    max_length: int = Field(256, ge=2)
    """Longest prompt and target together, in tokens, special tokens included."""
    max_target_length: int = Field(128, ge=1)
    """Longest target in tokens, the end token included."""

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> CausalLM:
        if self.max_target_length >= self.max_length:
            raise ValueError(
                f"max_target_length {self.max_target_length} leaves no room before max_length {self.max_length}"
            )
        return self

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Prompt and target tokens of B rows; a unit is read at the token before it."""
        targets = target_tokens(tokenizer, batch.pairs or (), self.max_target_length, as_target=False)
        prompts = self._prompts(tokenizer, batch.texts)
        ids, counts, places = [], [], []
        for prompt, (target, _) in zip(prompts, targets, strict=True):
            kept = prompt[max(0, len(prompt) - (self.max_length - len(target))) :]
            ids.append(np.concatenate([kept, target]))
            counts.append(len(target))
            places.append(len(kept) - 1 + np.arange(len(target)))
        flat = np.concatenate([np.empty(0, np.int64), *places])
        return EncodedRows(
            fields={"input_ids": ids, "attention_mask": [np.ones_like(row) for row in ids]},
            pad_values={"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0},
            lengths_B=np.asarray([len(row) for row in ids], dtype=np.int64),
            labels_N=np.concatenate([np.empty(0, np.int64), *(row for row, _ in targets)]),
            starts_B1=starts_of(np.asarray(counts, dtype=np.int64)),
            places_N2=np.stack([np.zeros_like(flat), flat], axis=1),
            extra={
                "offsets_N": np.concatenate([np.empty(0, np.int64), *(row for _, row in targets)]),
                "seeds_B": row_seeds(batch),
                "vocabulary": np.asarray(vocabulary_size(tokenizer)),
            },
        )

    def _prompts(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each prompt, at least the token that begins a text; without an end token."""
        call: Any = tokenizer
        begin = getattr(tokenizer, "bos_token_id", None)
        end = getattr(tokenizer, "eos_token_id", None)
        first = begin if begin is not None else end
        rows = []
        for ids in call(list(texts))["input_ids"]:
            ended = len(ids) > 1 and ids[-1] == end and end != begin
            kept = ids[:-1] if ended else ids
            rows.append(np.asarray(kept if len(kept) else [first or 0], dtype=np.int64))
        return rows

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """The picked rows, with their units' offsets."""
        return language_batch(collate(rows, picked, padding), rows, picked)

    @property
    def prompt_tokens(self) -> int:
        """What a target leaves of the whole."""
        return self.max_length - self.max_target_length

    def lengths_key(self) -> Any:
        """Targets may be cut."""
        return self.max_target_length
