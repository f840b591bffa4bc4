"""Vocabularies of language teachers, and how each stands to the student's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.distill.logitmap import PLAIN, LogitMap
from raykd.distill.vocabulary_signals import IdMap

VocabularyKind = Literal["same", "inside", "overlap", "own"]
"""How a teacher's vocabulary stands to the student's: the same; each of its tokens is one of the student's (a union of
vocabularies); matched by string, the rest in a tail; not matched."""


@dataclass(frozen=True)
class VocabularyMatch:
    """How a student reads a teacher. Made by `raykd.student.vocabulary_matching`, read by `lay_out_tokens`.

    vocabulary: the same, a part of the student's (inside), matched by string (overlap), or not matched (own).
    ids: of another vocabulary that is matched, which tokens are the same.
    comparable_N: of the student's units of all training rows, those at which both tokenisers mean the same by a token's
        beginning; None where all are.
    weight_VD, bias_V, after: the teacher's output head, cut to its true vocabulary, where it answers with hidden
        states.
    numbered: whether units correspond by their number because both cut texts alike, in whatever vocabulary.
    """

    vocabulary: VocabularyKind
    ids: IdMap | None = None
    comparable_N: NDArray[np.bool_] | None = None
    weight_VD: torch.Tensor | None = None
    bias_V: torch.Tensor | None = None
    after: LogitMap = PLAIN
    numbered: bool = False


@dataclass(frozen=True)
class TeacherVocabulary:
    """What a language teacher brings once, beside its answers.

    Written by teachers, read by `raykd.student.vocabulary_matching`.

    tokenizer: its own. weight_VD, bias_V, after: its output head, float32, where it answers with hidden states.
    """

    tokenizer: Any
    weight_VD: NDArray[np.float32] | None = None
    bias_V: NDArray[np.float32] | None = None
    after: LogitMap = PLAIN
