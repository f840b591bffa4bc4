"""Ensembles of made teachers, healthy or with one planted case, as their answers to made rows. No model is trained.

What is drawn of an ensemble and what is drawn of its rows come from two generators, so that the same teachers can be
asked about as many fresh rows as it takes to know what is true of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.distill.signals import UNLABELLED, Signals
from raykd.distill.weighting import Uniform, Weighting
from raykd.distill.weightings.confidence import Entropy
from raykd.distill.weightings.routing import ByLanguage
from raykd.ensemble.units import LabelledUnits

Case = Literal["useless", "corrupted", "copy", "one_language"]
CASES: tuple[Case, ...] = get_args(Case)
LANGUAGES = ("en", "de", "fr", "zh")


@dataclass(frozen=True)
class MadeTeacher:
    """One made teacher.

    Attributes:
        name: Its name.
        signal: How far the gold label's logit stands above the noise, by language; 0 knows nothing.
        scale: Factor of all logits: below 1 it is too modest, above 1 too sure.
        shared: Share of its noise that all teachers have in common: rows that are hard for everyone.
        languages: What it speaks; None for all.
        permuted: Share of rows whose labels are permuted in its answers.
        shift: By how many places.
        copies: Number of the teacher that it copies; None for one of its own.
    """

    name: str
    signal: dict[str, float]
    scale: float
    shared: float
    languages: frozenset[str] | None = None
    permuted: float = 0.0
    shift: int = 0
    copies: int | None = None


@dataclass(frozen=True)
class MadeEnsemble:
    """Teachers, and the rows that they are asked about.

    Attributes:
        seed: Of the rows.
        teachers: The teachers.
        languages: Of the rows.
        prior: Share of each label.
        rows: Labelled validation rows of each language.
        weighting: How the run combines its teachers.
        case: What was planted; None for a healthy ensemble.
        planted: Number of the planted teacher.
        good: Of a teacher that is good in one language alone, that language.
    """

    seed: int
    teachers: tuple[MadeTeacher, ...]
    languages: tuple[str, ...]
    prior: tuple[float, ...]
    rows: int
    weighting: Weighting = field(default_factory=Uniform)
    case: Case | None = None
    planted: int = -1
    good: str = ""

    @property
    def planted_name(self) -> str:
        """Name of the planted teacher; empty in a healthy ensemble."""
        return "" if self.case is None else self.teachers[self.planted].name

    @property
    def setting(self) -> str:
        """What was drawn, in words."""
        return (
            f"{len(self.teachers)} teachers, {len(self.prior)} labels, {self.rows} rows in "
            f"{', '.join(self.languages)}, {self.weighting.kind}"
        )

    def ask(self, fresh: int | None = None) -> tuple[LabelledUnits, Signals]:
        """Draw rows and return them with the teachers' answers.

        Args:
            fresh: So many fresh rows of each language instead of the validation rows.
        """
        rng = np.random.default_rng([self.seed, 0 if fresh is None else 1])
        each, classes = fresh or self.rows, len(self.prior)
        code_N = np.repeat(np.arange(len(self.languages)), each)
        gold_N = rng.choice(classes, size=len(code_N), p=self.prior)
        shared_NC = rng.normal(size=(len(gold_N), classes))
        logits = [self._answer(rng, t, gold_N, code_N, shared_NC) for t in self.teachers]
        for m, teacher in enumerate(self.teachers):
            if teacher.copies is not None:
                noise_NC = rng.normal(size=shared_NC.shape)
                logits[m] = teacher.scale * logits[teacher.copies] + 0.05 * noise_NC
        languages = tuple(self.languages[c] for c in code_N)
        covered = [[t.languages is None or x in t.languages for x in languages] for t in self.teachers]
        signals = Signals(
            tuple(t.name for t in self.teachers),
            tuple(t.languages for t in self.teachers),
            torch.from_numpy(np.stack(logits).astype(np.float32)),
            torch.tensor(covered),
            torch.full((len(gold_N),), UNLABELLED),
            languages,
        )
        counts = np.ones(len(gold_N), np.int64)
        return LabelledUnits(gold_N, counts, languages, tuple(f"label{c}" for c in range(classes))), signals

    def _answer(
        self,
        rng: np.random.Generator,
        teacher: MadeTeacher,
        gold_N: NDArray[np.int64],
        code_N: NDArray[np.int64],
        shared_NC: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Return logits: the gold label's stands out, under noise of its own and noise that all teachers share."""
        own_NC = rng.normal(size=shared_NC.shape)
        noise_NC = np.sqrt(teacher.shared) * shared_NC + np.sqrt(1 - teacher.shared) * own_NC
        height_N = np.asarray([teacher.signal[x] for x in self.languages])[code_N]
        noise_NC[np.arange(len(gold_N)), gold_N] += height_N
        # The logits of a linear discriminant between classes at this distance, so calibrated at scale 1. A teacher
        # that knows nothing of a language does not know that.
        logits_NC = teacher.scale * np.maximum(height_N, 1.0)[:, None] * noise_NC
        hit_N = rng.random(len(gold_N)) < teacher.permuted
        return np.where(hit_N[:, None], np.roll(logits_NC, teacher.shift, axis=1), logits_NC)


