"""The messages between rows, teachers and the objective.

Shape legend, used in names everywhere: ``B`` rows of a batch, ``L`` tokens, ``N`` units (what one prediction
is: a row for classification, a word for tagging), ``C`` classes, ``K`` width of a target's support, ``M`` teachers.

Decision record: what travels to a teacher is text, never tokens, because each model encodes for itself; what
comes back is numpy, never torch, because Ray moves numpy without a copy and torch 22 times slower. Teachers
answer with raw logits at temperature 1, so alpha, temperature, lambda, weighting and divergence act at the
student and nothing that is searched crosses the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

UNLABELLED = -100
"""The label of a unit that has no gold label; the value `torch.nn.functional.cross_entropy` ignores."""
MASKED = -1e4
"""The logit of a choice that a unit does not have: its probability is 0 in float32, and nothing becomes NaN."""

Spans = tuple[tuple[int, int], ...]
"""Begin and end of each word of a text, in characters (code points)."""
Mode = Literal["", "split", "optional"]
"""How a row is given to a model where there are two ways. split: its words came as tokens, and a tokenizer is given
each of them apart. optional: that the context does not answer the question is a choice. "": neither."""


@dataclass(frozen=True)
class TextBatch:
    """B rows of text. Written by `data`, read by teachers (which encode it themselves) and the student.

    ids: stable row ids, for messages; never a cache key.
    texts, pairs: first and second text; ``pairs is None`` where the task has one text. Of question answering: question
        and context; of the language models: prompt or source, and target.
    languages: a language code a row.
    labels_B: int64, index into the run's labels, or `UNLABELLED`; where gold is not one label, 0 says there is some.
    words: of tagging, where the words of each text are.
    golds: of tagging a label a word; of question answering begin and end of each accepted answer in the context, in
        characters; empty where the row is unlabelled, or (labels_B is 0) has no answer. None for the other tasks.
    modes: how each row is given to a model; None is "" for all.
    source_languages: of sources and targets the language of each source, "" where it is not known; None of other rows.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    languages: tuple[str, ...]
    labels_B: NDArray[np.int64]
    pairs: tuple[str, ...] | None = None
    words: tuple[Spans, ...] | None = None
    golds: tuple[tuple[int, ...], ...] | None = None
    modes: tuple[Mode, ...] | None = None
    source_languages: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def in_mode(self, mode: Mode) -> NDArray[np.bool_]:
        """``[B]``: which rows are given in this way."""
        return np.asarray([own == mode for own in _modes(self)], dtype=bool)

    def take(self, rows: Sequence[int]) -> TextBatch:
        """The batch of these rows, in this order."""
        return TextBatch(
            ids=tuple(self.ids[i] for i in rows),
            texts=tuple(self.texts[i] for i in rows),
            languages=tuple(self.languages[i] for i in rows),
            labels_B=self.labels_B[np.asarray(rows, dtype=np.int64)],
            pairs=_picked(self.pairs, rows),
            words=_picked(self.words, rows),
            golds=_picked(self.golds, rows),
            modes=_picked(self.modes, rows),
            source_languages=_picked(self.source_languages, rows),
        )

    @staticmethod
    def concat(parts: Sequence[TextBatch]) -> TextBatch:
        """All rows of the parts, one part after the other; a column is there where any part has it."""
        return TextBatch(
            ids=tuple(i for part in parts for i in part.ids),
            texts=tuple(t for part in parts for t in part.texts),
            languages=tuple(code for part in parts for code in part.languages),
            labels_B=np.concatenate([part.labels_B for part in parts]).astype(np.int64),
            pairs=_joined([part.pairs for part in parts]),
            words=_joined([part.words for part in parts]),
            golds=_joined([part.golds for part in parts]),
            modes=None
            if all(part.modes is None for part in parts)
            else tuple(mode for part in parts for mode in _modes(part)),
            source_languages=None
            if all(part.source_languages is None for part in parts)
            else tuple(name for part in parts for name in part.source_languages or ("",) * len(part)),
        )

    def in_codes(self, codes: Mapping[str, str]) -> TextBatch:
        """The same rows with their languages by other names, where the map has any."""
        if not codes:
            return self
        languages = tuple(codes.get(name, name) for name in self.languages)
        sources = self.source_languages
        if sources is not None:
            sources = tuple(codes.get(name, name) for name in sources)
        return replace(self, languages=languages, source_languages=sources)

    def without_labels(self) -> TextBatch:
        """The same rows as a teacher may see them: no gold label leaves the student's side."""
        labels_B = np.full(len(self), UNLABELLED, dtype=np.int64)
        return replace(self, labels_B=labels_B, golds=None if self.golds is None else ((),) * len(self))


def _modes(batch: TextBatch) -> tuple[Mode, ...]:
    none: Mode = ""
    return (none,) * len(batch) if batch.modes is None else batch.modes


