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
from raykd.distill.signals import Support, VocabularySignal
from raykd.distill.targets import LOG_FLOOR

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


@dataclass(frozen=True, kw_only=True)
class WholeSignal(VocabularySignal):
    """Logits of the teacher's whole vocabulary: as they came, or from hidden states chunk by chunk.

    Attributes:
        rows_ND: Logits ``[N, V]``; hidden states where `weight_VD` is given.
        weight_VD: The teacher's output head, cut to its true vocabulary.
        bias_V: Of that head.
        after: What the teacher does to the product of both.
        ids: For a teacher of another vocabulary, what it shares with the student; compared over these and a tail.
        own_vocabulary: Whether the vocabulary is another one and nothing is matched, for losses by rank.
    """

    shared: ClassVar[frozenset[str]] = frozenset({"weight_VD", "bias_V"})

    rows_ND: torch.Tensor
    weight_VD: torch.Tensor | None = None
    bias_V: torch.Tensor | None = None
    after: LogitMap = PLAIN
    ids: IdMap | None = None
    own_vocabulary: bool = False

    @property
    def support(self) -> Support:
        if self.own_vocabulary:
            return "own"
        return "whole" if self.ids is None else "tail"

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
