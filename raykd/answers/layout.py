"""Lay the teachers' answers out over the student's units: bytes become `Signals`.

Decision record: an answer belongs to a row; which units the row has is decided by the student.

- Where the choices are labels, both see the same units. Their numbers must agree, and an answer with another number is
  an error.
- Over a vocabulary the teacher's units are aligned with the student's. With the same tokenizer (proved by content) they
  correspond by number. With another one they correspond where a token begins at the same character, and top-k
  answers also where the student's begins inside one of the teacher's (`raykd.answers.cuts`).
- Where the student cuts a text with the teacher's own tokenizer (a union of vocabularies), units correspond by number,
  and it is checked that they begin at the same character.
- A unit without a counterpart, or one that the student does not see because its tokenizer cut it off, is covered by no
  teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.answer import Answer, DenseAnswer, TopKAnswer
from raykd.answers.codec import decode_answers
from raykd.answers.cuts import CutAnswer, CutMap, cut_answer
from raykd.answers.source import AnswerSlots
from raykd.answers.tensors import to_cut_signal, to_vocabulary_signal
from raykd.answers.vocabularies import VocabularyMatch
from raykd.distill.signals import MASKED, Signals, VocabularySignal
from raykd.text.alignment import NOWHERE, align_inside, align_units

FAINT = -20.0
"""Log-probability that a teacher gets for a choice that it lacks and the student has."""


Place = Callable[
    [NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.bool_]]
]
"""See `StudentUnits`."""


@dataclass(frozen=True)
class StudentUnits:
    """The student's N units of a batch of B rows. Written by the student's loop, read by `lay_out_answers`.

    Attributes:
        labels_N: int64, gold labels, on the host as all that is here.
        counts_B: Units of each row.
        languages: One code per row.
        choices: C, the student's, where they are labels or words; a teacher's answer of fewer is padded with `MASKED`.
        place: Where teachers have columns of their own, makes of answers ``[N, D]``, and of which units are covered,
            logits over the choices (`TaskBase.place_answers`); None elsewhere.
        seen_N: False where the student does not see the unit; None where it sees all.
        visible_NC: False where the student has no logit for a choice; None where it has one for each.
        offsets_N: Over a vocabulary the character at which each unit's token begins.
        targets: Over a vocabulary the target of each row.
        groups: Value of `data.columns.group` of each row; () where it is not read.
    """

    labels_N: torch.Tensor
    counts_B: NDArray[np.int64]
    languages: Sequence[str]
    choices: int = 0
    seen_N: torch.Tensor | None = None
    visible_NC: torch.Tensor | None = None
    offsets_N: NDArray[np.int64] | None = None
    targets: Sequence[str] = ()
    place: Place | None = None
    groups: Sequence[str] = ()

    @property
    def unit_languages(self) -> tuple[str, ...]:
        """One code per unit."""
        return self._repeat(self.languages)

    @property
    def unit_groups(self) -> tuple[str, ...]:
        """One value per unit, or ()."""
        return self._repeat(self.groups) if len(self.groups) else ()

    def _repeat(self, values: Sequence[str]) -> tuple[str, ...]:
        return tuple(np.repeat(np.asarray(values, dtype=object), self.counts_B).tolist())


def lay_out_answers(
    answers: Sequence[AnswerSlots],
    teacher_languages: Sequence[frozenset[str] | None],
    units: StudentUnits,
    matches: Sequence[VocabularyMatch] = (),
    device: torch.device | None = None,
) -> Signals:
    """Turn the answers of M teachers to B rows into `Signals` of the student's N units.

    Args:
        answers: One entry per teacher.
        teacher_languages: What each teacher was declared for.
        units: The student's.
        matches: Where the choices are a vocabulary, how each teacher's maps onto the student's; empty elsewhere.
        device: Of the signals; None for the host.

    Raises:
        ValueError: An answer cannot be read, is of another number of units or of more choices than there are, or one
            teacher's answers are of two kinds.
    """
    lay = _lay_out_tokens if matches else _lay_out_labels
    return lay(answers, teacher_languages, units, matches, device)


def _lay_out_labels(
    answers: Sequence[AnswerSlots],
    teacher_languages: Sequence[frozenset[str] | None],
    units: StudentUnits,
    matches: Sequence[VocabularyMatch],
    device: torch.device | None,
) -> Signals:
    n = len(units.labels_N)
    logits_MNC = np.zeros((len(answers), n, units.choices), dtype=np.float32)
    covered_MN = np.zeros((len(answers), n), dtype=bool)
    columns: list[tuple[int, ...] | None] = []
    for m, slots in enumerate(answers):
        if units.place is None:
            answer_NC, there_N = read_unit_logits(slots, units.counts_B, units.choices)
        else:
            answer_NC, there_N = units.place(*read_unit_logits(slots, units.counts_B, None), units.counts_B)
        # A label that a teacher does not know has the logit -inf in all its answers.
        logits_MNC[m], covered_MN[m] = answer_NC, there_N
        unknown_C = (
            np.isneginf(answer_NC[int(there_N.argmax())]) if n else np.zeros(units.choices, dtype=bool)
        )
        columns.append(tuple(np.flatnonzero(~unknown_C).tolist()) if unknown_C.any() else None)
        if unknown_C.any():
            logits_MNC[m][:, unknown_C] = 0.0
    covered, logits = torch.from_numpy(covered_MN), torch.from_numpy(logits_MNC)
    if units.visible_NC is not None:
        # A choice that the student lacks is masked: no output of the student could come near the teacher's probability.
        # A choice that only the teacher lacks gets a faint probability, not 0, for divergences of q over p.
        faint_MN1 = logits.logsumexp(dim=-1, keepdim=True) + FAINT
        logits = torch.where(logits > MASKED / 2, logits, faint_MN1).masked_fill(~units.visible_NC, MASKED)
    return Signals(
        teachers=tuple(slots.teacher for slots in answers),
        teacher_languages=tuple(teacher_languages),
        logits_MNC=logits,
        covered_MN=covered if units.seen_N is None else covered & units.seen_N,
        labels_N=units.labels_N,
        languages=units.unit_languages,
        groups=units.unit_groups,
        columns_M=tuple(columns),
    ).to(device)


def read_unit_logits(
    slots: AnswerSlots, counts_B: NDArray[np.int64], choices: int | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return one teacher's logits ``[N, C]`` (0 where it was not asked) and which units it covers, ``[N]``.

    C are the choices; where they are None, the teacher's own columns.

    Raises:
        ValueError: As `lay_out_answers`.
    """
    answer, units_B = decode_answers(slots.bodies)
    units = int(counts_B.sum())
    if answer is None:
        return np.zeros((units, choices or 0), dtype=np.float32), np.zeros(units, dtype=bool)
    asked_B = slots.answered_B
    if not isinstance(answer, DenseAnswer) or (units_B[asked_B] != counts_B[asked_B]).any():
        raise ValueError(
            f"teacher {slots.teacher} answered for {units_B.tolist()} units a row ({answer.kind}), "
            f"the rows have {counts_B.tolist()}"
        )
    width = answer.logits_NC.shape[1]
    choices = width if choices is None else choices
    if width > choices:
        raise ValueError(f"teacher {slots.teacher} answered with {width} choices, there are {choices}")
    if width == choices and asked_B.all() and answer.covered_N.all():  # the common case, without a copy
        return answer.logits_NC, answer.covered_N
    logits_NC, covered_N = np.zeros((units, choices), dtype=np.float32), np.zeros(units, dtype=bool)
    asked_N = np.repeat(asked_B, counts_B)
    covered_N[asked_N] = answer.covered_N
    filled = np.full((len(answer), choices), MASKED, dtype=np.float32)
    filled[:, :width] = answer.logits_NC
    logits_NC[asked_N] = np.where(answer.covered_N[:, None], filled, 0.0)
    return logits_NC, covered_N


