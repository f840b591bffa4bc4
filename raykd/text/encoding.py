"""Hold tokenised rows, collate them to batches, and find where each unit is read.

Decision record: a row is encoded once, because a student sees it in every epoch. A batch is padded by
`raykd.text.padding`, because a forward pass costs in proportion to the padded length. Encoding gives each unit a
*place*, the sequence and the token whose output is read, so gathering is one indexing operation and nothing after it
knows the task. Units beyond the model's limit have no place: they are counted, and neither trained nor taught.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.compat.transformers_private import knowing_padding
from raykd.devices import copy_to_device
from raykd.distill.signals import UNLABELLED
from raykd.text.padding import (
    BAG_STARTS,
    RIGHT,
    Padding,
    SubBatch,
    drop_copies,
    join_sequences,
    pad_sequences,
    run_sub_batches,
    split_batch,
)
from raykd.text.ragged import Ragged, compute_starts, count_ranges, expand_ranges
from raykd.text.tokens import ADAPTER_IDS

if TYPE_CHECKING:
    Array = NDArray[Any]
    """Numbers or truth values."""


@dataclass(frozen=True)
class EncodedRows:
    """Rows after tokenisation, not padded. Made by a task's `encode`, read by its `collate`.

    Arrays may be mapped from files, so that nothing but the rows of a batch is read of them.

    Attributes:
        fields: For each model input (``input_ids``, ``attention_mask``, ...) one int array per sequence; kept as
            `Ragged`, whatever they are given as.
        pad_values: The id that pads each field.
        lengths_B: Tokens per row, for grouping rows of like length.
        labels_N: The gold label of each unit, or `UNLABELLED`; the units of a row stand together.
        starts_B1: Where each row's units begin, and where the last row's end.
        sequences_B1: Where each row's sequences begin; None where every row has one.
        places_N2: For each unit the sequence (counted from the row's first) and the token that is read; (-1, -1)
            where the unit was cut off. None where a model says one thing about a sequence.
        extra: What else a task stores per unit or row, by name; arrays of N or of B. A name that ends with 1
            (``words_B1``) says where each row's part of another array begins.
        long_B: Rows that lost something to the task's limits; None where nobody looked.
    """

    fields: Mapping[str, Sequence[NDArray[np.int64]]]
    pad_values: dict[str, int]
    lengths_B: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    starts_B1: NDArray[np.int64]
    sequences_B1: NDArray[np.int64] | None = None
    places_N2: NDArray[np.int64] | None = None
    extra: dict[str, Array] = field(default_factory=dict)
    long_B: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", {name: Ragged.of(rows) for name, rows in self.fields.items()})

    def __len__(self) -> int:
        return len(self.lengths_B)

    @property
    def counts_B(self) -> NDArray[np.int64]:  # noqa: N802  (a shape, as the fields)
        """Units of each row."""
        return np.diff(self.starts_B1)

    @property
    def adapters_B(self) -> NDArray[np.int64] | None:  # noqa: N802  (a shape)
        """Number of each row's adapter; None where the same weights read all rows."""
        if (ids := self.fields.get(ADAPTER_IDS)) is None:
            return None
        first = slice(-1) if self.sequences_B1 is None else self.sequences_B1[:-1]
        ragged = Ragged.of(ids)
        found: NDArray[np.int64] = np.asarray(ragged.values[ragged.starts_S1[first]], dtype=np.int64)
        return found

    @property
    def coverage(self) -> float | None:
        """Share of the units (of question answering: words) that the model sees; None where it always sees all."""
        places_N2 = self.extra.get("places_W2", self.places_N2)
        seen_N = self.extra.get("seen")
        if seen_N is None and places_N2 is not None:
            seen_N = places_N2[:, 0] >= 0
        return None if seen_N is None or not len(seen_N) else float(seen_N.mean())

    def find_units(self, picked: Sequence[int]) -> NDArray[np.int64]:
        """Return the positions of the picked rows' units, row after row."""
        return expand_ranges(self.starts_B1, picked)


class ModelOutputs(Protocol):
    """The outputs that tasks read. A model has those of its head only.

    Attributes:
        logits: ``[S, C]`` or ``[S, L, C]``.
        start_logits: ``[S, L]``, of question answering.
        end_logits: ``[S, L]``, of question answering.
        hidden: ``[S, L, D]`` last hidden states, of language models without their output head.
        transitions: ``[S, C + 2, C]``, of taggers with a chain, each sequence's the same (`raykd.networks.crf`).
    """

    logits: torch.Tensor
    start_logits: torch.Tensor
    end_logits: torch.Tensor
    hidden: torch.Tensor
    transitions: torch.Tensor


@dataclass(frozen=True)
class EncodedBatch:
    """One padded batch. Made by a task's `collate`, read by the model's forward pass and the task's `gather`.

    Attributes:
        inputs: Keyword arguments of the model, each ``[S, L]`` int64; S sequences, for most tasks one per row. Where
            they are joined, ``[T]`` ids and the ``[S]`` places at which they begin.
        labels_N: int64 gold label of each unit; `UNLABELLED` also where the unit was cut off.
        real_tokens: Tokens before padding.
        computed_tokens: Tokens after padding.
        counts_B: Units of each row.
        places_N2: ``(sequence, token)`` that is read for each unit; (0, 0) where the unit was cut off.
        seen_N: False where a unit was cut off; None where all were seen.
        choices: C of the row with the most choices, where choices differ from row to row (the words of a context);
            None where the choices are the run's labels.
        extra: What else a task needs for `gather`, on the device.
        host: What else it needs on the host; it is never moved.
        parts: Sequences that run apart (`raykd.text.padding`); None where one forward pass takes the whole batch.
        shift_S: Places by which padding on the left moved each sequence's tokens; None where none was moved.
        sequences: How many sequences are the rows' own, where copies fill the batch (`Padding.sequences`); else None.
        padded: Whether the attention mask hides a place; None where nobody looked.
    """

    inputs: dict[str, torch.Tensor]
    labels_N: torch.Tensor
    real_tokens: int
    computed_tokens: int
    counts_B: NDArray[np.int64]
    places_N2: torch.Tensor | None = None
    seen_N: torch.Tensor | None = None
    choices: int | None = None
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    host: dict[str, Array] = field(default_factory=dict)
    parts: tuple[SubBatch, ...] | None = None
    shift_S: NDArray[np.int64] | None = None
    sequences: int | None = None
    padded: bool | None = None

    @property
    def joined(self) -> bool:
        """Whether the sequences stand one behind the other."""
        return BAG_STARTS in self.inputs

    def run(self, model: Callable[..., object]) -> ModelOutputs:
        """Return the outputs of a model for this batch; the model is called with keyword arguments."""
        if self.parts is not None:
            return cast("ModelOutputs", run_sub_batches(model, self.inputs, self.parts))
        with knowing_padding(self.padded):
            outputs = model(**self.inputs)
        if self.sequences is not None:
            outputs = drop_copies(outputs, self.sequences)
        return cast("ModelOutputs", outputs)

    def to(self, device: torch.device) -> EncodedBatch:
        """Return the batch on another device; copies to a GPU are queued, not waited for."""
        return replace(
            self,
            inputs={name: copy_to_device(value, device) for name, value in self.inputs.items()},
            labels_N=copy_to_device(self.labels_N, device),
            places_N2=None if self.places_N2 is None else copy_to_device(self.places_N2, device),
            seen_N=None if self.seen_N is None else copy_to_device(self.seen_N, device),
            extra={name: copy_to_device(value, device) for name, value in self.extra.items()},
        )

    def find_rows(self) -> torch.Tensor:
        """Return ``[N]``: the row of each unit, on the device."""
        row_N = np.repeat(np.arange(len(self.counts_B)), self.counts_B)
        return copy_to_device(torch.from_numpy(row_N), self.labels_N.device)

    def find_seen(self) -> NDArray[np.bool_]:
        """Return ``[N]``: whether the model saw each unit."""
        return np.ones(len(self.labels_N), dtype=bool) if self.seen_N is None else self.seen_N.cpu().numpy()


def collate_rows(rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
    """Pad the picked rows to one batch: their sequences one after the other, units with their places in the batch."""
    chosen = np.asarray(picked, dtype=np.int64)
    sequences = chosen if rows.sequences_B1 is None else expand_ranges(rows.sequences_B1, chosen)
    chosen_S = sequences.tolist()
    parts = split_batch(rows.fields, chosen_S, padding.shapes)
    if parts is not None:
        # Nothing is padded where parts run.
        padding = replace(padding, side="right", buckets=(), target_buckets=(), sequences=0, joined=False)
    copies = [chosen_S[-1]] * (padding.sequences - len(chosen_S)) if chosen_S else []
    inputs = (
        join_sequences(rows, sequences)
        if padding.joined
        else pad_sequences(rows, [*chosen_S, *copies], padding)
    )
    lengths_S = count_ranges(cast("Ragged", rows.fields["input_ids"]).starts_S1, sequences)
    shift_S = inputs["input_ids"].shape[1] - lengths_S if padding.side == "left" else None
    units = chosen if rows.places_N2 is None and len(rows.labels_N) == len(rows) else rows.find_units(picked)
    labels_N = rows.labels_N[units]
    counts_B = count_ranges(rows.starts_B1, chosen)
    places_N2 = seen_N = None
    if rows.places_N2 is not None:
        places, seen = rows.places_N2[units], rows.places_N2[units, 0] >= 0
        first_B = np.arange(len(chosen))
        if rows.sequences_B1 is not None:
            first_B = compute_starts(count_ranges(rows.sequences_B1, chosen))[:-1]
        shift_N = np.repeat(first_B, counts_B)
        places = np.where(seen[:, None], np.stack([places[:, 0] + shift_N, places[:, 1]], axis=1), 0)
        if padding.joined:
            places[:, 1] += compute_starts(lengths_S)[places[:, 0]]
            places[:, 0] = 0
        # Units of an encoder-decoder are read among its targets, which are padded on the right whatever the side.
        if shift_S is not None and "labels" not in inputs:
            places[:, 1] += np.where(seen, shift_S[places[:, 0]], 0)
        places_N2 = torch.from_numpy(places)
        if not seen.all():
            seen_N, labels_N = torch.from_numpy(seen), np.where(seen, labels_N, UNLABELLED)
    return EncodedBatch(
        inputs=inputs,
        labels_N=torch.from_numpy(np.ascontiguousarray(labels_N)),
        real_tokens=int(lengths_S.sum()),
        computed_tokens=int(inputs["input_ids"].numel()) if parts is None else int(lengths_S.sum()),
        counts_B=counts_B,
        places_N2=places_N2,
        seen_N=seen_N,
        parts=parts,
        shift_S=shift_S,
        sequences=len(chosen_S) if copies else None,
        padded=not inputs["attention_mask"].numpy().all() if "attention_mask" in inputs else None,
    )
