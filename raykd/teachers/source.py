"""Decide which teacher is asked for which row; `LocalSource` keeps teachers in this process.

Decision record: which rows a teacher is asked for follows from its languages and from the weighting, which may know
that a teacher cannot get any weight for a language (routing). This is decided here alone, for actors and in-process
teachers alike, so that both give the same signals.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raykd.answers.source import AnswerSlots, PendingBatch
from raykd.answers.vocabularies import TeacherVocabulary
from raykd.distill.features.states import FeatureRequest
from raykd.distill.weighting import Weighting
from raykd.teachers.teacher import Teacher
from raykd.text.batch import TextBatch


@dataclass
class TeacherRouter:
    """Names and languages of all teachers, and which of them are asked for a row of a language (and of a group).

    Attributes:
        teachers: Names, in the order of M.
        teacher_languages: The languages each was declared for; None for any.
        weighting: Decides which teachers may get weight for a language; None asks every teacher that speaks it.
        lost: Names of teachers that are not asked any more.
    """

    teachers: tuple[str, ...]
    teacher_languages: tuple[frozenset[str] | None, ...]
    weighting: Weighting | None = None
    lost: set[str] = field(default_factory=set)
    _asked: dict[tuple[str, str | None], tuple[bool, ...]] = field(default_factory=dict)

    def route(self, batch: TextBatch) -> NDArray[np.bool_]:
        """Return which teacher is asked for which row, ``[M, B]``."""
        if self.weighting is not None and self.weighting.inner.reads_groups:
            groups = batch.groups or ("",) * len(batch)
            asked = [self._choose(*pair) for pair in zip(batch.languages, groups, strict=True)]
            return np.asarray(asked, dtype=bool).reshape(len(batch), len(self.teachers)).T
        names, codes_B = batch.code_languages()
        chosen = np.asarray([self._choose(name) for name in names], dtype=bool)
        return chosen.reshape(len(names), len(self.teachers))[codes_B].T

    def drop_teachers(self, names: Sequence[str]) -> None:
        """Ask these no more: they count as speaking no language, so a routing weighting turns to the next ones."""
        self.lost.update(names)
        self._asked.clear()

    def _choose(self, language: str, group: str | None = None) -> tuple[bool, ...]:
        if (language, group) not in self._asked:
            spoken = [
                frozenset[str]() if name in self.lost else declared
                for name, declared in zip(self.teachers, self.teacher_languages, strict=True)
            ]
            if self.weighting is None:
                asked = tuple(declared is None or language in declared for declared in spoken)
            else:
                asked = self.weighting.may_need(language, self.teachers, spoken, group)
            self._asked[language, group] = asked
        return self._asked[language, group]


@dataclass(frozen=True)
class ReadyBatch:
    """A batch whose answers are there already."""

    answers: list[AnswerSlots]

    def result(self, timeout: float | None = None) -> list[AnswerSlots]:
        """Return the answers."""
        return self.answers


class RoutedSource:
    """What all sources share: the names and languages of their teachers."""

    router: TeacherRouter

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names, in the order of M."""
        return self.router.teachers

    @property
    def teacher_languages(self) -> tuple[frozenset[str] | None, ...]:
        """Declared languages, None for any."""
        return self.router.teacher_languages


class LocalSource(RoutedSource):
    """Teachers in this process, asked in turn: the reference for the pool, and the plainest way to feed a loop."""

    def __init__(self, teachers: Sequence[Teacher], weighting: Weighting | None = None) -> None:
        self._teachers = list(teachers)
        self.router = TeacherRouter(
            tuple(t.name for t in teachers), tuple(t.spec.languages for t in teachers), weighting
        )

    def submit(self, batch: TextBatch, *, features: Sequence[FeatureRequest] = ()) -> PendingBatch:
        """Answer at once."""
        asked_MB = self.router.route(batch)
        unlabelled = batch.without_labels()
        wanted = features or ((),) * len(self._teachers)
        return ReadyBatch(
            [t.answer(unlabelled, asked_MB[m], None, wanted[m]) for m, t in enumerate(self._teachers)]
        )

    def vocabularies(self, teachers: Collection[str] | None = None) -> list[TeacherVocabulary]:
        """Return what these teachers bring beside their answers; None is all."""
        return [t.vocabulary() for t in self._teachers if teachers is None or t.name in teachers]
