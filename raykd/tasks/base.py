"""Encoding that all tasks share: rows are encoded once, batches are padded to their own longest row.

Decision record: encoding is done once a row, not once a batch, because a student sees a row in every epoch;
padding is done per batch and to the batch's longest row only, because a forward pass costs in proportion to
the padded length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class Tokenizer(Protocol):
    """What raykd asks of a tokenizer; every fast tokenizer of transformers has it, `models.HashedNgrams` too."""

    @property
    def pad_token_id(self) -> int | None: ...

    def __call__(
        self, text: list[str], text_pair: list[str] | None = None, *, truncation: bool, max_length: int
    ) -> Mapping[str, Any]:
        """Token ids (and masks) of each text as lists, not padded."""
        ...

    def save_pretrained(self, save_directory: str) -> Any: ...


@dataclass(frozen=True)
class EncodedRows:
    """Rows after tokenisation, not padded. Written by a task's `encode`, read by its `collate`.

    fields: for each model input (``input_ids``, ``attention_mask``, ...) one int array a row.
    pad_values: what each field is padded with.
    lengths_B: tokens a row.
    """

    fields: dict[str, list[NDArray[np.int64]]]
    pad_values: dict[str, int]
    lengths_B: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths_B)


@dataclass(frozen=True)
class EncodedBatch:
    """One padded batch. Written by a task's `collate`, read by the model's forward and the task's `gather`.

    inputs: keyword arguments of the model, each ``[B, L]`` int64.
    labels_N: int64 or `UNLABELLED`, one a unit.
    real_tokens, computed_tokens: before and after padding.
    """

    inputs: dict[str, torch.Tensor]
    labels_N: torch.Tensor
    real_tokens: int
    computed_tokens: int

    def to(self, device: torch.device) -> EncodedBatch:
        """The batch on another device."""
        return EncodedBatch(
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            labels_N=self.labels_N.to(device),
            real_tokens=self.real_tokens,
            computed_tokens=self.computed_tokens,
        )


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> EncodedRows:
    """Runs the tokenizer over B texts (or pairs), truncating at ``max_length`` tokens."""
    encoded = tokenizer(
        list(texts), None if pairs is None else list(pairs), truncation=True, max_length=max_length
    )
    fields = {
        name: [np.asarray(row, dtype=np.int64) for row in rows]
        for name, rows in encoded.items()
        if name in ("input_ids", "attention_mask", "token_type_ids")
    }
    pad = tokenizer.pad_token_id
    return EncodedRows(
        fields=fields,
        pad_values={name: (pad or 0) if name == "input_ids" else 0 for name in fields},
        lengths_B=np.asarray([len(row) for row in fields["input_ids"]], dtype=np.int64),
    )


def pad(rows: EncodedRows, picked: Sequence[int]) -> dict[str, torch.Tensor]:
    """The picked rows as ``[B, L]`` tensors, L the longest of them."""
    width = max(1, int(max(rows.lengths_B[i] for i in picked)))
    inputs: dict[str, torch.Tensor] = {}
    for name, values in rows.fields.items():
        block = np.full((len(picked), width), rows.pad_values[name], dtype=np.int64)
        for at, i in enumerate(picked):
            block[at, : len(values[i])] = values[i]
        inputs[name] = torch.from_numpy(block)
    return inputs
