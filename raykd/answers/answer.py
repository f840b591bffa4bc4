"""`Answer` and its forms: what a teacher answers for units of many rows.

Over a vocabulary of 100,000 a dense answer takes 400 KB per token, so a language model answers with its k largest
logits, with drawn tokens or with its hidden state. All forms are raw, at temperature 1 or with what makes any
temperature exact. So nothing that is searched has to be asked again, except the temperature of `SampledAnswer`, which
is part of the draw.

Decision record: a form is numpy, because that is what Ray and the store move. `raykd.answers.codec` writes one row's
form as bytes, `raykd.answers.compress` makes a form from a teacher's logits. An index of -1 asks for a unit that the
teacher does not have: it is not covered, and its numbers are neutral.

Shape legend beyond that of `raykd.distill.signals`: ``V`` size of a vocabulary, ``J`` most entries of a sampled unit,
``G`` temperatures of a grid, ``H`` width of a hidden state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import MASKED

PayloadKind = Literal["dense", "top_k", "sampled", "hidden"]
P = TypeVar("P", bound="Answer")
Column = NDArray[Any]
"""One entry per unit, of any dtype."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What all forms may carry beside the answer itself.

    Attributes:
        covered_N: False where the teacher has no answer (a truncated unit).
        offsets_N: int64, for language models the character of the target at which each unit's token begins, rising;
            -1 where it begins at none.
        entropy_N: float32, entropy of the teacher's whole distribution at T = 1, nats; travels as float16.
        gold_logp_N: float32, its log-probability at T = 1 of the token that the text has; travels as float16.
    """

    kind: ClassVar[PayloadKind]
    fill: ClassVar[dict[str, float]] = {}
    """Value per field of padded columns, and of units that the teacher does not have; 0 for other fields."""

    covered_N: NDArray[np.bool_]
    offsets_N: NDArray[np.int64] | None = None
    entropy_N: NDArray[np.float32] | None = None
    gold_logp_N: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for name, column in self.columns().items():
            if len(column) != len(self):
                raise ValueError(f"{name} holds {len(column)} units, covered_N {len(self)}")

    def __len__(self) -> int:
        return len(self.covered_N)

    def columns(self) -> dict[str, Column]:
        """Return the fields that hold one entry per unit, by name, without those that are None."""
        return {name: value for name, value in self._read_fields() if isinstance(value, np.ndarray)}

    def constants(self) -> dict[str, object]:
        """Return what must be equal for two answers to stand in one batch."""
        return {name: value for name, value in self._read_fields() if not isinstance(value, np.ndarray)}

    def _read_fields(self) -> Iterator[tuple[str, object]]:
        return ((f.name, getattr(self, f.name)) for f in fields(self))

    def take(self, index_N: NDArray[np.int64]) -> Self:
        """Return the units at these positions; -1 gives a unit that is not covered. Alignment reorders with it."""
        missing_N = index_N < 0
        if len(index_N) and index_N.max() >= len(self):
            raise ValueError(f"unit {index_N.max()} of an answer of {len(self)} units")
        taken = {}
        for name, column in self.columns().items():
            padding = self.fill.get(name, 0)
            if len(self):
                taken[name] = column[np.maximum(index_N, 0)]
                taken[name][missing_N] = padding
            else:  # there is no unit 0 to stand in for the missing ones
                taken[name] = np.full((len(index_N), *column.shape[1:]), padding, dtype=column.dtype)
        return replace(self, **taken)

    def rows(self, units_B: Sequence[int]) -> list[Self]:
        """Split into one answer per row, of so many units each; what the codec writes."""
        ends = np.cumsum(units_B)
        if (int(ends[-1]) if len(ends) else 0) != len(self):
            raise ValueError(f"rows of {list(units_B)} units, but {len(self)} units in all")
        spans = [slice(end - units, end) for end, units in zip(ends, units_B, strict=True)]
        return [replace(self, **{k: v[span] for k, v in self.columns().items()}) for span in spans]


@dataclass(frozen=True, kw_only=True)
class DenseAnswer(Answer):
    """All logits, for labels and for the words of a context.

    Attributes:
        logits_NC: float32, raw; rows of different C are padded with `MASKED`.
    """

    kind = "dense"
    logits_NC: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TopKAnswer(Answer):
    """The k largest raw logits, and what makes them exact probabilities at each temperature of a grid.

    Attributes:
        ids_NK: int32, of the teacher's vocabulary; -1 for none.
        logits_NK: float16, after subtracting the unit's largest logit.
        lse_NG: float32 ``logsumexp(z / T)`` over the whole vocabulary, z as it travels, for each T of `temperatures`.
            ``log p_c(T) = z_c / T - lse(T)``, and what is missing to 1 is the tail, both exact.
        temperatures: The grid, G values.
        vocab: Size of the teacher's vocabulary.
    """

    kind = "top_k"
    fill = {"ids_NK": -1}
    ids_NK: NDArray[np.int32]
    logits_NK: NDArray[np.float16]
    lse_NG: NDArray[np.float32]
    temperatures: tuple[float, ...]
    vocab: int


@dataclass(frozen=True, kw_only=True)
class SampledAnswer(Answer):
    """Tokens drawn with replacement from ``softmax(z / T)``; ``counts / draws`` is an unbiased target.

    Random-sampling distillation (Anshumann et al., ACL 2025, arXiv 2503.16870).

    Attributes:
        ids_NJ: int32, each at most once per unit; -1 for none.
        counts_NJ: uint8, how often each was drawn; sums to `draws`.
        draws: Tokens drawn per unit, at most 255.
        temperature: T.
        vocab: Size of the teacher's vocabulary.
    """

    kind = "sampled"
    fill = {"ids_NJ": -1}
    ids_NJ: NDArray[np.int32]
    counts_NJ: NDArray[np.uint8]
    draws: int
    temperature: float
    vocab: int


@dataclass(frozen=True, kw_only=True)
class HiddenAnswer(Answer):
    """The last hidden states; the teacher's output head is kept once, where the student runs.

    Attributes:
        states_NH: float16.
    """

    kind = "hidden"
    states_NH: NDArray[np.float16]


def join_answers(parts: Sequence[P]) -> P:
    """Join answers into one of all units, in order; narrower ones are padded.

    Raises:
        ValueError: There are none, forms or constants differ, or some carry what others do not.
    """
    if not parts:
        raise ValueError("no answers to join")
    first = parts[0]
    for part in parts:
        if part.kind != first.kind:
            raise ValueError(f"answers of kind {first.kind} and {part.kind} in one batch")
        if part.constants() != first.constants():
            raise ValueError(f"answers that do not fit together: {first.constants()} and {part.constants()}")
    names = first.columns()
    joined = {}
    for name in names:
        padding = MASKED if name == "logits_NC" else first.fill.get(name, 0)
        joined[name] = _concatenate([part.columns()[name] for part in parts], padding)
    return replace(first, **joined)


def _concatenate(columns: Sequence[Column], padding: float) -> Column:
    if columns[0].ndim == 1 or len({c.shape[1] for c in columns}) == 1:
        return np.concatenate(columns)
    width = max(c.shape[1] for c in columns)
    out = np.full((sum(map(len, columns)), width), padding, dtype=columns[0].dtype)
    begin = 0
    for column in columns:
        out[begin : begin + len(column), : column.shape[1]] = column
        begin += len(column)
    return out
