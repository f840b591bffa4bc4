"""`Signals`: the teachers' answers to one micro-batch as tensors, and `Target`: the teachers combined.

Shape legend, used in names everywhere: ``B`` rows of a batch, ``L`` tokens, ``N`` units (one unit is one prediction: a
row for classification, a word for tagging), ``C`` classes, ``K`` width of a target's support, ``M`` teachers.

Decision record: teachers answer with raw logits at temperature 1, so alpha, temperature, lambda, weighting and
divergence act at the student and nothing that is searched crosses the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, Self, TypeVar

import torch

from raykd.devices import copy_to_device

UNLABELLED = -100
"""The label of a unit without a gold label; `torch.nn.functional.cross_entropy` ignores this value."""
MASKED = -1e4
"""The logit of a choice that a unit does not have: its probability is 0 in float32, and nothing becomes NaN."""

T = TypeVar("T")
Support = Literal["whole", "tail", "draws", "own"]
"""Over what a target and the student are compared.

- whole: all columns of the student, or those of a teacher that knows a subset.
- tail: some tokens (the teacher's top k, or those that two vocabularies share), and one column for the rest.
- draws: tokens drawn from the teacher, each with its share of the draws.
- own: each side's own vocabulary, so that columns of the two sides have no common meaning.
"""


@dataclass(frozen=True, kw_only=True)
class VocabularySignal:
    """One teacher's answer for N units over a vocabulary, as tensors.

    Attributes:
        entropy_N: float32, entropy of the teacher's whole distribution at T = 1, nats; None where it was not sent.
        gold_ce_N: float32, ``-log p_y`` at T = 1 of the token that the text has; None where it was not sent.
    """

    shared: ClassVar[frozenset[str]] = frozenset()
    """Names of tensors that do not have one entry per unit."""

    entropy_N: torch.Tensor | None = None
    gold_ce_N: torch.Tensor | None = None

    @property
    def support(self) -> Support:
        """Over what a divergence can compare this answer with the student."""
        return "whole"

    def units(self, begin: int, end: int) -> Self:
        """Return the answer for the units from begin to before end."""
        return self._pick(slice(begin, end))

    def at(self, units_N: torch.Tensor) -> Self:
        """Return the answer for the units at these positions."""
        return self._pick(units_N)

    def _pick(self, index: slice | torch.Tensor) -> Self:
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in self.shared}
        return replace(self, **{k: v[index] for k, v in held.items() if isinstance(v, torch.Tensor)})

    def logits(self) -> torch.Tensor | None:
        """Return ``[N, V]`` over the teacher's whole vocabulary; None where they were not sent.

        Call it for a chunk of units only: it is the largest tensor of a language model.
        """
        return None


@dataclass(frozen=True)
class Signals:
    """All teachers' answers to one micro-batch as tensors.

    Written by `raykd.answers.layout`, read by weighting and targets.

    Attributes:
        teachers: Names, in the order of M.
        teacher_languages: The languages that each teacher was declared for; None for any.
        logits_MNC: float32. Columns that a teacher does not know are not read, nor is the row of a teacher with a
            signal in `vocabulary_M`; C is 0 where all teachers have one.
        covered_MN: Whether the teacher answered for the unit.
        labels_N: int64, gold label or `UNLABELLED`.
        languages: One code per unit.
        columns_M: The columns that each teacher knows, or None for all; () where all know all.
        vocabulary_M: Each teacher's signal over a vocabulary, or None where its logits are in `logits_MNC`.
        groups: Value of `data.columns.group` of each unit; () where no weighting reads it.
        numbers_N: int64 on the host, the same for a unit whenever it is read, by which something is drawn for it; None
            outside of training.
        eligible_MN: Among whom a unit's weight is spread (`Weighting.eligible`), once `Objective.prepare` has found
            out.
        host: The same on the host, where these are on another device; its logits are not read.
    """

    teachers: tuple[str, ...]
    teacher_languages: tuple[frozenset[str] | None, ...]
    logits_MNC: torch.Tensor
    covered_MN: torch.Tensor
    labels_N: torch.Tensor
    languages: tuple[str, ...]
    columns_M: tuple[tuple[int, ...] | None, ...] = ()
    vocabulary_M: tuple[VocabularySignal | None, ...] = ()
    groups: tuple[str, ...] = ()
    numbers_N: torch.Tensor | None = None
    eligible_MN: torch.Tensor | None = None
    host: Signals | None = None

    @property
    def on_host(self) -> Signals:
        """The answers where Python can read who covers what without waiting for a device."""
        return self if self.host is None else self.host

    def to(self, device: torch.device | None) -> Signals:
        """Return the answers on a device, to which the signals of `vocabulary_M` were copied when they were made."""
        if device is None or device == self.labels_N.device:
            return self
        return replace(
            self,
            logits_MNC=copy_to_device(self.logits_MNC, device),
            covered_MN=copy_to_device(self.covered_MN, device),
            labels_N=copy_to_device(self.labels_N, device),
            host=replace(self, vocabulary_M=()),
        )

    def hide(self, hidden_MN: torch.Tensor) -> Signals:
        """Return the answers with some of them not covered.

        Args:
            hidden_MN: Which ones, on the host.
        """
        host = None if self.host is None else self.host.hide(hidden_MN)
        covered_MN = self.covered_MN & ~copy_to_device(hidden_MN, self.covered_MN.device)
        return replace(self, covered_MN=covered_MN, eligible_MN=None, host=host)

    def __post_init__(self) -> None:
        for name in ("columns_M", "vocabulary_M"):
            given = tuple(getattr(self, name))
            if given and len(given) != len(self.teachers):
                raise ValueError(f"{name} has {len(given)} entries for {len(self.teachers)} teachers")
            object.__setattr__(self, name, given if any(entry is not None for entry in given) else ())

    @property
    def plain(self) -> bool:
        """Whether every teacher knows every column and its logits are in `logits_MNC`."""
        return not self.columns_M and not self.vocabulary_M

    def columns(self, m: int) -> tuple[int, ...] | None:
        """Return the columns that teacher m knows; None for all."""
        return self.columns_M[m] if self.columns_M else None

    def vocabulary_signal(self, m: int) -> VocabularySignal | None:
        """Return teacher m's answer over a vocabulary; None where its logits are in `logits_MNC`."""
        return self.vocabulary_M[m] if self.vocabulary_M else None

    def units(self, begin: int, end: int) -> Signals:
        """Return the answers for the units from begin to before end."""
        return replace(
            self,
            logits_MNC=self.logits_MNC[:, begin:end],
            covered_MN=self.covered_MN[:, begin:end],
            labels_N=self.labels_N[begin:end],
            languages=self.languages[begin:end],
            groups=self.groups[begin:end],
            numbers_N=None if self.numbers_N is None else self.numbers_N[begin:end],
            vocabulary_M=tuple(None if a is None else a.units(begin, end) for a in self.vocabulary_M),
            eligible_MN=None if self.eligible_MN is None else self.eligible_MN[:, begin:end],
            host=None if self.host is None else self.host.units(begin, end),
        )

    def known_logits(self) -> torch.Tensor:
        """Return float32 ``[M, N, C]`` over the student's columns; those that a teacher does not know are masked.

        Raises:
            ValueError: An answer has no logits over the student's vocabulary.
        """
        rows = [self._known_logits(m) for m in range(len(self.teachers))]
        if any(row is None for row in rows):
            raise ValueError("an answer has no logits over the student's vocabulary")
        return torch.stack([row for row in rows if row is not None])

    def of_teachers(self, numbers: Sequence[int]) -> Signals:
        """Return the answers of some teachers, by their numbers."""

        def pick(values: tuple[T, ...]) -> tuple[T, ...]:
            return tuple(values[m] for m in numbers) if values else ()

        at = list(numbers)
        return replace(
            self,
            teachers=pick(self.teachers),
            teacher_languages=pick(self.teacher_languages),
            logits_MNC=self.logits_MNC[at],
            covered_MN=self.covered_MN[at],
            columns_M=pick(self.columns_M),
            vocabulary_M=pick(self.vocabulary_M),
            eligible_MN=None if self.eligible_MN is None else self.eligible_MN[at],
            host=None if self.host is None else self.host.of_teachers(numbers),
        )

    def entropy(self) -> torch.Tensor:
        """Return ``H(p_m)`` at T = 1 over the columns that each teacher knows, as it was sent or from the logits.

        Returns:
            ``[M, N]``, nats.

        Raises:
            ValueError: An answer has neither.
        """
        return self._read(_entropy, "entropy_N")

    def gold_ce(self) -> torch.Tensor:
        """Return ``-log p_m(y)`` at T = 1 of the gold label.

        Returns:
            ``[M, N]``; meaningless where unlabelled, 1e4 where a teacher lacks the label.

        Raises:
            ValueError: An answer has neither the number nor logits over the student's vocabulary.
        """
        return self._read(self._picked_ce, "gold_ce_N")

    def _picked_ce(self, logp_MNC: torch.Tensor) -> torch.Tensor:
        label_N = torch.where(self.labels_N == UNLABELLED, 0, self.labels_N)
        index_MN1 = label_N.expand(logp_MNC.shape[0], -1).unsqueeze(-1)
        return -logp_MNC.gather(-1, index_MN1).squeeze(-1)

    def _read(self, read: Callable[[torch.Tensor], torch.Tensor], name: str) -> torch.Tensor:
        if self.plain:
            return read(torch.log_softmax(self.logits_MNC.float(), dim=-1))
        rows: list[torch.Tensor] = []
        for m, teacher in enumerate(self.teachers):
            number_N = getattr(self.vocabulary_signal(m), name, None)
            if number_N is None:
                logits_NC = self._known_logits(m)
                if logits_NC is None:
                    raise ValueError(
                        f"the answer of teacher {teacher} has no {name} and no logits to read it from"
                    )
                number_N = read(torch.log_softmax(logits_NC, dim=-1).unsqueeze(0))[0]
            rows.append(number_N)
        return torch.stack(rows)

    def _known_logits(self, m: int) -> torch.Tensor | None:
        """Return float32 ``[N, C]`` over the student's columns; those that the teacher does not know are masked."""
        answer, columns = self.vocabulary_signal(m), self.columns(m)
        if answer is not None:
            logits_NV = answer.logits() if answer.support == "whole" else None
            return None if logits_NV is None else logits_NV.float()
        logits_NC = self.logits_MNC[m].float()
        if columns is None:
            return logits_NC
        known = copy_to_device(torch.tensor(columns), logits_NC.device)
        return torch.full_like(logits_NC, MASKED).index_copy(1, known, logits_NC[:, known])


def _entropy(logp_MNC: torch.Tensor) -> torch.Tensor:
    entropy_MN: torch.Tensor = torch.special.entr(logp_MNC.exp()).sum(dim=-1)
    return entropy_MN


@dataclass(frozen=True)
class Target:
    """The teachers combined, at one temperature, for N units of support K. Written by targets, read by losses.

    Attributes:
        p_NK: Probabilities softened at `temperature` and mixed; rows sum to 1 (uniform where no teacher covers).
        logp_NK: Their logarithm, finite.
        make_logits: Computes `logits_NK`, because few losses read it.
        weights_MN: The teachers' weights, which sum to 1 over M where covered, 0 elsewhere.
        covered_N: Whether any teacher covers the unit.
        temperature: T.
        labels_N: Gold label of each unit as a column of the support, or `UNLABELLED`; None where the columns are no
            classes of the run.
    """

    p_NK: torch.Tensor
    logp_NK: torch.Tensor
    make_logits: Callable[[], torch.Tensor]
    weights_MN: torch.Tensor
    covered_N: torch.Tensor
    temperature: float
    labels_N: torch.Tensor | None = None

    @property
    def logits_NK(self) -> torch.Tensor:  # noqa: N802  (a shape, as the fields)
        """The weighted mean of the teachers' mean-centred raw logits, for losses on logits; computed at each call."""
        with torch.no_grad():
            return self.make_logits()