def _picked(column: tuple[Any, ...] | None, rows: Sequence[int]) -> tuple[Any, ...] | None:
    return None if column is None else tuple(column[i] for i in rows)


def _joined(columns: Sequence[tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
    if all(column is None for column in columns):
        return None
    return tuple(value for column in columns for value in column or ())


@dataclass(frozen=True)
class TeacherSignal:
    """One teacher's answer to a `TextBatch`. Written by `teachers`, read by weighting and targets.

    logits_NC: raw logits at temperature 1, columns in the order of the run's labels; rows that are not covered hold 0.
    covered_N: False where this teacher has nothing to say: another language, a truncated unit, a teacher that is down.
    latency_s: seconds the teacher's process spent on this batch, encoding and look-up included.
    forwarded: rows that needed a forward pass; the others came from the store.
    bodies: where a row has several units (or choices of its own): the answer to each row as `raykd.distill.payloads`
        writes it, None where the teacher was not asked; logits and covered are then empty.
    lost: the teacher has no process left, and is not asked any more.
    """

    teacher: str
    logits_NC: NDArray[np.float32]
    covered_N: NDArray[np.bool_]
    latency_s: float = 0.0
    forwarded: int = 0
    bodies: tuple[bytes | None, ...] | None = None
    lost: bool = False


Support = Literal["whole", "tail", "draws", "own"]
"""Over what a target and the student are compared: all columns of the student (or those of a teacher that knows a
subset); some and one for the rest; tokens drawn from the teacher; each side's own vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One teacher's answer for N units over a vocabulary, as tensors; the members are in `raykd.distill.answers`.

    entropy_N: of the teacher's whole distribution at T = 1, nats. gold_ce_N: ``-log p_y`` at T = 1 of the token that
        the text has. Both float32, or None where the teacher did not send them.
    """

    shared: ClassVar[frozenset[str]] = frozenset()
    """Tensors that are not one entry a unit."""

    entropy_N: torch.Tensor | None = None
    gold_ce_N: torch.Tensor | None = None

    @property
    def support(self) -> Support:
        """Over what a divergence can compare this answer with the student."""
        return "whole"

    def units(self, begin: int, end: int) -> Self:
        """The answer for the units from begin to before end."""
        return self._picked(slice(begin, end))

    def at(self, units_N: torch.Tensor) -> Self:
        """The answer for the units at these positions."""
        return self._picked(units_N)

    def _picked(self, index: slice | torch.Tensor) -> Self:
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.shared}
        return replace(self, **{k: v[index] for k, v in held.items() if isinstance(v, torch.Tensor)})

    def logits(self) -> torch.Tensor | None:
        """``[N, V]`` over the teacher's whole vocabulary; None where they were not sent. Call it for a chunk only."""
        return None


@dataclass(frozen=True)
class Signals:
    """All teachers' answers to one micro-batch as tensors. Written by `stack`, read by weighting and targets.

    teachers: names, the order of M.
    logits_MNC: float32; what stands in columns that a teacher does not know, or where it has an answer in `answers_M`,
        is not read (with answers for all, C is 0).
    covered_MN: bool.
    labels_N: int64 or `UNLABELLED`. languages: one code a unit.
    teacher_languages: for each teacher the languages it was declared for, or None for any language.
    columns_M: for each teacher the columns that it knows, or None for all; () for all of all.
    answers_M: for each teacher its answer over a vocabulary, or None where its logits are in `logits_MNC`.
    """

    teachers: tuple[str, ...]
    teacher_languages: tuple[frozenset[str] | None, ...]
    logits_MNC: torch.Tensor
    covered_MN: torch.Tensor
    labels_N: torch.Tensor
    languages: tuple[str, ...]
    columns_M: tuple[tuple[int, ...] | None, ...] = ()
    answers_M: tuple[Answer | None, ...] = ()

    def __post_init__(self) -> None:
        for name in ("columns_M", "answers_M"):
            given = tuple(getattr(self, name))
            if given and len(given) != len(self.teachers):
                raise ValueError(f"{name} has {len(given)} entries for {len(self.teachers)} teachers")
            object.__setattr__(self, name, given if any(entry is not None for entry in given) else ())

    @property
    def plain(self) -> bool:
        """Every teacher knows every column, and its logits are here."""
        return not self.columns_M and not self.answers_M

    def columns(self, m: int) -> tuple[int, ...] | None:
        """The columns that teacher m knows, None for all."""
        return self.columns_M[m] if self.columns_M else None

    def answer(self, m: int) -> Answer | None:
        """Teacher m's answer over a vocabulary, if it is one."""
        return self.answers_M[m] if self.answers_M else None

    def units(self, begin: int, end: int) -> Signals:
        """The answers for the units from begin to before end."""
        return replace(
            self,
            logits_MNC=self.logits_MNC[:, begin:end],
            covered_MN=self.covered_MN[:, begin:end],
            labels_N=self.labels_N[begin:end],
            languages=self.languages[begin:end],
            answers_M=tuple(None if a is None else a.units(begin, end) for a in self.answers_M),
        )

    def entropy(self) -> torch.Tensor:
        """``H(p^k)`` at T = 1 over what each teacher knows, ``[M, N]``, nats; as it was sent, or from the logits.

        Raises:
            ValueError: an answer has neither.
        """
        return self._read(_entropy, "entropy_N")

    def gold_ce(self) -> torch.Tensor:
        """``-log p^k_y`` at T = 1, ``[M, N]``; meaningless where unlabelled, 1e4 where a teacher lacks the label.

        Raises:
            ValueError: an answer has neither the number nor logits over the student's vocabulary.
        """
        return self._read(self._picked_ce, "gold_ce_N")

    def _picked_ce(self, logp_MNC: torch.Tensor) -> torch.Tensor:
        label_N = torch.where(self.labels_N == UNLABELLED, 0, self.labels_N)
        index_MN1 = label_N.expand(logp_MNC.shape[0], -1).unsqueeze(-1)
        return -logp_MNC.gather(-1, index_MN1).squeeze(-1)

    def _read(self, read: Callable[[torch.Tensor], torch.Tensor], name: str) -> torch.Tensor:
        if self.plain:
            return read(F.log_softmax(self.logits_MNC.float(), dim=-1))
        rows: list[torch.Tensor] = []
        for m, teacher in enumerate(self.teachers):
            number_N = getattr(self.answer(m), name, None)
            if number_N is None:
                logits_NC = self._known_logits(m)
                if logits_NC is None:
                    raise ValueError(
                        f"the answer of teacher {teacher} has no {name} and no logits to read it from"
                    )
                number_N = read(F.log_softmax(logits_NC, dim=-1).unsqueeze(0))[0]
            rows.append(number_N)
        return torch.stack(rows)

    def _known_logits(self, m: int) -> torch.Tensor | None:
        """Float32 ``[N, C]`` over the student's columns, those that the teacher does not know masked."""
        answer, columns = self.answer(m), self.columns(m)
        if answer is not None:
            logits_NV = answer.logits() if answer.support == "whole" else None
            return None if logits_NV is None else logits_NV.float()
        logits_NC = self.logits_MNC[m].float()
        if columns is None:
            return logits_NC
        known = torch.tensor(columns, device=logits_NC.device)
        return torch.full_like(logits_NC, MASKED).index_copy(1, known, logits_NC[:, known])


def _entropy(logp_MNC: torch.Tensor) -> torch.Tensor:
    entropy_MN: torch.Tensor = torch.special.entr(logp_MNC.exp()).sum(dim=-1)
    return entropy_MN


def stack(
    signals: Sequence[TeacherSignal],
    teacher_languages: Sequence[frozenset[str] | None],
    labels_N: torch.Tensor,
    languages: tuple[str, ...],
) -> Signals:
    """Joins M answers of equal shape ``[N, C]`` to `Signals` on the device of ``labels_N``."""
    device = labels_N.device
    logits = np.stack([s.logits_NC for s in signals]).astype(np.float32, copy=False)
    covered = np.stack([s.covered_N for s in signals])
    return Signals(
        teachers=tuple(s.teacher for s in signals),
        teacher_languages=tuple(teacher_languages),
        logits_MNC=torch.from_numpy(logits).to(device),
        covered_MN=torch.from_numpy(covered).to(device),
        labels_N=labels_N,
        languages=languages,
    )


@dataclass(frozen=True)
class Target:
    """The teachers combined, at one temperature, for N units of support K. Written by targets, read by losses.

    p_NK: probabilities softened at `temperature` and mixed; rows sum to 1 (also rows that nobody covers: uniform).
    logp_NK: their logarithm, finite.
    logits_NK: the weighted mean of the teachers' mean-centred raw logits, for losses on logits.
    weights_MN: the teachers' weights, summing to 1 over M where covered, 0 elsewhere.
    covered_N: whether any teacher covers the unit.
    """

    p_NK: torch.Tensor
    logp_NK: torch.Tensor
    logits_NK: torch.Tensor
    weights_MN: torch.Tensor
    covered_N: torch.Tensor
    temperature: float


class Ticket(Protocol):
    """A request on its way."""

    def result(self, timeout: float | None = None) -> list[TeacherSignal]:
        """Blocks for the answers, one a teacher in the source's order."""
        ...


class SignalSource(Protocol):
    """Where teachers' answers come from: actors on Ray, or the same teachers in this process."""

    @property
    def teachers(self) -> tuple[str, ...]: ...

    @property
    def teacher_languages(self) -> tuple[frozenset[str] | None, ...]: ...

    def submit(self, batch: TextBatch) -> Ticket:
        """Sends a batch and returns at once."""
        ...

    def speeches(self) -> list[Any]:
        """The `raykd.distill.lens.Speech` of each language teacher; asked for once."""
        ...
