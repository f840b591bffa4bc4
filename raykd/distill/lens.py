"""Language teachers' bodies laid out over the student's tokens.

Decision record: a `Lens` is how one student reads one teacher: made once a run, from both tokenizers. Of the same
tokenizer (proved by content) units correspond by their number, and ids are ids. Of another one they correspond where
both begin a token at the same character and end it at the same one, ids by string, and what does not correspond is not
covered, or lies in the tail. A teacher that is read by rank needs its units to begin at one place only. Where the
student cuts a text with the teacher's own tokenizer (a union of vocabularies) units correspond by their number whatever
they are numbered as, and that they begin at one character is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.distill.alignment import NOWHERE, align_flat
from raykd.distill.answers import IdMap, answer_of
from raykd.distill.codec import decode
from raykd.distill.logitmap import PLAIN, LogitMap
from raykd.distill.payloads import Payload
from raykd.distill.servable import Vocabulary
from raykd.distill.signals import Answer, Signals, TeacherSignal


@dataclass(frozen=True)
class Lens:
    """How a student reads a teacher. Made by `raykd.student.lenses`, read by `lay_out_tokens`.

    vocabulary: the same, a part of the student's (inside), matched by string (overlap), or not matched (own).
    ids: of another vocabulary that is matched, which tokens are the same.
    comparable_N: of the student's units of all training rows, those at which both tokenisers mean the same by a token's
        beginning; None where all are.
    weight_VD, bias_V, after: the teacher's output head, cut to its true vocabulary, where it answers with hidden
        states.
    numbered: whether units correspond by their number because both cut texts alike, in whatever vocabulary.
    """

    vocabulary: Vocabulary
    ids: IdMap | None = None
    comparable_N: NDArray[np.bool_] | None = None
    weight_VD: torch.Tensor | None = None
    bias_V: torch.Tensor | None = None
    after: LogitMap = PLAIN
    numbered: bool = False


@dataclass(frozen=True)
class Speech:
    """What a language teacher brings once, beside its answers. Written by teachers, read by `raykd.student.lenses`.

    tokenizer: its own. weight_VD, bias_V, after: its output head, float32, where it answers with hidden states.
    """

    tokenizer: Any
    weight_VD: NDArray[np.float32] | None = None
    bias_V: NDArray[np.float32] | None = None
    after: LogitMap = PLAIN


@dataclass(frozen=True)
class Units:
    """The student's units of a batch: a label, an offset each, and where they stand among those of all rows."""

    labels_N: torch.Tensor
    offsets_N: NDArray[np.int64]
    counts_B: NDArray[np.int64]
    places_N: NDArray[np.int64]
    languages: tuple[str, ...]


def lay_out_tokens(
    signals: Sequence[TeacherSignal],
    teacher_languages: Sequence[frozenset[str] | None],
    lenses: Sequence[Lens],
    units: Units,
) -> Signals:
    """M answers as `Signals` of the student's N tokens, on the device of the labels.

    Raises:
        ValueError: a body that cannot be read, or two forms of answers from one teacher.
    """
    device, n = units.labels_N.device, len(units.labels_N)
    covered_MN = np.zeros((len(signals), n), dtype=bool)
    answers: list[Answer | None] = []
    for m, (signal, lens) in enumerate(zip(signals, lenses, strict=True)):
        payload, units_B = decode(signal.bodies or ())
        if payload is None:
            answers.append(None)
            continue
        index_N = _index(payload, units_B, lens, units)
        taken = payload.take(index_N)
        covered_MN[m] = (index_N >= 0) & taken.covered_N
        answers.append(
            answer_of(
                taken,
                device,
                weight_VD=lens.weight_VD,
                bias_V=lens.bias_V,
                after=lens.after,
                ids=lens.ids,
                own_vocabulary=lens.vocabulary == "own",
            )
        )
    return Signals(
        teachers=tuple(s.teacher for s in signals),
        teacher_languages=tuple(teacher_languages),
        logits_MNC=torch.zeros((len(signals), n, 0), device=device),
        covered_MN=torch.from_numpy(covered_MN).to(device),
        labels_N=units.labels_N,
        languages=tuple(np.repeat(np.asarray(units.languages, dtype=object), units.counts_B).tolist()),
        answers_M=tuple(answers),
    )


def _index(payload: Payload, units_B: NDArray[np.int64], lens: Lens, units: Units) -> NDArray[np.int64]:
    """For each of the student's units the position of the teacher's, or -1."""
    if lens.vocabulary == "same" or lens.numbered:
        first_B = np.cumsum(units_B) - units_B
        place_N = np.arange(len(units.offsets_N)) - np.repeat(
            np.cumsum(units.counts_B) - units.counts_B, units.counts_B
        )
        there_N = place_N < np.repeat(units_B, units.counts_B)
        index_N = np.where(there_N, place_N + np.repeat(first_B, units.counts_B), NOWHERE)
        if lens.numbered and payload.offsets_N is not None and len(payload):
            alike_N = payload.offsets_N[np.maximum(index_N, 0)] == units.offsets_N
            index_N = np.where(alike_N, index_N, NOWHERE)
        return index_N
    assert payload.offsets_N is not None
    index_N = align_flat(
        payload.offsets_N, units_B, units.offsets_N, units.counts_B, whole=lens.vocabulary == "overlap"
    )
    if lens.comparable_N is not None:
        index_N = np.where(lens.comparable_N[units.places_N], index_N, NOWHERE)
    return index_N
