"""What all tasks share: rows are encoded once, batches are padded to their own longest sequence, units are read.

Decision record: a row is encoded once, because a student sees it in every epoch. A batch is padded by
`raykd.text.padding`, because a forward pass costs in proportion to the padded length. Encoding gives each unit a
*place*, the sequence and the token whose output is read, so `gather` is one indexing operation and nothing after it
knows the task. Units beyond the model's limit have no place: they are counted, and neither trained nor taught.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_rows
from raykd.distill.objective import Objective
from raykd.distill.signals import UNLABELLED
from raykd.errors import LabelMismatchError
from raykd.head import Head
from raykd.spec import Spec
from raykd.tasks.forms import RowForm
from raykd.tasks.signature import Signature
from raykd.text.batch import TextBatch
from raykd.text.padding import RIGHT, Padding, SubBatch, pad_sequences, run_sub_batches, split_batch
from raykd.text.tokens import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class EncodedRows:
    """Rows after tokenisation, not padded. Written by a task's `encode`, read by its `collate`.

    fields: for each model input (``input_ids``, ``attention_mask``, ...) one int array a sequence.
    pad_values: what each field is padded with.
    lengths_B: tokens a row, for grouping rows of like length.
    labels_N: gold label of each unit, or `UNLABELLED`; the units of a row stand together.
    starts_B1: where each row's units begin, and where the last one's end.
    sequences_B1: where each row's sequences begin, where a row has several; None is one each.
    places_N2: of each unit the sequence (counted from the row's first) and token that is read; (-1, -1) is none.
        None where a model says one thing about a sequence.
    extra: what else a task keeps a unit or a row, by name; arrays of N or of B.
    long_B: rows that lost something to the task's limits; None where nobody looked.
    """

    fields: dict[str, list[NDArray[np.int64]]]
    pad_values: dict[str, int]
    lengths_B: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    starts_B1: NDArray[np.int64]
    sequences_B1: NDArray[np.int64] | None = None
    places_N2: NDArray[np.int64] | None = None
    extra: dict[str, NDArray[Any]] = field(default_factory=dict)
    long_B: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.lengths_B)

    @property
    def counts_B(self) -> NDArray[np.int64]:  # noqa: N802  (a shape, as the fields)
        """Units of each row."""
        return np.diff(self.starts_B1)

    @property
    def unseen(self) -> int:
        """Units without a place: what was cut off."""
        return 0 if self.places_N2 is None else int((self.places_N2[:, 0] < 0).sum())

    @property
    def coverage(self) -> float | None:
        """Share of what the task reads (words) that has a place; None where a model says one thing about a row."""
        places_N2 = self.extra.get("places_W2", self.places_N2)
        seen_N = self.extra.get("seen")
        if seen_N is None and places_N2 is not None:
            seen_N = places_N2[:, 0] >= 0
        return None if seen_N is None or not len(seen_N) else float(seen_N.mean())

    def units(self, picked: Sequence[int]) -> NDArray[np.int64]:
        """Positions of the picked rows' units, row after row."""
        return expand_ranges(self.starts_B1, picked)


@dataclass(frozen=True)
class EncodedBatch:
    """One padded batch. Written by a task's `collate`, read by the model's forward and the task's `gather`.

    inputs: keyword arguments of the model, each ``[S, L]`` int64; S sequences, one a row for most tasks.
    labels_N: int64 or `UNLABELLED`, one a unit; `UNLABELLED` where the unit was cut off.
    real_tokens, computed_tokens: before and after padding.
    counts_B: units of each row. places_N2: ``(sequence, token)`` that is read for a unit, (0, 0) where it was cut off.
    seen_N: False where a unit was cut off; None where all were seen.
    choices: C where units have choices of their own (the words of a context): those of the longest; None where the
        choices are the run's labels.
    extra: what else a task needs for `gather`.
    parts: what runs apart (`raykd.text.padding`); None where one forward pass takes the whole batch.
    shift_S: by how many places padding on the left moved each sequence's tokens; None where none was moved.
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
    parts: tuple[SubBatch, ...] | None = None
    shift_S: NDArray[np.int64] | None = None

    def run(self, model: Callable[..., object]) -> Any:
        """Return the outputs of a model, called with keyword arguments, for this batch."""
        return model(**self.inputs) if self.parts is None else run_sub_batches(model, self.inputs, self.parts)

    def to(self, device: torch.device) -> EncodedBatch:
        """The batch on another device."""
        return replace(
            self,
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            labels_N=self.labels_N.to(device),
            places_N2=None if self.places_N2 is None else self.places_N2.to(device),
            seen_N=None if self.seen_N is None else self.seen_N.to(device),
            extra={name: value.to(device) for name, value in self.extra.items()},
        )


@dataclass(frozen=True)
class SystemAnswers:
    """What one system answered to B rows. Written by evaluations, read by a task's `metrics`.

    logits_NC: raw, float32, of all units in the rows' order, `MASKED` where a unit has fewer choices than C.
    counts_B: units of each row.
    covered_N: False where the system said nothing about a unit.
    texts: what was generated for each row; None where nothing is generated.
    nll_B, tokens_B: summed negative log-likelihood of the target (nats) and its tokens; None where there is none.
    hits_B: tokens of the target that are the most likely ones; None where nobody counted.
    """

    logits_NC: NDArray[np.float32]
    counts_B: NDArray[np.int64]
    covered_N: NDArray[np.bool_]
    texts: tuple[str, ...] | None = None
    nll_B: NDArray[np.float64] | None = None
    tokens_B: NDArray[np.int64] | None = None
    hits_B: NDArray[np.int64] | None = None

    def take(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> SystemAnswers:
        """What was answered to these rows, in this order."""
        picked = np.asarray(rows, dtype=np.int64)
        units = expand_ranges(compute_starts(self.counts_B), picked)
        return SystemAnswers(
            self.logits_NC[units],
            self.counts_B[picked],
            self.covered_N[units],
            None if self.texts is None else tuple(self.texts[i] for i in picked),
            None if self.nll_B is None else self.nll_B[picked],
            None if self.tokens_B is None else self.tokens_B[picked],
            None if self.hits_B is None else self.hits_B[picked],
        )


class TaskBase(Spec):
    """What one prediction is; see the module's docstring.

    A task owns its facets: what a row of it consists of (`form`), which head of a model it reads (`head`), its metrics,
    how a prediction is shown (`predictions`) and served (`signature`, `to_columns`), what it may be combined with
    (`check`, `union_vocabulary`, `marks_languages`). Nothing outside asks of which kind a task is. A class registers
    itself with `raykd.tasks.registry.register_task`.
    """

    form: ClassVar[RowForm]
    head: ClassVar[Head]
    """The head of a model that the task reads."""
    metric_names: ClassVar[tuple[str, ...]]
    """Names of what `metrics` gives, the one that a run is judged by first."""
    labelled: ClassVar[bool] = False
    """Whether the choices are the run's labels."""
    language: ClassVar[bool] = False
    """Whether the choices are a model's own vocabulary: then it gives hidden states, and answers are short forms."""
    generates: ClassVar[bool] = False
    """Whether models of the task write text."""
    marks_languages: ClassVar[bool] = False
    """Whether models may mark sources and targets with their languages."""
    union_vocabulary: ClassVar[bool] = False
    """Whether a student may have the union of its teachers' vocabularies."""
    kind: str
    max_length: int

    def check(self, labels: Sequence[str], objective: Objective) -> None:
        """Refuses labels, and parts of an objective, that the task cannot have.

        Raises:
            ConfigError: with what to change.
        """

    @abstractmethod
    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Token ids, units and gold labels of B rows."""

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """The picked rows as a batch, padded for one model."""
        return collate_rows(rows, picked, padding)

    @abstractmethod
    def counts(self, batch: TextBatch) -> NDArray[np.int64]:
        """``[B]``: units of each row, a property of the text that every model agrees on."""

    def choices(self, batch: TextBatch, labels: Sequence[str]) -> int:
        """C: choices that a unit of these rows has, at most."""
        return len(labels)

    def mean_choices(self, batch: TextBatch, classes: int) -> float:
        """Mean number of logits in a teacher's answer to one of these rows: units times choices."""
        return float(np.mean(self.counts(batch))) * classes

    def unit_labels(self, batch: TextBatch) -> NDArray[np.int64]:
        """``[N]``: the gold label of each unit, or `UNLABELLED`."""
        return batch.labels_B

    @torch.no_grad()
    def say(self, model: Callable[..., Any], encoded: EncodedBatch) -> SystemAnswers:
        """What a model says to a batch."""
        logits_NC = self.gather(encoded.run(model), encoded).float().cpu().numpy()
        seen = np.ones(len(logits_NC), dtype=bool) if encoded.seen_N is None else encoded.seen_N.cpu().numpy()
        return SystemAnswers(logits_NC, encoded.counts_B, seen)

    @abstractmethod
    def gather(self, outputs: object, encoded: EncodedBatch) -> torch.Tensor:
        """The model's outputs as ``[N, C]`` logits, one row a unit."""

    def columns(
        self, own: Sequence[str], wanted: Sequence[str], label_map: Mapping[str, str], name: str
    ) -> tuple[tuple[int, ...], ...]:
        """For each of the run's labels the teacher's columns that are it.

        Raises:
            LabelMismatchError: a label of one list has no counterpart in the other; names both lists.
        """
        return tuple((column,) for column in map_label_columns(own, wanted, label_map, name))

    def answer(
        self, model: PreTrainedModel, encoded: EncodedBatch, columns: Sequence[Sequence[int]]
    ) -> list[bytes | None]:
        """Return what a teacher answers to each row of a batch, as `raykd.answers.codec` writes it.

        Args:
            model: The teacher's.
            encoded: The rows in its tokens.
            columns: For each of the run's labels the teacher's columns that are it.

        Returns:
            One body per row; None for a row with a logit that is not finite.
        """
        raw_NC = self.gather(encoded.run(model), encoded).float()
        logits_NC = raw_NC[:, [own[0] for own in columns]].cpu().numpy()
        covered_N = np.ones(len(logits_NC), dtype=bool)
        answer = DenseAnswer(logits_NC=logits_NC, covered_N=covered_N)
        return encode_rows(answer, encoded.counts_B, np.isfinite(logits_NC).all(axis=1))

    @property
    def settings(self) -> dict[str, Any]:
        """What a saved student must remember to be asked as it was judged: its kind, where its head serves another."""
        return {} if self.kind == self.head else {"kind": self.kind}

    @classmethod
    def served_settings(cls, longest: int) -> dict[str, Any]:
        """Return the settings with which a saved model of the task is asked.

        Args:
            longest: Tokens of the longest text that the model reads.
        """
        return {"max_length": longest}

    @classmethod
    def signature(cls, labels: Sequence[str]) -> Signature:
        """Return the columns that a saved model of the task reads, and those that it answers with."""
        raise NotImplementedError(f"{cls.__name__} is not served as a table")

    def to_columns(
        self, predictions: Sequence[Mapping[str, Any]], labels: Sequence[str]
    ) -> dict[str, list[Any]]:
        """Return predictions as the output columns of `signature`: by name a cell for each row."""
        return {
            column.name: [row[column.name] for row in predictions]
            for column in self.signature(labels).outputs
        }

    def answer_key(self) -> object:
        """What of the task changes a teacher's answer, beside labels and lengths; a part of the store's name."""
        return self.kind

    def predictions(
        self, said: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """What was answered to each row as people and programs read it: plain data, a mapping a row."""
        raise NotImplementedError(f"{self.kind} has no predictions to show")

    @abstractmethod
    def metrics(self, said: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> dict[str, float]:
        """Scores of one system on labelled rows of one language."""


def map_label_columns(
    own: Sequence[str], wanted: Sequence[str], label_map: Mapping[str, str], name: str
) -> list[int]:
    """For each of the run's labels the teacher's column.

    Raises:
        LabelMismatchError: a label of one list has no counterpart in the other; names both lists.
    """
    renamed = [label_map.get(label, label) for label in own]
    if strange := sorted(set(label_map) - set(own)):
        raise LabelMismatchError(
            f"teachers.{name}.label_map names labels that the teacher does not have",
            got=", ".join(strange),
            wanted=f"names among {list(own)}",
            next_step=f"correct it ({{its label: the run's label}}); the run's labels are {list(wanted)}",
        )
    if sorted(renamed) != sorted(wanted):
        what = f"teacher {name} has other labels than the run"
        if len(own) != len(wanted):
            what += f": {len(own)} labels cannot be paired with {len(wanted)}"
        raise LabelMismatchError(
            what,
            got=f"{list(own)}" + (f", mapped to {renamed}" if label_map else ""),
            wanted=f"{list(wanted)} in any order",
            next_step=_advise_on_labels(own, wanted, name),
        )
    return [renamed.index(label) for label in wanted]


def _advise_on_labels(own: Sequence[str], wanted: Sequence[str], name: str) -> str:
    """What to do about labels that differ: names can be mapped one to one, and only so."""
    if len(own) == len(wanted):
        return f"map the names: teachers.{name}.label_map: {{its label: the run's label}}"
    rule = "a label_map pairs one label with one label; several cannot be merged into one, and none left out, yet"
    return f"{rule}. Name a teacher with {len(wanted)} labels, or give the run (data.labels) those of this teacher"


def collate_rows(rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
    """The picked rows, padded: sequences one after the other, units with their places in the batch."""
    chosen = np.asarray(picked, dtype=np.int64)
    sequences = chosen if rows.sequences_B1 is None else expand_ranges(rows.sequences_B1, chosen)
    chosen_S = sequences.tolist()
    parts = split_batch(rows.fields, chosen_S, padding.shapes)
    if parts is not None:
        padding = replace(padding, side="right", buckets=())  # nothing is padded where parts run
    inputs = pad_sequences(rows, chosen_S, padding)
    lengths_S = np.asarray([len(rows.fields["input_ids"][s]) for s in chosen_S], dtype=np.int64)
    shift_S = inputs["input_ids"].shape[1] - lengths_S if padding.side == "left" else None
    units = chosen if rows.places_N2 is None and len(rows.labels_N) == len(rows) else rows.units(picked)
    labels_N = rows.labels_N[units]
    counts_B = rows.counts_B[chosen]
    places_N2 = seen_N = None
    if rows.places_N2 is not None:
        places, seen = rows.places_N2[units], rows.places_N2[units, 0] >= 0
        first_B = np.arange(len(chosen))
        if rows.sequences_B1 is not None:
            first_B = compute_starts(np.diff(rows.sequences_B1)[chosen])[:-1]
        shift_N = np.repeat(first_B, counts_B)
        places = np.where(seen[:, None], np.stack([places[:, 0] + shift_N, places[:, 1]], axis=1), 0)
        if shift_S is not None and "labels" not in inputs:  # targets are padded on the right
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
    )


def compute_starts(counts_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[B + 1]``: where each row's units begin, and where the last one's end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_B, dtype=np.int64)])


def expand_ranges(
    starts_B1: NDArray[np.int64], picked: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.int64]:
    """The positions ``starts[i] .. starts[i + 1] - 1`` of each picked row, row after row."""
    chosen = np.asarray(picked, dtype=np.int64)
    counts = starts_B1[chosen + 1] - starts_B1[chosen]
    inside = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    result: NDArray[np.int64] = np.repeat(starts_B1[chosen], counts) + inside
    return result
