"""Routing: which teachers answer for a row follows from its language, or from a column of its own.

Decision record: teachers outside their language or domain are often confidently wrong, so what a row is decides before
how sure a teacher is. Only the teachers that a row's weights name are asked for it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, field_validator

from raykd.distill.signals import Signals
from raykd.distill.weightings.base import (
    Languages,
    WeightingBase,
    lay_out_table,
    normalise,
    softmax_over_teachers,
    speaks,
    spread_evenly,
)
from raykd.distill.weightings.families import compare_languages, is_known_language
from raykd.errors import ConfigError

LanguageClass = Literal["monolingual", "multilingual", "any"]


class ByLanguage(WeightingBase):
    """Routing: the covering teachers of the first non-empty class of ``chain`` share a unit equally.

    ``monolingual``: declared for exactly the unit's language. ``multilingual``: declared for several
    languages, this one among them, or for any. ``any``: all that cover the unit.

    Trade-off of `may_need`: it narrows a row to the first class that has a teacher *declared* for its language,
    which saves every other teacher's forward pass. If that teacher fails at run time, or truncates the
    unit, the others were not asked and the unit is not covered: it falls back to its gold label.
    """

    has_preferences: ClassVar[bool] = True
    kind: Literal["by_language"] = "by_language"
    chain: tuple[LanguageClass, ...] = Field(default=("monolingual", "multilingual", "any"), min_length=1)
    """Classes of teachers, the preferred one first."""

    @field_validator("chain")
    @classmethod
    def _no_class_twice(cls, value: tuple[LanguageClass, ...]) -> tuple[LanguageClass, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"a class stands twice in the chain {value}")
        return value

    def prefer(self, teacher: str, declared: Languages, language: str, group: str | None) -> float:
        ranks = (at for at, name in enumerate(self.chain) if _in_class(name, declared, language))
        return next(ranks, math.inf)

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return spread_evenly(eligible_MN)


def _read_weights(value: object) -> object:
    """A teacher's name, or a list of names, stands for equal weights."""
    names = [value] if isinstance(value, str) else value
    return dict.fromkeys(names, 1.0) if isinstance(names, list | tuple) else value


TeacherWeights = Annotated[dict[str, Annotated[float, Field(ge=0.0)]], BeforeValidator(_read_weights)]
"""A weight for each teacher by name, on any scale; a name or a list of names stands for equal weights."""


