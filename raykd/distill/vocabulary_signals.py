"""Signals over a vocabulary: one class per form of answer, as tensors for the student's own units.

Decision record: what differs between forms is here and in `raykd.distill.parts`, so that divergences need not know it.
Ids are the student's: a teacher of another vocabulary is translated once, by an `IdMap`, when its answer becomes a
signal, and tokens that the student lacks fall into the tail. Temperature is applied here, exactly. One for which the
teacher sent no log-sum-exp is an error; nothing is estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.distill.logitmap import PLAIN, LogitMap
from raykd.distill.signals import MASKED, Support, VocabularySignal
from raykd.distill.targets import LOG_FLOOR

IMPOSSIBLE = -2
"""The column of a token that does not begin with what the student has read (`CutSignal`)."""
TAIL_FLOOR = 1e-7
"""Smallest mass of a tail that has tokens: float32 cannot tell less from 0 when it is 1 minus a sum."""


@dataclass(frozen=True)
class IdMap:
    """What two vocabularies share, by id. Built once per teacher by `of`.

    Attributes:
        student_of_V: int64, the student's id for each of the teacher's tokens, or -1.
        teacher_K: The shared tokens, as the teacher's ids.
        student_K: The same tokens in the same order, as the student's ids.
        teacher_rest: All other ids of the teacher.
        student_rest: All other ids of the student.
        student_vocab: Size of the student's vocabulary.
    """

    student_of_V: torch.Tensor
    teacher_K: torch.Tensor
    student_K: torch.Tensor
    teacher_rest: torch.Tensor
    student_rest: torch.Tensor
    student_vocab: int

    @property
    def total(self) -> bool:
        """Whether each of the teacher's tokens is one of the student's.

        Then each token that the teacher draws is one of the student's, and the draw stays unbiased.
        """
        return not len(self.teacher_rest)

    @staticmethod
    def of(
        student_of_V: NDArray[np.integer], student_vocab: int, device: torch.device | None = None
    ) -> IdMap:
        """Build the map from the student's id for each of the teacher's, -1 where the student has no such token.

        Raises:
            ValueError: Two tokens of the teacher stand for one of the student's, or an id is out of range.
        """
        ids_V = np.asarray(student_of_V, dtype=np.int64)
        shared = np.flatnonzero(ids_V >= 0)
        if len(np.unique(ids_V[shared])) < len(shared) or (len(shared) and ids_V.max() >= student_vocab):
            raise ValueError(
                f"a map of {len(ids_V)} tokens to {student_vocab}: each of the student's may stand once, "
                "and must be below its vocabulary's size"
            )
        rest = np.setdiff1d(np.arange(student_vocab), ids_V[shared])

        def tensor(array: NDArray[np.int64]) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        return IdMap(
            student_of_V=tensor(ids_V),
            teacher_K=tensor(shared),
            student_K=tensor(ids_V[shared]),
            teacher_rest=tensor(np.flatnonzero(ids_V < 0)),
            student_rest=tensor(rest),
            student_vocab=student_vocab,
        )


@dataclass(frozen=True)
class TokenColumns:
    """Groups of tokens that a teacher and a student of other tokens are compared over; see `raykd.answers.cuts`.

    Attributes:
        teacher_V: int64, the column of each of the teacher's tokens, `width` for the tail.
        student_S: int64, likewise of the student's.
        width: Number of groups.
    """

    teacher_V: torch.Tensor
    student_S: torch.Tensor
    width: int


@dataclass(frozen=True, kw_only=True)
class WholeSignal(VocabularySignal):
    """Logits of the teacher's whole vocabulary: as they came, or from hidden states chunk by chunk.

    Attributes:
        rows_ND: Logits ``[N, V]``; hidden states where `weight_VD` is given.
        weight_VD: The teacher's output head, cut to its true vocabulary.
        bias_V: Of that head.
        after: What the teacher does to the product of both.
        ids: For a teacher whose tokens are all the student's, which they are; compared over these and a tail.
        columns: For a teacher of other tokens, the groups that are compared, and a tail.
        own_vocabulary: Whether the vocabulary is another one and nothing is matched, for losses by rank.
    """

    shared: ClassVar[frozenset[str]] = frozenset({"weight_VD", "bias_V"})

    rows_ND: torch.Tensor
    weight_VD: torch.Tensor | None = None
    bias_V: torch.Tensor | None = None
    after: LogitMap = PLAIN
    ids: IdMap | None = None
    columns: TokenColumns | None = None
    own_vocabulary: bool = False

    @property
    def support(self) -> Support:
        if self.own_vocabulary:
            return "own"
        return "whole" if self.ids is None and self.columns is None else "tail"

    def logits(self) -> torch.Tensor:
        with torch.no_grad():
            if self.weight_VD is None:
                return self.rows_ND.float()
            rows_ND = self.rows_ND.to(self.weight_VD.dtype)
            return self.after(torch.nn.functional.linear(rows_ND, self.weight_VD, self.bias_V)).float()


@dataclass(frozen=True, kw_only=True)
class SparseSignal(VocabularySignal):
    """Some tokens of the student's vocabulary.

    Attributes:
        ids_NK: int64, each at most once per unit; -1 for none.
        vocab: Size of the student's vocabulary.
    """

    ids_NK: torch.Tensor
    vocab: int

    def target(self, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return p and log p, ``[N, K + 1]``, the last column for all tokens that are not among the ids.

        Raises:
            ValueError: The answer does not hold this temperature.
        """
        raise NotImplementedError

    def merge(self, student_NK: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return the student's logits, gathered at the ids with a tail, over the columns of `target`."""
        return student_NK


@dataclass(frozen=True, kw_only=True)
class TopKSignal(SparseSignal):
    """The k largest logits; see `raykd.answers.answer.TopKAnswer`. Logits are float32 here."""

    logits_NK: torch.Tensor
    lse_NG: torch.Tensor
    temperatures: tuple[float, ...]

    @property
    def support(self) -> Support:
        return "tail"

    def target(self, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            at = _find_temperature(temperature, self.temperatures)
            lse_N1 = self.lse_NG[:, at : at + 1]
            held_NK = self.ids_NK >= 0
            logp_NK = torch.where(held_NK, self.logits_NK / temperature - lse_N1, LOG_FLOOR)
            tail_N1 = (1.0 - logp_NK.exp().sum(dim=-1, keepdim=True)).clamp_min(TAIL_FLOOR)
            if self.ids_NK.shape[1] >= self.vocab:
                tail_N1 = torch.where(held_NK.all(dim=-1, keepdim=True), 0.0, tail_N1)
            return _append_tail(logp_NK, tail_N1)


@dataclass(frozen=True, kw_only=True)
class CutSignal(TopKSignal):
    """The k largest logits of a teacher that cuts texts otherwise, over the student's tokens; see `raykd.answers.cuts`.

    Logits are of the teacher's tokens, and ids, ``[N, J]``, of the student's.

    Attributes:
        column_NK: int64, to which of W columns the probability of each goes; -1 for the tail, -2 where the token is
            impossible.
        inside_N: Whether the probability of what is possible is made to sum to 1.
        group_NJ: int64, to which of the W columns each of the ids belongs.
        width: W.
    """

    column_NK: torch.Tensor
    inside_N: torch.Tensor
    group_NJ: torch.Tensor
    width: int

    def target(self, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            at = _find_temperature(temperature, self.temperatures)
            p_NK = (self.logits_NK / temperature - self.lse_NG[:, at : at + 1]).exp()
            p_NK = torch.where(self.column_NK > IMPOSSIBLE, p_NK, 0.0)
            possible_N1 = p_NK.sum(dim=-1, keepdim=True).clamp_min(TAIL_FLOOR)
            p_NK = torch.where(self.inside_N[:, None], p_NK / possible_N1, p_NK)
            p_NK = torch.where(self.column_NK >= 0, p_NK, 0.0)
            p_NW = p_NK.new_zeros(len(p_NK), self.width).scatter_add(1, self.column_NK.clamp_min(0), p_NK)
            tail_N1 = (1.0 - p_NW.sum(dim=-1, keepdim=True)).clamp_min(TAIL_FLOOR)
            if self.ids_NK.shape[1] >= self.vocab:  # where the student has no other token its tail is 0
                held_N1 = (self.ids_NK >= 0).sum(dim=-1, keepdim=True)
                tail_N1 = torch.where(held_N1 >= self.vocab, 0.0, tail_N1)
            return _append_tail(p_NW.log().clamp_min(LOG_FLOOR), tail_N1)

    def merge(self, student_NK: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return ``T logsumexp(s / T)`` of each group, so that a softmax at T gives the group's probability."""
        softened_NJ = student_NK[:, :-1] / temperature
        none_NW = softened_NJ.new_full((len(softened_NJ), self.width), MASKED)
        with torch.no_grad():
            top_NW = none_NW.scatter_reduce(1, self.group_NJ, softened_NJ, "amax")
        mass_NJ = (softened_NJ - top_NW.gather(1, self.group_NJ)).exp()
        mass_NJ = torch.where(self.ids_NK >= 0, mass_NJ, 0.0)
        mass_NW = torch.zeros_like(none_NW).scatter_add(1, self.group_NJ, mass_NJ)
        held_NW = mass_NW > 0.0
        merged_NW = top_NW + torch.where(held_NW, mass_NW, 1.0).log()
        merged_NW = torch.where(held_NW, temperature * merged_NW, MASKED * max(temperature, 1.0))
        return torch.cat([merged_NW, student_NK[:, -1:]], dim=1)


@dataclass(frozen=True, kw_only=True)
class SampledSignal(SparseSignal):
    """Drawn tokens with their shares. No mass is left for the others, which keeps the draw unbiased."""

    shares_NK: torch.Tensor
    temperature: float

    @property
    def support(self) -> Support:
        return "draws"

    def target(self, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            _find_temperature(temperature, (self.temperature,))
            logp_NK = self.shares_NK.log().clamp_min(LOG_FLOOR)
            return _append_tail(logp_NK, torch.zeros_like(logp_NK[:, :1]))


def _find_temperature(temperature: float, grid: tuple[float, ...]) -> int:
    """Return the position of a temperature in a grid, compared as float32, which is what a body holds."""
    for at, declared in enumerate(grid):
        if np.float32(declared) == np.float32(temperature):
            return at
    raise ValueError(
        f"temperature {temperature} is not among those the teacher answered for: {', '.join(map(str, grid))}; "
        "it is not estimated from the others"
    )


def _append_tail(logp_NK: torch.Tensor, tail_N1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logp_NK = torch.cat([logp_NK, tail_N1.log()], dim=-1).clamp_min(LOG_FLOOR)
    return logp_NK.exp(), logp_NK
