"""Model language causally (dialogue, continuation): units are the tokens after a prompt, which is not trained.

Decision record: prompt and target are tokenised apart and joined, so that the border lies between two tokens in every
tokenizer and what is trained is what `generate_texts` is asked for. A prompt that is too long loses its beginning,
which is farthest from the target, and the target its end. A prompt's limit does not depend on its target's length,
because where the target is still to be written nobody knows it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from raykd.head import Head
from raykd.tasks.forms import RowForm
from raykd.tasks.kinds.language import LanguageTask, build_target_rows
from raykd.tasks.registry import register_task
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedRows
from raykd.text.prompts import encode_prompts, encode_targets
from raykd.text.ragged import count_each
from raykd.text.tokens import Tokenizer


@register_task
class CausalLM(LanguageTask):
    """A target that follows a prompt (which may be empty), by a decoder."""

    form: ClassVar[RowForm] = "target"
    head: ClassVar[Head] = "causal_lm"
    generates: ClassVar[bool] = True
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
        """Return the prompt and target tokens of B rows; a unit is read at the token before it."""
        targets = encode_targets(tokenizer, batch.pairs or (), self.max_target_length, as_target=False)
        prompts = encode_prompts(tokenizer, batch.texts, self.prompt_tokens)
        ids = [np.concatenate(row) for row in zip(prompts.ids, targets.ids, strict=True)]
        return build_target_rows(
            tokenizer,
            batch,
            prompts,
            targets,
            fields={"input_ids": ids, "attention_mask": [np.ones_like(row) for row in ids]},
            pad_values={"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0},
            first_B=count_each(prompts.ids) - 1,
            lengths_B=count_each(ids),
        )

    @property
    def prompt_tokens(self) -> int:
        """Tokens that the longest target leaves of the whole."""
        return max(1, self.max_length - self.max_target_length)

    def build_lengths_key(self) -> object:
        """Return the limit at which targets are cut."""
        return self.max_target_length
