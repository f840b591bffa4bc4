"""Plan what feature terms compare: which states of the student and of each teacher, and through which matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raykd.distill.features.states import EncoderShape, FeatureRequest, Source
from raykd.distill.features.terms import Feature, FeatureBase


@dataclass(frozen=True)
class FeaturePlan:
    """What is compared. Made by `plan_features`.

    Attributes:
        pairs: By kind of the term and place of the teacher, the pairs of layers; none where the teacher's are not used.
        student: What is read of the student.
        teachers: What each teacher is asked for, in the order of M; () where it is asked for nothing.
        widths: By name of each projection, the widths that it maps from and to.
        heads: Attention heads of the student.
    """

    pairs: Mapping[tuple[str, int], tuple[tuple[int, int], ...]]
    student: FeatureRequest
    teachers: tuple[FeatureRequest, ...]
    widths: Mapping[str, tuple[int, int]]
    heads: int


def plan_features(
    features: Sequence[Feature], student: EncoderShape, teachers: Mapping[str, EncoderShape | None]
) -> FeaturePlan:
    """Plan the comparisons of a run.

    Args:
        features: The objective's.
        student: The student's encoder.
        teachers: The teachers' encoders by name, in the order of M; None for one whose states are not used.

    Raises:
        ConfigError: A teacher's encoder cannot be compared with the student's.
    """
    pairs: dict[tuple[str, int], tuple[tuple[int, int], ...]] = {}
    widths: dict[str, tuple[int, int]] = {}
    own: set[Source] = set()
    asked: list[set[Source]] = [set() for _ in teachers]
    for term in features:
        for m, (name, shape) in enumerate(teachers.items()):
            if shape is None or not term.uses(name):
                continue
            found = term.list_pairs(student, shape, name)
            term.check_shapes(student, shape, name, found)
            pairs[term.kind, m] = found
            for ours, theirs in found:
                own.update(term.list_sources(ours))
                asked[m].update(term.list_sources(theirs))
                if term.has_projection(student, shape):
                    widths[name_projection(term, m, ours, theirs)] = (student.width, shape.width)
    return FeaturePlan(
        pairs, tuple(sorted(own)), tuple(tuple(sorted(one)) for one in asked), widths, student.heads
    )


def name_projection(term: FeatureBase, m: int, ours: int, theirs: int) -> str:
    """Return the name of the matrix between two layers, which is a part of its name in checkpoints.

    Args:
        term: The term that compares them.
        m: Place of the teacher.
        ours: The student's layer.
        theirs: The teacher's layer.
    """
    return f"{term.kind}_{m}_{ours}_{theirs}"
