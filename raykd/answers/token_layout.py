"""Language teachers' bodies laid out over the student's tokens.

Decision record: a `VocabularyMatch` is made once a run, from both tokenizers. Of the same
tokenizer (proved by content) units correspond by their number, and ids are ids. Of another one they correspond where
both begin a token at the same character and end it at the same one, ids by string, and what does not correspond is not
covered, or lies in the tail. A teacher that is read by rank needs its units to begin at one place only. Where the
student cuts a text with the teacher's own tokenizer (a union of vocabularies) units correspond by their number whatever
they are numbered as, and that they begin at one character is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.answer import Answer
from raykd.answers.codec import decode_answers
from raykd.answers.source import TeacherSignal
from raykd.answers.tensors import to_vocabulary_signal
from raykd.answers.vocabularies import VocabularyMatch
from raykd.distill.signals import Signals, VocabularySignal
from raykd.text.alignment import NOWHERE, align_flat


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
    matches: Sequence[VocabularyMatch],
    units: Units,
) -> Signals:
    """M answers as `Signals` of the student's N tokens, on the device of the labels.

    Raises:
        ValueError: a body that cannot be read, or two forms of answers from one teacher.
    """
    device, n = units.labels_N.device, len(units.labels_N)
    covered_MN = np.zeros((len(signals), n), dtype=bool)
    answers: list[VocabularySignal | None] = []
    for m, (signal, match) in enumerate(zip(signals, matches, strict=True)):
        payload, units_B = decode_answers(signal.bodies or ())
        if payload is None:
            answers.append(None)
            continue
        index_N = _index(payload, units_B, match, units)
        taken = payload.take(index_N)
        covered_MN[m] = (index_N >= 0) & taken.covered_N
        answers.append(
            to_vocabulary_signal(
                taken,
                device,
                weight_VD=match.weight_VD,
                bias_V=match.bias_V,
                after=match.after,
                ids=match.ids,
                own_vocabulary=match.vocabulary == "own",
            )
        )
    return Signals(
        teachers=tuple(s.teacher for s in signals),
        teacher_languages=tuple(teacher_languages),
        logits_MNC=torch.zeros((len(signals), n, 0), device=device),
        covered_MN=torch.from_numpy(covered_MN).to(device),
        labels_N=units.labels_N,
        languages=tuple(np.repeat(np.asarray(units.languages, dtype=object), units.counts_B).tolist()),
        vocabulary_M=tuple(answers),
    )


def _index(
    payload: Answer, units_B: NDArray[np.int64], match: VocabularyMatch, units: Units
) -> NDArray[np.int64]:
    """For each of the student's units the position of the teacher's, or -1."""
    if match.vocabulary == "same" or match.numbered:
        first_B = np.cumsum(units_B) - units_B
        place_N = np.arange(len(units.offsets_N)) - np.repeat(
            np.cumsum(units.counts_B) - units.counts_B, units.counts_B
        )
        there_N = place_N < np.repeat(units_B, units.counts_B)
        index_N = np.where(there_N, place_N + np.repeat(first_B, units.counts_B), NOWHERE)
        if match.numbered and payload.offsets_N is not None and len(payload):
            alike_N = payload.offsets_N[np.maximum(index_N, 0)] == units.offsets_N
            index_N = np.where(alike_N, index_N, NOWHERE)
        return index_N
    assert payload.offsets_N is not None
    index_N = align_flat(
        payload.offsets_N, units_B, units.offsets_N, units.counts_B, whole=match.vocabulary == "overlap"
    )
    if match.comparable_N is not None:
        index_N = np.where(match.comparable_N[units.places_N], index_N, NOWHERE)
    return index_N
