"""Generate arms from a base run: each teacher alone, one left out, other weightings, divergences, sizes, labels.

Decision record: a generated arm is an overlay of the base, as a written one is, so that a reader can write it down and
change it. Only the arm without teachers is a run of its own making (`RunConfig.without_teachers`). Two generated arms
that are the same run (with two teachers, leaving one out is the other alone) are trained once, under the first name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from raykd.config import MultiRun, Run, RunConfig, TeacherConfig, TrainedTeacher, overlay
from raykd.errors import ConfigError
from raykd.parse import JsonObject
from raykd.spec import Spec

ALONE, LEFT_OUT, NO_TEACHERS, SELF, UNSEEN = "only_", "without_", "no_teachers", "self_training", "unseen_"
"""Names of generated arms, or their beginnings."""
WIDTHS = ("embedding", "hidden", "feed_forward", "buckets")
"""Keys of a student that `sizes` multiplies."""
_SWITCHES = ("each_teacher", "leave_one_out", "no_teachers")


class Generator(Spec):
    """One way to generate arms. The three that need no values may be written as their name alone."""

    each_teacher: bool = False
    """An arm `only_NAME` for each teacher, which then teaches alone."""
    leave_one_out: bool = False
    """An arm `without_NAME` for each teacher, with all teachers but this one."""
    no_teachers: bool = False
    """The arm `no_teachers`: gold labels alone."""
    weightings: tuple[JsonObject | str, ...] = ()
    """An arm for each value of `objective.weighting`: a kind, or a mapping with its `kind`."""
    divergences: tuple[JsonObject | str, ...] = ()
    """An arm for each divergence, as the only term of the objective: a kind, or a mapping with its `kind`."""
    sizes: tuple[Annotated[float, Field(gt=0.0)], ...] = ()
    """An arm for each factor on the student's widths (embedding, hidden, feed_forward, buckets)."""
    students: dict[str, JsonObject] = {}
    """An arm for each overlay of `student`, by name."""
    labelled: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Two arms for each number of labelled rows per language: `labelled_N` with the base's teachers, and
    `labelled_N_no_teachers`, with which it is compared."""
    left_out: tuple[str, ...] = ()
    """Two arms for each value of the column `data.columns.group` (leave one domain out): `unseen_VALUE`, whose student
    and trained teachers learn nothing from such rows, and `unseen_VALUE_no_teachers`, with which it is compared. A
    table has the scores on the rows of the value and on the others."""
    self_training: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """An arm `labelled_N_self_training` for each number of labelled rows per language, compared with
    `labelled_N_no_teachers`: its only teacher is a model of the student's kind and size, trained on the same labelled
    rows for as many steps."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: object) -> object:
        return {data: True} if data in _SWITCHES else data

    @field_validator("weightings", "divergences", mode="before")
    @classmethod
    def _kinds(cls, value: object) -> object:
        if not isinstance(value, (list, tuple)):
            return value
        for item in value:
            if isinstance(item, dict) and "kind" not in item:
                raise ValueError(f"an item without kind: {item}")
        return value

    @model_validator(mode="after")
    def _one(self) -> Generator:
        written = sorted(self.model_fields_set)
        if len(written) != 1 or not getattr(self, written[0]):
            raise ValueError(f"one way to generate arms an item, got {written or 'none'}")
        return self


@dataclass(frozen=True)
class GeneratedArm:
    """An arm before it is a run.

    Attributes:
        name: Its name.
        changes: Overlay of the base.
        plain: Whether the arm then loses its teachers.
        against: The arm that it is compared with; None takes the experiment's baseline.
        labelled: Labelled rows per language, of an arm of a budget curve.
        is_reference: Whether it is compared with no other arm.
        left_out: Value of `data.columns.group` that it learns nothing from, of an arm of `left_out`.
    """

    name: str
    changes: JsonObject
    plain: bool = False
    against: str | None = None
    labelled: int | None = None
    is_reference: bool = False
    left_out: str | None = None


def generate_arms(generator: Generator, base: Run) -> Iterator[GeneratedArm]:
    """Yield the arms of one generator.

    Args:
        generator: What to generate.
        base: The run that arms are overlays of.

    Raises:
        ConfigError: The base has not what the arms need.
    """
    if generator.each_teacher:
        yield from _each_teacher(base)
    if generator.leave_one_out:
        yield from _leave_one_out(base)
    if generator.no_teachers:
        yield GeneratedArm(NO_TEACHERS, {}, plain=True)
    for weighting in generator.weightings:
        value = {"kind": weighting} if isinstance(weighting, str) else weighting
        yield GeneratedArm(_name("weighting", value), _change_objective(base, {"weighting": value}))
    if generator.divergences:
        yield from _divergences(generator, base)
    for factor in generator.sizes:
        yield GeneratedArm(f"size_{factor:g}", {"student": scale_student(base, factor)})
    for name, student in generator.students.items():
        yield GeneratedArm(f"student_{name}", {"student": student})
    if generator.labelled:
        yield from _labelled(generator, base)
    if generator.left_out:
        yield from _left_out(generator, base)
    if generator.self_training:
        yield from _self_training(generator, base)


