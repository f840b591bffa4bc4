"""Hold what a comparison measured, and compare its arms seed by seed.

Decision record: the baseline was not chosen for its scores, so a difference to it is judged as it is. Every arm of a
comparison is one more chance to exclude 0 by luck, which the corrected p-value accounts for. An arm's missing seed
leaves its partner out, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from raykd.parse import JsonObject
from raykd.report.comparisons.differences import (
    GROUP,
    MACRO,
    SPLITS,
    PairedDifference,
    compute_paired_difference,
)
from raykd.report.comparisons.statistics import (
    Interval,
    bootstrap_seeds_and_rows,
    compute_t_interval,
    correct_p_values,
)
from raykd.report.results import Role
from raykd.report.sizes import Size
from raykd.tasks.scores.classes import ClassScores


@dataclass(frozen=True)
class TrainedStudent:
    """One arm with one seed. Written by `raykd.experiments.scoring`.

    Attributes:
        scores: By ``split/language/metric`` (language ``macro`` is the mean): ``test/macro/accuracy``.
        classes: Scores by class on the rows that arms are compared on; None where there are no classes.
        parameters: Of the student.
        megabytes: Of its weights on disk.
        ms_per_1000: Milliseconds for 1,000 texts on the threads of one worker; None was not measured.
        cpu_s: Processor seconds of its training, without the teachers'.
        timed_on: Threads and device of that time, in words; None is not known.
        right_N: Whether each unit of the rows was answered rightly; None where the main metric is no share of units.
    """

    scores: Mapping[str, float]
    classes: ClassScores | None = None
    parameters: int = 0
    megabytes: float = 0.0
    ms_per_1000: float | None = None
    cpu_s: float = 0.0
    right_N: NDArray[np.bool_] | None = None
    timed_on: str | None = None

    @property
    def by_class(self) -> dict[str, float]:
        """F1 of each class that occurs in gold."""
        found = () if self.classes is None else self.classes.classes
        return {one.name: one.f1 for one in found if one.support}


@dataclass(frozen=True)
class ArmResult:
    """One arm with all its seeds.

    Attributes:
        name: Its name.
        changes: What differs from the base, for people.
        against: The arm that it is compared with; None is compared with none.
        labelled: Labelled rows per language, of an arm of a budget curve.
        students: By seed; a failed training is missing.
        left_out: Value of `data.columns.group` that student and teachers learnt nothing from.
        teachers: Scores of its own teachers together, named as those of students; empty where it shares the base's.
    """

    name: str
    changes: str = ""
    against: str | None = None
    labelled: int | None = None
    students: Mapping[int, TrainedStudent] = field(default_factory=dict)
    left_out: str | None = None
    teachers: Mapping[str, float] = field(default_factory=dict)

    def read_scores(self, name: str) -> dict[int, float]:
        """Return a score by seed (``test/macro/accuracy``, ``class/positive``), without what is not finite."""
        kind, _, label = name.partition("/")
        found = {
            seed: (one.by_class.get(label) if kind == "class" else one.scores.get(name))
            for seed, one in self.students.items()
        }
        return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}

    def sum_classes(self) -> ClassScores | None:
        """Return the confusions summed over the seeds, with the class scores of one; None without classes."""
        known = [one.classes for one in self.students.values() if one.classes is not None]
        if not known:
            return None
        total = np.sum([one.confusion for one in known], axis=0)
        return replace(known[0], confusion=tuple(map(tuple, total.tolist())))


@dataclass(frozen=True)
class ReferenceSystem:
    """A teacher, or all together, measured once on the rows that the arms are compared on.

    Attributes:
        name: As tables show it.
        role: What it is.
        scores: As of `TrainedStudent`. The mean of a teacher is over its own languages.
        parameters: Of the model; the sum over an ensemble.
        megabytes: Of its weights on disk; None is not known.
        ms_per_1000: Milliseconds for 1,000 texts; None was not measured.
        timed_on: Threads and device of that time, in words; None is not known.
    """

    name: str
    role: Role
    scores: Mapping[str, float] = field(default_factory=dict)
    parameters: int = 0
    megabytes: float | None = None
    ms_per_1000: float | None = None
    timed_on: str | None = None

    @property
    def size(self) -> Size:
        """How large and fast it is."""
        ms = None if self.ms_per_1000 is None else self.ms_per_1000 / 1e3
        return Size(self.parameters, self.megabytes, ms, self.timed_on)


@dataclass(frozen=True)
class ArmScore:
    """Mean of a score over an arm's seeds, in raw units (a rate is in [0, 1]).

    Attributes:
        interval: Student's t interval of the mean; None with fewer than two seeds.
    """

    mean: float
    interval: Interval | None
    seeds: int


@dataclass(frozen=True)
class ComparisonReport:
    """Arms, each trained with several seeds.

    Attributes:
        arms: In the order of tables.
        seeds: All seeds.
        metric: The metric by which the run is judged, shown first.
        baseline: The arm that most others are compared with; None where each names its own.
        unit_languages: Language of each unit of `TrainedStudent.right_N`.
        notes: What a reader must know.
        references: Teachers and ensemble, beside which the arms are shown.
    """

    arms: tuple[ArmResult, ...]
    seeds: tuple[int, ...]
    metric: str = "accuracy"
    baseline: str | None = None
    unit_languages: tuple[str, ...] = ()
    title: str = "Comparison"
    summary: str = ""
    notes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    yaml: str = ""
    references: tuple[ReferenceSystem, ...] = ()

    @property
    def together(self) -> Size | None:
        """Size and time of the teachers together; None where neither is known, as of functions and files."""
        sizes = (one.size for one in self.references if one.role == "ensemble")
        return next((size for size in sizes if size.is_known), None)

    @cached_property
    def split(self) -> str:
        """The rows that arms are compared on: the test rows, or the validation rows where there are none."""
        names = {name.partition("/")[0] for name in self._names}
        return next((split for split in SPLITS if split in names), SPLITS[0])

    @cached_property
    def _names(self) -> list[str]:
        found = (name for arm in self.arms for one in arm.students.values() for name in one.scores)
        return list(dict.fromkeys(found))

    @cached_property
    def languages(self) -> list[str]:
        """Languages of the rows that arms are compared on."""
        parts = [name.split("/") for name in self._names]
        found = (p[1] for p in parts if len(p) == 3 and p[0] == self.split and p[1] != MACRO)
        return list(dict.fromkeys(found))

    @cached_property
    def groups(self) -> list[str]:
        """Values of `data.columns.group` among the rows that arms are compared on, as names of scores hold them."""
        parts = [name.split("/") for name in self._names]
        return list(dict.fromkeys(p[2] for p in parts if p[:2] == [self.split, GROUP]))

    def name_group(self, group: str) -> str:
        """Return the name of the score on the rows of a group."""
        return f"{self.split}/{GROUP}/{group}/{self.metric}"

    @cached_property
    def other_metrics(self) -> list[str]:
        """Metrics beside `metric` whose mean over languages is known on the rows that arms are compared on."""
        parts = [name.split("/") for name in self._names]
        found = (p[2] for p in parts if len(p) == 3 and p[:2] == [self.split, MACRO] and p[2] != self.metric)
        return list(dict.fromkeys(found))

    @cached_property
    def classes(self) -> list[str]:
        """Classes whose F1 is known."""
        found = (label for arm in self.arms for one in arm.students.values() for label in one.by_class)
        return list(dict.fromkeys(found))

    def find_arm(self, name: str) -> ArmResult:
        """Return the arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def compared(self) -> list[ArmResult]:
        """The arms that are compared with another one."""
        return [arm for arm in self.arms if arm.against is not None]

    def average(self, arm: ArmResult, name: str | None = None) -> ArmScore | None:
        """Return the mean of a score over an arm's seeds; None if no seed has it.

        Args:
            arm: The arm.
            name: ``split/language/metric``; None is the score that arms are compared by.
        """
        values = list(arm.read_scores(name or self.main_name).values())
        return ArmScore(float(np.mean(values)), compute_t_interval(values), len(values)) if values else None

    @property
    def main_name(self) -> str:
        """Name of the score that arms are compared by."""
        return f"{self.split}/{MACRO}/{self.metric}"

    @cached_property
    def main_differences(self) -> list[PairedDifference]:
        """The differences that decide, one per compared arm: `metric`, mean over languages."""
        return self._correct([self._compare(arm, self.main_name, whole=True) for arm in self.compared])

    @cached_property
    def language_differences(self) -> list[PairedDifference]:
        """`metric` in each language, for every compared arm, corrected as one family."""
        names = [f"{self.split}/{language}/{self.metric}" for language in self.languages]
        return self._correct([self._compare(arm, name) for name in names for arm in self.compared])

    @cached_property
    def group_differences(self) -> list[PairedDifference]:
        """`metric` on the rows of each group, for every compared arm, corrected as one family."""
        names = [self.name_group(group) for group in self.groups]
        return self._correct([self._compare(arm, name) for name in names for arm in self.compared])

    @cached_property
    def class_differences(self) -> list[PairedDifference]:
        """F1 of each class, for every compared arm, corrected as one family."""
        names = [f"class/{label}" for label in self.classes]
        return self._correct([self._compare(arm, name) for name in names for arm in self.compared])

    @cached_property
    def all_differences(self) -> list[PairedDifference]:
        """Every number that an arm and its partner have: test before validation, `metric` and the mean first."""
        parts = [tuple(name.split("/")) for name in self._names if name.count("/") == 2]
        metrics = [self.metric, *dict.fromkeys(p[2] for p in parts)]
        languages = [MACRO, *dict.fromkeys(p[1] for p in parts)]
        splits = [*SPLITS, *dict.fromkeys(p[0] for p in parts)]
        parts.sort(key=lambda p: (splits.index(p[0]), metrics.index(p[2]), languages.index(p[1])))
        found = [self._compare(arm, "/".join(p)) for p in parts for arm in self.compared]
        return [d for d in found if d is not None]

    def _correct(self, found: Sequence[PairedDifference | None]) -> list[PairedDifference]:
        known = [d for d in found if d is not None]
        corrected = correct_p_values([d.p for d in known])
        return [replace(d, corrected_p=p) for d, p in zip(known, corrected, strict=True)]

    def list_pairs(self, arm: ArmResult, name: str) -> list[tuple[int, float, float]]:
        """Return (seed, the arm's score, its partner's) for the seeds in which both have this score."""
        first, second = arm.read_scores(name), self.find_arm(arm.against or arm.name).read_scores(name)
        return [(seed, first[seed], second[seed]) for seed in self.seeds if seed in first and seed in second]

    def _compare(self, arm: ArmResult, name: str, whole: bool = False) -> PairedDifference | None:
        """Compare an arm with its partner; None without a common seed.

        Args:
            arm: The arm.
            name: Name of the score.
            whole: Whether rows are resampled too, where units are counted.
        """
        pairs = self.list_pairs(arm, name)
        if not pairs or arm.against is None:
            return None
        parts = [self.split, name[6:], "f1"] if name.startswith("class/") else name.split("/")
        split, language, metric = parts[0], parts[-2], parts[-1]
        found = compute_paired_difference(pairs, arm.name, arm.against, split, language, metric)
        units = self._subtract_units(arm, [seed for seed, _, _ in pairs]) if whole else None
        if units is not None:
            found = replace(found, bootstrap=bootstrap_seeds_and_rows(units, self.unit_languages))
        return found

    def _subtract_units(self, arm: ArmResult, seeds: Sequence[int]) -> NDArray[np.float64] | None:
        """Return the difference of every seed and unit, [S, N]; None where units are not counted."""
        other = self.find_arm(arm.against or arm.name)
        pairs = [(arm.students[seed].right_N, other.students[seed].right_N) for seed in seeds]
        rows = [one.astype(np.float64) - two for one, two in pairs if one is not None and two is not None]
        if len(rows) < len(pairs) or any(len(row) != len(self.unit_languages) for row in rows):
            return None
        return np.stack(rows)

    def list_missing(self) -> list[str]:
        """Return arms and seeds without any number, as texts."""
        return [
            f"{arm.name}, seed {seed}" for arm in self.arms for seed in self.seeds if seed not in arm.students
        ]


def build_comparison_report(tree: JsonObject) -> ComparisonReport:
    """Return the report of its plain data (`raykd.report.record`)."""
    arms = tuple(
        ArmResult(**{
            **arm,
            "teachers": {name: float(value) for name, value in arm.get("teachers", {}).items()},
            "students": {int(seed): _build_student(one) for seed, one in arm["students"].items()}
        })
        for arm in tree["arms"]
    )  # fmt: skip
    texts = {name: tuple(tree[name]) for name in ("seeds", "unit_languages", "notes")}
    references = TypeAdapter(tuple[ReferenceSystem, ...]).validate_python(tree["references"])
    return ComparisonReport(**{**tree, "arms": arms, "references": references, **texts})


def _build_student(tree: JsonObject) -> TrainedStudent:
    right = tree["right_N"]
    return TrainedStudent(**{
        **tree,
        "scores": {name: float(value) for name, value in tree["scores"].items()},
        "classes": TypeAdapter(ClassScores | None).validate_python(tree["classes"]),
        "right_N": None if right is None else np.asarray([one == "1" for one in right], dtype=bool),
    })  # fmt: skip