class ByColumn(WeightingBase):
    """Weights as written for each value of a column of the rows, renormalised over the covering teachers.

    With the column `group` (`data.columns.group`) rows of a domain or a source go to the teachers that know it; with
    `language` each language has fixed weights of its own. A teacher without weight for a row is not asked for it.
    """

    has_preferences: ClassVar[bool] = True
    kind: Literal["by_column"] = "by_column"
    column: Literal["group", "language"] = "group"
    """What a row is weighted by: its value in the column that `data.columns.group` names, or its language."""
    weights_of: dict[str, TeacherWeights]
    """Teachers by value, for example `{hotel: travel, phone: [tech, world], food: {home: 2, world: 1}}`."""
    otherwise: TeacherWeights | None = None
    """Teachers of all other values, rows without one among them; None is all teachers alike."""

    @field_validator("weights_of")
    @classmethod
    def _some_weight(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for name, weights in value.items():
            if not any(weights.values()):
                raise ValueError(f"{name}: at least one teacher needs a weight above 0")
        return value

    @field_validator("otherwise")
    @classmethod
    def _some_weight_otherwise(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and not any(value.values()):
            raise ValueError("at least one teacher needs a weight above 0")
        return value

    @property
    def reads_groups(self) -> bool:  # type: ignore[override]
        """Whether it reads the column `data.columns.group`."""
        return self.column == "group"

    def check(
        self, teachers: Sequence[str], teacher_languages: Sequence[Languages], languages: Sequence[str]
    ) -> None:
        named = {name for weights in (*self.weights_of.values(), self.otherwise or {}) for name in weights}
        if unknown := sorted(named - set(teachers)):
            raise ConfigError(
                f"objective.weighting: no teacher {unknown[0]}",
                got=f"by_column names {', '.join(sorted(named))}",
                wanted=f"the run's teachers: {', '.join(sorted(teachers))}",
                next_step="correct the name under weights_of or otherwise",
            )
        unknown = sorted(set(self.weights_of) - set(languages)) if self.column == "language" else []
        if unknown:
            raise ConfigError(
                f"objective.weighting.weights_of: no language {unknown[0]} in this run",
                got=", ".join(self.weights_of),
                wanted=f"languages of data.languages: {', '.join(languages)}",
                next_step="correct it, or write column: group for another column than the language",
            )

    def prefer(self, teacher: str, declared: Languages, language: str, group: str | None) -> float:
        values = [language if self.column == "language" else group]
        if values == [None]:
            values = [*self.weights_of, None]
        return 0.0 if any(self._find_weight(value, teacher) > 0.0 for value in values) else math.inf

    def without(self, gone: Collection[str]) -> WeightingBase:
        """See the base; rows whose teachers are all gone go to those of `otherwise`."""

        def keep(weights: Mapping[str, float]) -> dict[str, float]:
            return {name: weight for name, weight in weights.items() if name not in gone}

        left = {value: keep(weights) for value, weights in self.weights_of.items()}
        return self.model_copy(
            update={
                "weights_of": {value: weights for value, weights in left.items() if any(weights.values())},
                "otherwise": keep(self.otherwise or {}) or None,
            }
        )

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        values = signals.languages if self.column == "language" else signals.groups
        weight_MN = lay_out_table(
            values or ("",) * len(signals.languages),
            lambda value: [self._find_weight(value, name) for name in signals.teachers],
            signals,
        )
        return normalise(weight_MN, eligible_MN)

    def _find_weight(self, value: str | None, teacher: str) -> float:
        weights = self.weights_of.get(value or "", self.otherwise)
        return 1.0 if weights is None else weights.get(teacher, 0.0)


class LanguageSimilarity(WeightingBase):
    """Teachers at home in a row's language share it; where there are none, ``w_m ~ exp(s(l, home of m) / tau)``.

    For a language that no teacher was trained on: the teachers that cover it all the same are weighted by how near
    their own language is (Multi-TS, Wu et al., arXiv 2004.12440, which measures it by a model of languages). s is what
    `similarity` says, else by families: ``2 |common branches| / (|a| + |b|)``, 1 for the same language and 0 for
    unrelated ones. Of a teacher at home in several languages the nearest counts.
    """

    has_preferences: ClassVar[bool] = True
    kind: Literal["language_similarity"] = "language_similarity"
    home: dict[str, tuple[str, ...]] = {}
    """The languages that a teacher was trained on, where it is declared for more (`teachers.languages`, in which it is
    asked): `{es: [es], pt: [pt]}`. Others are at home where they are declared."""
    similarity: dict[str, dict[str, Annotated[float, Field(ge=0.0, le=1.0)]]] = {}
    """Similarity of a row's language to a teacher's, from 0 to 1: `{gl: {pt: 0.9, es: 0.8}}`. What is not written is
    computed from a table of families."""
    tau: float = Field(default=0.2, gt=0.0)
    """Sharpness: small trusts the nearest teacher alone, large is uniform."""

    def check(
        self, teachers: Sequence[str], teacher_languages: Sequence[Languages], languages: Sequence[str]
    ) -> None:
        if unknown := sorted(set(self.home) - set(teachers)):
            raise ConfigError(
                f"objective.weighting.home: no teacher {unknown[0]}",
                got=", ".join(self.home),
                wanted=f"the run's teachers: {', '.join(sorted(teachers))}",
                next_step="correct the name",
            )
        for language in languages:
            asked = self.may_need(language, teachers, teacher_languages)
            homes = [
                self._find_home(name, own) for name, own in zip(teachers, teacher_languages, strict=True)
            ]
            for there, home in zip(asked, homes, strict=True):
                if there and home is not None and language not in home:
                    self._check_known(language, home)

    def _check_known(self, language: str, home: frozenset[str]) -> None:
        for other in sorted(home):
            known = is_known_language(language) and is_known_language(other)
            if not known and other not in self.similarity.get(language, {}):
                raise ConfigError(
                    f"objective.weighting: how near {language} is to {other} is not known",
                    got="a language that the built-in table of families does not have",
                    wanted=f"a number from 0 to 1 under objective.weighting.similarity.{language}.{other}",
                    next_step="write it, or choose another weighting",
                )

    def prefer(self, teacher: str, declared: Languages, language: str, group: str | None) -> float:
        return 0.0 if speaks(self._find_home(teacher, declared), language) else 1.0

    def without(self, gone: Collection[str]) -> WeightingBase:
        kept = {name: home for name, home in self.home.items() if name not in gone}
        return self.model_copy(update={"home": kept})

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        homes = [
            self._find_home(name, declared)
            for name, declared in zip(signals.teachers, signals.teacher_languages, strict=True)
        ]
        near_MN = lay_out_table(
            signals.languages, lambda language: [self._compare(language, home) for home in homes], signals
        )
        return softmax_over_teachers(near_MN.float() / self.tau, eligible_MN)

    def _find_home(self, teacher: str, declared: Languages) -> Languages:
        return frozenset(self.home[teacher]) if teacher in self.home else declared

    def _compare(self, language: str, home: Languages) -> float:
        """Return how near a language is to the nearest one of a teacher; 1 where it is the teacher's own."""
        if speaks(home, language):
            return 1.0
        written = self.similarity.get(language, {})
        # Below 1, which is being at home.
        found = (written[own] if own in written else compare_languages(language, own) for own in home or ())
        return min(max(found, default=0.0), 1.0 - 1e-6)


def _in_class(name: LanguageClass, declared: Languages, language: str) -> bool:
    if name == "monolingual":
        return declared == frozenset({language})
    if name == "multilingual":
        return declared is None or (len(declared) > 1 and language in declared)
    return True