def _each_teacher(base: Run) -> Iterator[GeneratedArm]:
    """Yield an arm per teacher, which teaches its task alone; other tasks keep their teachers."""
    least = 2 if isinstance(base, MultiRun) else 1
    for task, names in _require_teachers(base, least, "each_teacher").items():
        for teacher in names:
            # Over one teacher all weightings are equal, but for a fixed one of 0 and a chain that leaves it out.
            changes = _change_task(base, task, {"weighting": {"kind": "uniform"}})
            chosen = {"select_teachers": [*_list_others(base, names), teacher]}
            yield GeneratedArm(f"{ALONE}{teacher}", {**chosen, **changes})


def _leave_one_out(base: Run) -> Iterator[GeneratedArm]:
    """Yield an arm per teacher that its task can do without."""
    for task, names in _require_teachers(base, 2, "leave_one_out").items():
        weighting = base.members[task].objective.weighting
        for left in names:
            kept = [t.name for t in base.active_teachers if t.name != left]
            changes: JsonObject = {"select_teachers": kept}
            rest = weighting.without([left])
            if rest != weighting:
                changes |= _change_task(base, task, {"weighting": rest.model_dump(mode="json")})
            yield GeneratedArm(f"{LEFT_OUT}{left}", changes)


def _list_others(base: Run, names: Sequence[str]) -> list[str]:
    return [teacher.name for teacher in base.active_teachers if teacher.name not in names]


def _change_task(base: Run, task: str, objective: JsonObject) -> JsonObject:
    """Return an overlay of the objective of one task; in a run of one task of the run's."""
    return {"task": {"tasks": {task: {"objective": objective}}}} if task else {"objective": objective}


def _change_objective(base: Run, objective: JsonObject) -> JsonObject:
    """Return an overlay of the objective of all tasks, those included that have keys of their own for it."""
    changes: JsonObject = {"objective": objective}
    if isinstance(base, MultiRun):
        own = [name for name, member in base.task.tasks.items() if set(objective) & set(member.objective)]
        if own:
            changes["task"] = {"tasks": {name: {"objective": objective} for name in own}}
    return changes


def _divergences(generator: Generator, base: Run) -> Iterator[GeneratedArm]:
    shape = base.objective.terms[0].lambda_schedule.model_dump(mode="json")
    for divergence in generator.divergences:
        value = {"kind": divergence} if isinstance(divergence, str) else divergence
        terms = [{"divergence": value, "lambda_schedule": shape}]
        yield GeneratedArm(_name("divergence", value), _change_objective(base, {"terms": terms}))


def _labelled(generator: Generator, base: Run) -> Iterator[GeneratedArm]:
    """Yield two arms per number of labelled rows, which each task has of each language."""
    for count in generator.labelled:
        plain = _without_teachers(base, count)
        yield GeneratedArm(f"labelled_{count}", plain.changes, against=plain.name, labelled=count)
        yield plain


def _left_out(generator: Generator, base: Run) -> Iterator[GeneratedArm]:
    """Yield two arms per value that is left out; teachers that learn other rows have names of their own."""
    if not isinstance(base, RunConfig):
        raise ConfigError(
            "generate: left_out is not offered over a run of several tasks",
            got="task.kind: multi",
            wanted="a run of one task",
            next_step="write the arms out under arms",
        )
    _require_teachers(base, 1, "left_out")
    for value in generator.left_out:
        mark = _clean(value)
        left: JsonObject = {"leave_out_groups": [*base.data.leave_out_groups, value]}
        renamed = {
            t.name: f"{t.name}-unseen-{mark}" for t in base.needed_teachers if isinstance(t, TrainedTeacher)
        }
        teachers = [_leave_out(t, left, renamed) for t in base.needed_teachers]
        changes: JsonObject = {"data": left, "teachers": teachers}
        if base.select_teachers is not None:
            changes["select_teachers"] = [renamed.get(name, name) for name in base.select_teachers]
        plain = GeneratedArm(
            f"{UNSEEN}{mark}_{NO_TEACHERS}", {"data": left}, plain=True, is_reference=True, left_out=value
        )
        yield GeneratedArm(f"{UNSEEN}{mark}", changes, against=plain.name, left_out=value)
        yield plain