def make_ensemble(seed: int, case: Case | None) -> MadeEnsemble:
    """Draw an ensemble: 3 to 6 teachers, 2 to 7 labels, 2 to 4 languages, 150 to 600 rows of each.

    Args:
        seed: Of everything that is drawn.
        case: What is planted; None for a healthy ensemble.
    """
    rng = np.random.default_rng([seed, 0 if case is None else 1 + CASES.index(case)])
    count, classes = int(rng.integers(3, 7)), int(rng.integers(2, 8))
    languages = LANGUAGES[: int(rng.integers(2, 5))]
    rows = int(rng.integers(150, 601))
    prior = tuple(rng.dirichlet(np.full(classes, 8.0)).tolist())
    weightings: Sequence[Weighting] = (Uniform(), Uniform(), Entropy(), ByLanguage())
    weighting = weightings[int(rng.integers(4))]
    teachers = [_draw_teacher(rng, f"t{m}", languages) for m in range(count)]
    for m in range(1, count):  # the first speaks all, so that no language is without a teacher
        if rng.random() < 0.3 and (case is None or weighting.kind != "by_language"):
            teachers[m] = replace(
                teachers[m], languages=frozenset([languages[int(rng.integers(len(languages)))]])
            )
    whole = tuple(rng.permutation(count)[:2].tolist())
    planted, other = int(whole[0]), int(whole[1])
    made = MadeEnsemble(seed, tuple(teachers), languages, prior, rows, weighting)
    if case is None:
        return made
    good = languages[int(rng.integers(len(languages)))]
    bad = _plant(rng, case, replace(teachers[planted], languages=None), other, good, classes)
    teachers[planted] = bad
    teachers[other] = replace(
        teachers[other], languages=None
    )  # so that the planted one can be dropped everywhere
    return replace(made, teachers=tuple(teachers), case=case, planted=planted, good=good)


def _draw_teacher(rng: np.random.Generator, name: str, languages: Sequence[str]) -> MadeTeacher:
    level = rng.uniform(1.8, 2.6)
    signal = {x: float(level + rng.uniform(-0.2, 0.2)) for x in languages}
    return MadeTeacher(name, signal, float(rng.uniform(0.7, 1.5)), float(rng.uniform(0.2, 0.6)))


def _plant(
    rng: np.random.Generator, case: Case, teacher: MadeTeacher, other: int, good: str, classes: int
) -> MadeTeacher:
    """Return a teacher with the planted fault."""
    if case == "useless":
        return replace(
            teacher, signal=dict.fromkeys(teacher.signal, 0.0), shared=0.0, scale=2.0 * teacher.scale
        )
    if case == "corrupted":
        return replace(teacher, permuted=float(rng.uniform(0.3, 0.6)), shift=int(rng.integers(1, classes)))
    if case == "copy":
        return replace(teacher, copies=other, scale=float(rng.uniform(0.8, 1.25)))
    weak = {x: s if x == good else float(rng.uniform(0.0, 0.5)) for x, s in teacher.signal.items()}
    return replace(teacher, signal=weak)
