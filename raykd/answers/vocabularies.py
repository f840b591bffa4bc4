"""Vocabularies of language teachers, and how each maps onto the student's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.cuts import CutMap
from raykd.distill.logitmap import PLAIN, LogitMap
from raykd.distill.vocabulary_signals import IdMap, TokenColumns
from raykd.text.tokens import Tokenizer

VocabularyKind = Literal["same", "inside", "overlap", "own"]
"""How a teacher's vocabulary maps onto the student's.

- same: they are equal.
- inside: each of its tokens is one of the student's, which is a union of vocabularies.
- overlap: tokens are matched by string; the rest falls into a tail.
- own: nothing is matched.
"""


@dataclass(frozen=True)
class VocabularyMatch:
    """Maps one teacher's vocabulary onto the student's. Built once per run by `raykd.student.matching.vocabularies`.

    Read by `raykd.answers.layout`, which aligns the teacher's units with the student's.

    Attributes:
        vocabulary: How the two stand to one another.
        ids: Which of the student's tokens the teacher's are, where all of them are.
        find_comparable: Finds, of a row's target and the offsets of its units, the units at which both tokenizers mean
            the same by the beginning of a token; None where they do everywhere.
        weight_VD: The teacher's output head, cut to its true vocabulary, where it answers with hidden states.
        bias_V: Of that head.
        after: What the teacher does to the product of hidden states and head.
        numbered: Whether units correspond by their number, because both cut texts alike.
        cuts: How the teacher's tokens are cut into the student's, where the vocabularies overlap.
        columns: The groups of tokens that are compared there, for answers of all logits.
    """

    vocabulary: VocabularyKind
    ids: IdMap | None = None
    find_comparable: Callable[[str, NDArray[np.int64]], NDArray[np.bool_]] | None = None
    weight_VD: torch.Tensor | None = None
    bias_V: torch.Tensor | None = None
    after: LogitMap = PLAIN
    numbered: bool = False
    cuts: CutMap | None = None
    columns: TokenColumns | None = None


@dataclass(frozen=True)
class TeacherVocabulary:
    """What a teacher brings once, beside its answers.

    Written by teachers, read by `raykd.student.matching.vocabularies` and `raykd.student.matching`.

    Attributes:
        tokenizer: Its own.
        weight_VD: Its output head, float32, where it answers with hidden states.
        bias_V: Of that head.
        after: What it does to the product of hidden states and head.
        config: Its config.json.
    """

    tokenizer: Tokenizer
    weight_VD: NDArray[np.float32] | None = None
    bias_V: NDArray[np.float32] | None = None
    after: LogitMap = PLAIN
    config: Mapping[str, object] = field(default_factory=dict)