def _lay_out_tokens(
    answers: Sequence[AnswerSlots],
    teacher_languages: Sequence[frozenset[str] | None],
    units: StudentUnits,
    matches: Sequence[VocabularyMatch],
    device: torch.device | None,
) -> Signals:
    n = len(units.labels_N)
    covered_MN = np.zeros((len(answers), n), dtype=bool)
    signals: list[VocabularySignal | None] = []
    for m, (slots, match) in enumerate(zip(answers, matches, strict=True)):
        answer, units_B = decode_answers(slots.bodies)
        if answer is None:
            signals.append(None)
            continue
        if match.cuts is not None and isinstance(answer, TopKAnswer):
            cut, covered_MN[m] = _cut_units(answer, units_B, match, match.cuts, units)
            signals.append(to_cut_signal(cut, len(match.cuts.group_S), device))
            continue
        index_N = _align_units(answer, units_B, match, units)
        taken = answer.take(index_N)
        covered_MN[m] = (index_N >= 0) & taken.covered_N
        signals.append(
            to_vocabulary_signal(
                taken,
                device,
                weight_VD=match.weight_VD,
                bias_V=match.bias_V,
                after=match.after,
                ids=match.ids,
                columns=match.columns,
                own_vocabulary=match.vocabulary == "own",
            )
        )
    return Signals(
        teachers=tuple(slots.teacher for slots in answers),
        teacher_languages=tuple(teacher_languages),
        logits_MNC=torch.zeros((len(answers), n, 0)),
        covered_MN=torch.from_numpy(covered_MN),
        labels_N=units.labels_N,
        languages=units.unit_languages,
        groups=units.unit_groups,
        vocabulary_M=tuple(signals),
    ).to(device)


