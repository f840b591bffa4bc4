"""Routing: which teachers answer for a row follows from its language, or from a column of its own.

Decision record: teachers outside their language or domain are often confidently wrong, so what a row is decides before
how sure a teacher is. Only the teachers that a row's weights name are asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field, field_validator

from raykd.devices import copy_to_device
from raykd.distill.signals import Signals
from raykd.distill.weightings.base import (
    Languages,
    WeightingBase,
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

    kind: Literal["by_language"] = "by_language"
    chain: tuple[LanguageClass, ...] = Field(default=("monolingual", "multilingual", "any"), min_length=1)
    """Classes of teachers, the preferred one first."""

    @field_validator("chain")
    @classmethod
    def _no_class_twice(cls, value: tuple[LanguageClass, ...]) -> tuple[LanguageClass, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"a class stands twice in the chain {value}")
        return value

    def may_need(
        self,
        language: str,
        teachers: Sequence[str],
        teacher_languages: Sequence[Languages],
        group: str | None = None,
    ) -> tuple[bool, ...]:
        speaks = super().may_need(language, teachers, teacher_languages)
        for name in self.chain:
            chosen = tuple(
                ok and _in_class(name, declared, language)
                for ok, declared in zip(speaks, teacher_languages, strict=True)
            )
            if any(chosen):
                return chosen
        return (False,) * len(speaks)

    def eligible(self, signals: Signals) -> torch.Tensor:
        eligible_MN = torch.zeros_like(signals.covered_MN)
        for name in self.chain:
            chosen_MN = signals.covered_MN & _class_mask(name, signals)
            # Only units that no earlier class served.
            eligible_MN = eligible_MN | (chosen_MN & ~eligible_MN.any(dim=0, keepdim=True))
        return eligible_MN

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

    def may_need(
        self,
        language: str,
        teachers: Sequence[str],
        teacher_languages: Sequence[Languages],
        group: str | None = None,
    ) -> tuple[bool, ...]:
        values = [language if self.column == "language" else group]
        if values == [None]:
            values = [*self.weights_of, None]
        rows = [self._list_weights(value, teachers) for value in values]
        own = super().may_need(language, teachers, teacher_languages)
        return tuple(ok and any(weights[m] > 0.0 for weights in rows) for m, ok in enumerate(own))

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

    def eligible(self, signals: Signals) -> torch.Tensor:
        return signals.covered_MN & (self._lay_out(signals) > 0.0)

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return normalise(self._lay_out(signals), eligible_MN)

    def _list_weights(self, value: str | None, teachers: Sequence[str]) -> list[float]:
        weights = self.weights_of.get(value or "", self.otherwise)
        return [1.0 if weights is None else weights.get(name, 0.0) for name in teachers]

    def _lay_out(self, signals: Signals) -> torch.Tensor:
        values = signals.languages if self.column == "language" else signals.groups
        values = values or ("",) * len(signals.languages)
        return _lay_out_table(values, lambda value: self._list_weights(value, signals.teachers), signals)


class LanguageSimilarity(WeightingBase):
    """Teachers at home in a row's language share it; where there are none, ``w_m ~ exp(s(l, home of m) / tau)``.

    For a language that no teacher was trained on: the teachers that cover it all the same are weighted by how near
    their own language is (Multi-TS, Wu et al., arXiv 2004.12440, which measures it by a model of languages). s is what
    `similarity` says, else by families: ``2 |common branches| / (|a| + |b|)``, 1 for the same language and 0 for
    unrelated ones. Of a teacher at home in several languages the nearest counts.
    """

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

    def may_need(
        self,
        language: str,
        teachers: Sequence[str],
        teacher_languages: Sequence[Languages],
        group: str | None = None,
    ) -> tuple[bool, ...]:
        own = super().may_need(language, teachers, teacher_languages)
        at_home = tuple(
            ok and speaks(self._find_home(name, declared), language)
            for ok, name, declared in zip(own, teachers, teacher_languages, strict=True)
        )
        return at_home if any(at_home) else own

    def without(self, gone: Collection[str]) -> WeightingBase:
        kept = {name: home for name, home in self.home.items() if name not in gone}
        return self.model_copy(update={"home": kept})

    def eligible(self, signals: Signals) -> torch.Tensor:
        at_home_MN = self._lay_out(signals) >= 1.0
        chosen_MN = signals.covered_MN & at_home_MN
        return torch.where(chosen_MN.any(dim=0, keepdim=True), chosen_MN, signals.covered_MN)

    def _spread(self, signals: Signals, eligible_MN: torch.Tensor) -> torch.Tensor:
        return softmax_over_teachers(self._lay_out(signals).float() / self.tau, eligible_MN)

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

    def _lay_out(self, signals: Signals) -> torch.Tensor:
        homes = [
            self._find_home(name, declared)
            for name, declared in zip(signals.teachers, signals.teacher_languages, strict=True)
        ]
        return _lay_out_table(
            signals.languages, lambda language: [self._compare(language, home) for home in homes], signals
        )


def _in_class(name: LanguageClass, declared: Languages, language: str) -> bool:
    if name == "monolingual":
        return declared == frozenset({language})
    if name == "multilingual":
        return declared is None or (len(declared) > 1 and language in declared)
    return True


def _class_mask(name: LanguageClass, signals: Signals) -> torch.Tensor:
    """Return whether teacher m belongs to this class for unit n's language, bool ``[M, N]``."""
    return (
        _lay_out_table(
            signals.languages,
            lambda code: [float(_in_class(name, declared, code)) for declared in signals.teacher_languages],
            signals,
        )
        > 0.0
    )


def _lay_out_table(
    values: Sequence[str], list_numbers: Callable[[str], list[float]], signals: Signals
) -> torch.Tensor:
    """Return ``[M, N]``: numbers of teachers that follow from a value of the unit, float64 on the signals' device.

    float64, so that a very small weight renormalises to 1 where its teacher stands alone.

    Args:
        values: Of each unit.
        list_numbers: Returns the numbers ``[M]`` of a value.
        signals: The answers.
    """
    distinct = sorted(set(values))
    position: Mapping[str, int] = {value: i for i, value in enumerate(distinct)}
    table_VM = torch.tensor([list_numbers(value) for value in distinct], dtype=torch.float64)
    table_VM = table_VM.reshape(len(distinct), len(signals.teachers))
    index_N = torch.tensor([position[value] for value in values], dtype=torch.int64)
    return copy_to_device(table_VM.T[:, index_N], signals.covered_MN.device)