def _leave_out(teacher: TeacherConfig, left: JsonObject, renamed: Mapping[str, str]) -> JsonObject:
    """Return a teacher that learns nothing from some rows, under its new name; one that exists as it is."""
    tree: JsonObject = teacher.model_dump(mode="json")
    if isinstance(teacher, TrainedTeacher):
        tree["name"] = renamed[teacher.name]
        tree["training"]["data"] = overlay(teacher.training.data, left)
        tree["training"]["teachers"] = [renamed.get(name, name) for name in teacher.training.teachers]
    return tree


def _self_training(generator: Generator, base: Run) -> Iterator[GeneratedArm]:
    if isinstance(base, MultiRun):
        raise ConfigError(
            "generate: self_training is not offered over a run of several tasks",
            got="task.kind: multi",
            wanted="a run of one task",
            next_step="write the arms out under arms",
        )
    if base.train.steps is None:
        raise ConfigError(
            "generate: self_training needs the number of steps, which its teacher trains too",
            got="train.epochs, which means fewer steps over fewer labelled rows",
            wanted="train.steps in the base",
            next_step="set: {train: {steps: ..., epochs: null}}; raykd plan says how many the base trains",
        )
    teacher: JsonObject = {
        "name": SELF,
        "languages": "all",
        "on_poor": "warn",  # with few rows it may know next to nothing, which is what the arm is to show
        "actor": {"num_cpus": 0.05, "group": SELF},
        "training": {
            "model": base.student.model_dump(mode="json"),
            "train": base.train.model_dump(mode="json"),
            "workers": base.workers.model_dump(mode="json"),
            "labelled": "student",
        },
    }
    for count in generator.self_training:
        plain = _without_teachers(base, count)
        changes = {**plain.changes, "teachers": [teacher], "objective": {"weighting": {"kind": "uniform"}}}
        yield GeneratedArm(f"labelled_{count}_{SELF}", changes, against=plain.name, labelled=count)
        yield plain


def _without_teachers(base: Run, count: int) -> GeneratedArm:
    """Return the arm without teachers that others with as many labelled rows are compared with."""
    drawn: JsonObject = {"data": {"labelled_per_language": count}}
    several = {"task": {"tasks": {name: drawn for name in base.members}}}
    changes = several if isinstance(base, MultiRun) else drawn
    return GeneratedArm(
        f"labelled_{count}_{NO_TEACHERS}", changes, plain=True, labelled=count, is_reference=True
    )


def scale_student(base: Run, factor: float) -> JsonObject:
    """Return the overlay of a student whose widths are multiplied; a width stays a multiple of the heads.

    Args:
        base: The run with the student.
        factor: Factor of every width.

    Raises:
        ConfigError: The student is a checkpoint, whose widths are its own.
    """
    student: Any = base.student
    heads = getattr(student, "heads", 1)
    widths = {key: getattr(student, key, None) for key in WIDTHS}
    found = {key: int(width) for key, width in widths.items() if isinstance(width, int)}
    if not found:
        raise ConfigError(
            "generate: sizes multiplies the widths of a student that is made by the run",
            got=f"a student of kind {student.kind}",
            wanted="a student with " + ", ".join(WIDTHS[:2]),
            next_step="name the students: generate: [{students: {NAME: {...}}}]",
        )
    steps = {key: heads if key == "hidden" else 1 for key in found}
    return {key: steps[key] * max(1, round(width * factor / steps[key])) for key, width in found.items()}


def _require_teachers(base: Run, least: int, what: str) -> dict[str, list[str]]:
    """Return the teachers of each task that has enough of them; the only task of a run has an empty name.

    Raises:
        ConfigError: No task has.
    """
    names = {
        task: [teacher.name for teacher in member.active_teachers] for task, member in base.members.items()
    }
    found = {task: own for task, own in names.items() if len(own) >= least}
    if not found:
        most = max(map(len, names.values()))
        several = len(names) > 1
        raise ConfigError(
            f"generate: {what} needs teachers",
            got=f"{most} teachers" + (" at most for a task" if several else ""),
            wanted=f"at least {least} " + ("for one task" if several else "in the base"),
            next_step="add teachers, or leave it out",
        )
    return found


def _name(what: str, value: JsonObject) -> str:
    """Return an arm's name of a mapping with a kind: weighting_entropy, weighting_entropy_tau_0.5."""
    settings = [f"{key}_{one}" for key, one in value.items() if key != "kind" and not isinstance(one, dict)]
    text = "_".join([what, str(value["kind"]), *settings])
    return _clean(text)


def _clean(text: str) -> str:
    """Return a text as part of an arm's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:80]
