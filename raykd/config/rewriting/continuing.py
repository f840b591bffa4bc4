"""Complete a run that goes on from the student of an earlier one (`from_run`).

Decision record: what continuing means is written out as ordinary keys before the run is validated, so run.yaml,
MLflow and every worker see a plain run, and each part can be changed where it lies. The student starts from the saved
one. Old rows are replayed (`data.replay`), and the old student anchors the new one as one more teacher
(`kind: anchored`; learning without forgetting, arXiv:1606.09282). What was completed stays as it is, because run.yaml
is read again by a resume, and arms of an experiment change single keys of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raykd.config.home import find_folder, find_student, is_raykd_folder
from raykd.config.run import RunConfig
from raykd.errors import ConfigError
from raykd.models import Student
from raykd.parse import JsonObject

OLD_STUDENT = "old_student"
"""Name of the old student among the teachers."""
_CPUS = 0.25
"""CPUs of the old student, which is small, where the run says nothing of its teachers."""


def find_earlier_run(path: str) -> Path:
    """Return the folder of a run whose student another one goes on from.

    Raises:
        ConfigError: There is no finished run.
    """
    folder = find_folder(Path(path))
    if (
        not is_raykd_folder(folder)
        or not (folder / "run.yaml").is_file()
        or not (find_student(folder) / "config.json").is_file()
    ):
        raise ConfigError(
            "from_run names no run with a student",
            got=str(folder),
            wanted="the folder of a finished run of one task: with run.yaml and student/",
            next_step="name a folder that raykd train wrote; to start from any other model write student: {kind: "
            "pretrained, path: FOLDER}",
        )
    return folder.resolve()


def continue_run(
    tree: JsonObject, earlier: RunConfig, folder: Path, students: Sequence[Student]
) -> JsonObject:
    """Return a run's tree, completed to go on from an earlier run.

    Args:
        tree: The run, not validated yet. Keys that it sets stay as they are.
        earlier: The earlier run.
        folder: Its folder.
        students: Its student, and those of the runs that it went on from itself, the first one last.

    Raises:
        ConfigError: The run has another task or student, or lacks labels that the old student knows.
    """
    student, data = str(find_student(folder)), _branch(tree, "data")
    if "data" in _branch(data, "replay"):
        return tree  # was completed before
    kind = _branch(tree, "task").get("kind", "classification")
    if kind != earlier.task.kind:
        raise ConfigError("from_run: the earlier run has another task", got=earlier.task.kind, wanted=kind)
    spoken = earlier.data.select_languages or earlier.data.languages
    labels = _join_labels(data.get("labels") or (), earlier.data.labels)
    data["languages"] = [*dict.fromkeys([*(data.get("languages") or ()), *earlier.data.languages])]
    if data.get("select_languages"):
        data["select_languages"] = [*dict.fromkeys([*data["select_languages"], *spoken])]
    if labels:
        data["labels"] = labels
    old_rows = earlier.data.model_dump(mode="json") | {"labels": labels}
    data["replay"] = {**_branch(data, "replay"), "data": old_rows}
    made = {
        **tree,
        "from_run": str(folder),
        "data": data,
        "student": _continue_student(tree.get("student"), students, student),
    }
    if "task" not in tree:
        made["task"] = earlier.task.model_dump(mode="json")
    teacher: JsonObject = {"kind": "model", "name": OLD_STUDENT, "languages": list(spoken), "path": student}
    new = [label for label in labels if label not in earlier.data.labels]
    if new and earlier.form != "words":  # of tags it need not be written
        teacher["missing"] = new
    if "actor" not in _branch(tree, "teacher_defaults"):
        teacher["actor"] = {"num_cpus": _CPUS}
    return _anchor(made, teacher)


def _branch(tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = tree.get(key)
    return dict(found) if isinstance(found, Mapping) else {}


def _join_labels(own: Sequence[str], old: Sequence[str]) -> list[str]:
    """Return the labels of the run, or the old ones where it names none.

    Raises:
        ConfigError: It names some and lacks one that the old student knows.
    """
    if lost := [label for label in old if own and label not in own]:
        raise ConfigError(
            "from_run: data.labels lacks a label that the old student knows",
            got=", ".join(map(str, own)),
            wanted=", ".join(map(str, old)) + ", and new ones behind them",
            next_step=f"add {lost[0]}; leave data.labels out to keep the old ones; or train a new student",
        )
    return list(own or old)


def _continue_student(given: object, known: Sequence[Student], path: str) -> JsonObject:
    """Return the student that starts from the old one's weights.

    Raises:
        ConfigError: The run asks for a student of another kind or size.
    """
    start = {"kind": "pretrained", "path": path}
    if not isinstance(given, Mapping) or not given:
        return start
    with suppress(ValidationError):
        asked: Student = TypeAdapter(Student).validate_python(dict(given))
        if any(asked.model_dump(exclude={"path"}) == one.model_dump(exclude={"path"}) for one in known):
            return start
    old = known[-1]
    raise ConfigError(
        "from_run goes on with the old student, and the run asks for another one",
        got=f"student: {dict(given)}",
        wanted=f"student: { {'kind': old.kind, **old.model_dump(mode='json', exclude_defaults=True)} }",
        next_step="leave student out; to teach a student of another size name the old one as a teacher",
    )


def _anchor(tree: JsonObject, teacher: JsonObject) -> JsonObject:
    """Return the tree with the old student as a teacher, unless the share of the anchor is 0."""
    objective = _branch(tree, "objective")
    weighting = _branch(objective, "weighting")
    if weighting.get("kind") != "anchored":
        weighting = {"kind": "anchored", "among": weighting} if weighting else {"kind": "anchored"}
    weighting.setdefault("teacher", OLD_STUDENT)
    others = [t for t in tree.get("teachers") or () if not _is_named(t)]
    if weighting.get("share") == 0:
        inner = weighting.get("among")
        objective = {**objective, "weighting": inner} if inner else _without(objective, "weighting")
        if not others:
            objective["alpha"] = 1.0
        return {**tree, "objective": objective, "teachers": others}
    made = {**tree, "objective": {**objective, "weighting": weighting}, "teachers": [*others, teacher]}
    if (chosen := tree.get("select_teachers")) is not None:
        made["select_teachers"] = [*dict.fromkeys([*chosen, OLD_STUDENT])]
    return made


def _is_named(teacher: object) -> bool:
    return isinstance(teacher, Mapping) and teacher.get("name") == OLD_STUDENT


def _without(tree: JsonObject, key: str) -> JsonObject:
    return {name: value for name, value in tree.items() if name != key}
