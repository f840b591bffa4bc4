"""The forms in which a teacher answers for units of many rows: what travels, what is stored, and in how many bytes.

A vocabulary of 100,000 makes a dense answer 200 KB a token, so a language model answers with one of three short
forms, or with its hidden state. All are raw, at temperature 1 or with what makes a temperature exact, so that
nothing that is searched has to be asked again (except the temperature of `SampledAnswer`, which is part of the draw).

Decision record: a form is numpy, because that is what Ray and the store move; `raykd.answers.codec` writes one row's
form as bytes, `raykd.answers.compress` makes a form from a teacher's logits. A unit that an index of -1 asks for is
one the teacher does not have: it is not covered, and its numbers are neutral.

Shape legend beyond that of `signals`: ``V`` size of a vocabulary, ``J`` most entries of a sampled unit, ``G``
temperatures of a grid, ``H`` width of a hidden state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import MASKED

PayloadKind = Literal["dense", "top_k", "sampled", "hidden"]
P = TypeVar("P", bound="Answer")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What all forms may carry beside the answer itself.

    covered_N: False where the teacher has nothing to say (a truncated unit).
    offsets_N: int64, of language models the character of the target at which each unit's token begins; never falls,
        but for -1 where it begins none.
    entropy_N: float32, entropy of the teacher's whole distribution at T = 1, nats; travels as float16.
    gold_logp_N: float32, its log-probability at T = 1 of the token that the text has; travels as float16.
    """

    kind: ClassVar[PayloadKind]
    fill: ClassVar[dict[str, float]] = {}
    """What a padded column of each field holds, and a unit the teacher does not have; 0 where not named."""

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

    def columns(self) -> dict[str, NDArray[Any]]:
        """The fields that hold one entry a unit, by name; those that are None are left out."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in pairs if isinstance(value, np.ndarray)}

    def constants(self) -> dict[str, Any]:
        """What must be equal for two answers to stand in one batch."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if not isinstance(getattr(self, f.name), np.ndarray)
        }

    def take(self: P, index_N: NDArray[np.int64]) -> P:
        """The units at these positions; -1 gives a unit that is not covered. How alignment reorders an answer."""
        missing_N = index_N < 0
        if len(index_N) and index_N.max() >= len(self):
            raise ValueError(f"unit {index_N.max()} of an answer of {len(self)} units")
        if not len(self):
            return self._empty(len(index_N))
        taken = {name: column[np.maximum(index_N, 0)] for name, column in self.columns().items()}
        for name, column in taken.items():
            column[missing_N] = self.fill.get(name, 0)
        return replace(self, **taken)

    def _empty(self: P, units: int) -> P:
        made = {
            name: np.full((units, *column.shape[1:]), self.fill.get(name, 0), dtype=column.dtype)
            for name, column in self.columns().items()
        }
        return replace(self, **made)

    def rows(self: P, units_B: Sequence[int]) -> list[P]:
        """One answer a row, of so many units each; what the codec writes."""
        ends = np.cumsum(units_B)
        if (int(ends[-1]) if len(ends) else 0) != len(self):
            raise ValueError(f"rows of {list(units_B)} units, but {len(self)} units in all")
        spans = [slice(end - units, end) for end, units in zip(ends, units_B, strict=True)]
        return [replace(self, **{k: v[span] for k, v in self.columns().items()}) for span in spans]


@dataclass(frozen=True, kw_only=True)
class DenseAnswer(Answer):
    """All logits, for labels and for the words of a context.

    logits_NC: float32, raw; rows of different C are padded with `MASKED`.
    """

    kind = "dense"
    logits_NC: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TopKAnswer(Answer):
    """The k largest raw logits, and what makes them probabilities at each temperature of a grid, exactly.

    ids_NK: int32, of the teacher's vocabulary of `vocab` tokens; -1 for none.
    logits_NK: float16, after subtracting the unit's largest logit.
    lse_NG: float32 ``logsumexp(z / T)`` over the whole vocabulary, z as it travels, for each T of `temperatures`:
        ``log p_c(T) = z_c / T - lse(T)``, and what is missing to 1 is the tail, both exact.
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

    ids_NJ: int32, each at most once a unit; -1 for none. counts_NJ: uint8, sums to `draws`, at most 255.
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
    """The last hidden state, float16 ``[N, H]``; the teacher's output head is kept once where the student runs."""

    kind = "hidden"
    states_NH: NDArray[np.float16]


def join_answers(parts: Sequence[P]) -> P:
    """One answer of all units, in order; narrower ones are padded.

    Raises:
        ValueError: none at all, forms or constants differ, or some carry what others do not.
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
    joined = {
        name: _padded_concat([p.columns()[name] for p in parts], _padding(first, name)) for name in names
    }
    return replace(first, **joined)


def _padding(payload: Answer, name: str) -> float:
    return MASKED if name == "logits_NC" else payload.fill.get(name, 0)


def _padded_concat(columns: Sequence[NDArray[Any]], padding: float) -> NDArray[Any]:
    if columns[0].ndim == 1 or len({c.shape[1] for c in columns}) == 1:
        return np.concatenate(columns)
    width = max(c.shape[1] for c in columns)
    out = np.full((sum(map(len, columns)), width), padding, dtype=columns[0].dtype)
    begin = 0
    for column in columns:
        out[begin : begin + len(column), : column.shape[1]] = column
        begin += len(column)
    return out
