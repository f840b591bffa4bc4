"""Check an objective, and a vocabulary, against the labels, teachers and rows of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from raykd.config.data import DataConfig
from raykd.config.teachers import TeacherBase
from raykd.distill.adapting.softening import TargetEntropy, find_unsuited
from raykd.distill.divergences.transformed import AnnealedLogitMSE
from raykd.distill.features.states import Position
from raykd.distill.objective import Objective
from raykd.distill.weighting import Weighting
from raykd.distill.weightings.base import LearnedWeighting
from raykd.errors import ConfigError
from raykd.models import Student
from raykd.tasks import TaskBase
from raykd.tasks.refusals import refuse_keys


def check_objective(
    objective: Objective, labels: Sequence[str], missing: Mapping[str, Sequence[str]]
) -> None:
    """Check that what an objective says of labels, and how it compares them, suits the labels of a run.

    Args:
        objective: The objective.
        labels: The run's labels; () of a task without labels.
        missing: Labels that each teacher does not know, by its name.

    Raises:
        ValueError: The task has no labels or not that one, or a divergence degenerates with so few.
    """
    weights = objective.class_weights
    if not labels and (weights is not None or objective.focal_gamma):
        key = "focal_gamma" if weights is None else "class_weights"
        raise ValueError(f"objective.{key} plays no part in this task, which has no labels; leave it out")
    if not labels and objective.least_confidence.bounds()[1] > 0.0:
        raise ValueError(
            "objective.least_confidence plays no part in this task, which has no labels; leave it out"
        )
    if not labels and (objective.drop_surpassed is not None or objective.contradictions != "keep"):
        key = "contradictions" if objective.drop_surpassed is None else "drop_surpassed"
        raise ValueError(
            f"objective.{key} compares what teachers say by labels, which this task has none of; leave it out"
        )
    inner = objective.weighting.inner
    if not labels and isinstance(inner, LearnedWeighting):
        raise ValueError(
            f"objective.weighting {inner.kind} judges teachers by labels, which this task has none of; write "
            "weighting: {kind: by_language}, uniform or fixed"
        )
    named = weights if isinstance(weights, dict) else {}
    if unknown := [label for label in named if label not in labels]:
        raise ValueError(f"objective.class_weights names {unknown[0]!r}, not in data.labels {list(labels)}")
    if isinstance(objective.temperature, TargetEntropy):
        _check_unit_temperatures(objective, labels)
    low, high = objective.temperature.bounds()
    for divergence in (term.divergence for term in objective.terms):
        if isinstance(divergence, AnnealedLogitMSE) and not 1.0 <= low <= high <= divergence.most:
            raise ValueError(
                f"objective.temperature must fall from {divergence.most:g} to 1 with {divergence.kind}, it is between "
                f"{low:g} and {high:g}: write temperature: {{kind: linear, start: {divergence.most:g}, end: 1}}"
            )
        if labels and len(labels) < divergence.least_choices:
            raise ValueError(
                f"objective.terms: {divergence.kind} needs {divergence.least_choices} labels or more, data.labels has "
                f"{len(labels)}: it would compare nothing, or one part of what it says; use forward_kl, reverse_kl, "
                "jensen_shannon or logit_mse"
            )
        for name, lacking in missing.items() if labels and divergence.equal_choices else ():
            known = len(set(labels) - set(lacking))
            if known < divergence.least_choices:
                raise ValueError(
                    f"objective.terms: {divergence.kind} needs {divergence.least_choices} labels or more, teacher "
                    f"{name} knows {known} of data.labels; choose another divergence, or leave the teacher out"
                )


def _check_unit_temperatures(objective: Objective, labels: Sequence[str]) -> None:
    """Refuse a temperature for each unit where something reads one of all units.

    Raises:
        ValueError: Names it.
    """
    kind = objective.temperature.kind
    if not labels:
        raise ValueError(
            f"objective.temperature {kind} reads teachers' answers over labels, which this task has none of: write a "
            "number"
        )
    if unsuited := find_unsuited(term.divergence for term in objective.terms):
        raise ValueError(
            f"objective.temperature {kind} does not suit {unsuited}, which reads logits beside their ratio to the "
            "temperature, or several units at once; use forward_kl, reverse_kl, jensen_shannon or skewed_kl"
        )
    if objective.weighting.inner.reads_student:
        raise ValueError(
            f"objective.temperature {kind} follows from the teachers' weights, and {objective.weighting.inner.kind} "
            "reads the temperature to find them: write a number, or choose another weighting"
        )


def check_crf(student: Student, task: TaskBase, objective: Objective) -> None:
    """Refuse a chain of tags where there are no tags, and keys that weigh or soften the gold tag of one word beside it.

    Raises:
        ConfigError: Names the key.
    """
    if student.crf and task.head != "token_classification":
        raise ConfigError(
            f"student.crf scores which tag of a word follows which, and {task.kind} has no tags",
            got="crf: true",
            wanted="task: {kind: token_classification}, or no crf",
        )
    if student.crf:
        keys = ("label_smoothing", "class_weights", "focal_gamma")
        refuse_keys(objective, keys, "a tagger with a CRF, whose gold term is the likelihood of rows")


def check_weighting(weighting: Weighting, teachers: Sequence[TeacherBase], data: DataConfig) -> None:
    """Check that a weighting suits the teachers and rows of a run.

    Raises:
        ConfigError: It names a teacher or language that is not there.
        ValueError: It reads a column that no key names.
    """
    if teachers:
        spoken = [teacher.language_set for teacher in teachers]
        weighting.check(
            tuple(teacher.name for teacher in teachers), spoken, data.select_languages or data.languages
        )
    if weighting.inner.reads_groups and data.columns.group is None:
        raise ValueError(
            f"objective.weighting {weighting.kind} reads the column `group`: name it, for example "
            "data.columns.group=domain"
        )


def asks_others(objective: Objective, other: Objective) -> bool:
    """Return whether other teachers may be asked for a row, or teach it, than under another objective.

    What a gate, a bandit or a policy has learned holds for its own settings.
    """
    routing = ("fixed", "by_column", "language_similarity", "gate", "bandit", "policy")
    own, others = objective.weighting, other.weighting
    kinds, other_kinds = (own.kind, own.inner.kind), (others.kind, others.inner.kind)
    differs = kinds != other_kinds or objective.drop_surpassed != other.drop_surpassed
    return differs or (own.inner.kind in routing and own.inner != others.inner)


def check_features(
    objective: Objective,
    positions: Collection[Position],
    teachers: Sequence[TeacherBase],
    asks_elsewhere: bool = False,
) -> None:
    """Check that a run's task, teachers and rows have what its feature terms compare.

    Args:
        objective: The objective.
        positions: Where states of the task's rows may be compared.
        teachers: The run's.
        asks_elsewhere: Whether teachers read another text than the student does (`data.augment`).

    Raises:
        ValueError: The task, a teacher or the rows rule a term out.
    """
    for term in objective.features:
        where = f"objective.features: {term.kind}"
        if asks_elsewhere:
            raise ValueError(
                f"{where} compares states of one text, and data.augment asks about another: set targets: of_the_copy"
            )
        if not positions:
            raise ValueError(f"{where} plays no part in this task; leave it out")
        if term.where not in positions:
            raise ValueError(
                f"{where}: position {term.where} is none of this task's: {', '.join(sorted(positions))}"
            )
        names = [teacher.name for teacher in teachers]
        if unknown := sorted(set(term.teachers or ()) - set(names)):
            raise ValueError(f"{where}: teachers names {unknown[0]}, which is none of {', '.join(names)}")
        for teacher in teachers:
            if term.uses(teacher.name) and not teacher.has_states:
                raise ValueError(
                    f"{where} reads states of an encoder, and teacher {teacher.name} of kind {teacher.kind} has none; "
                    "name in `teachers` those of kind model or trained"
                )


def check_union(name: str, task: TaskBase, data: DataConfig, teachers: Sequence[TeacherBase]) -> None:
    """Refuse the union of the teachers' vocabularies where a model cannot have it.

    Raises:
        ValueError: With the reason.
    """
    if name != "student":
        raise ValueError(f"{name}: vocabulary union is that of a model's teachers, and a teacher has none")
    if not task.union_vocabulary:
        raise ValueError(f"student.vocabulary union serves masked_lm, not {task.kind}")
    spoken = [t.language_set for t in teachers]
    for lang in data.select_languages or data.languages:
        if not any(own is None or lang in own for own in spoken):
            raise ValueError(
                f"student.vocabulary union: no teacher speaks {lang}, so there is no tokenizer for its texts"
            )