def _align_units(
    answer: Answer, units_B: NDArray[np.int64], match: VocabularyMatch, units: StudentUnits
) -> NDArray[np.int64]:
    """Return for each of the student's units the position of the teacher's, or -1."""
    assert units.offsets_N is not None
    if match.vocabulary == "same" or match.numbered:
        first_B = np.cumsum(units_B) - units_B
        place_N = np.arange(len(units.offsets_N)) - np.repeat(
            np.cumsum(units.counts_B) - units.counts_B, units.counts_B
        )
        there_N = place_N < np.repeat(units_B, units.counts_B)
        index_N = np.where(there_N, place_N + np.repeat(first_B, units.counts_B), NOWHERE)
        if match.numbered and answer.offsets_N is not None and len(answer):
            alike_N = answer.offsets_N[np.maximum(index_N, 0)] == units.offsets_N
            index_N = np.where(alike_N, index_N, NOWHERE)
        return index_N
    assert answer.offsets_N is not None
    index_N = align_units(answer.offsets_N, units_B, units.offsets_N, units.counts_B)
    return np.where(_find_comparable(match, units), index_N, NOWHERE)


def _cut_units(
    answer: TopKAnswer, units_B: NDArray[np.int64], match: VocabularyMatch, cuts: CutMap, units: StudentUnits
) -> tuple[CutAnswer, NDArray[np.bool_]]:
    """Return the answer over the student's tokens, and which units it covers."""
    assert answer.offsets_N is not None and units.offsets_N is not None
    index_N, depth_N = align_inside(answer.offsets_N, units_B, units.offsets_N, units.counts_B)
    taken = answer.take(index_N)
    cut = cut_answer(taken, cuts, depth_N, units.labels_N.numpy())
    # Inside a token, what matters is whether both mean the same by its beginning.
    begun_N = _find_comparable(match, units)[np.arange(len(depth_N)) - depth_N]
    return cut, (index_N >= 0) & taken.covered_N & cut.known_N & begun_N


def _find_comparable(match: VocabularyMatch, units: StudentUnits) -> NDArray[np.bool_]:
    """Return at which units both tokenizers mean the same by the beginning of a token."""
    assert units.offsets_N is not None
    if match.find_comparable is None or not len(units.offsets_N):
        return np.ones(len(units.offsets_N), dtype=bool)
    offsets = np.split(units.offsets_N, np.cumsum(units.counts_B)[:-1])
    return np.concatenate(list(map(match.find_comparable, units.targets, offsets)))
