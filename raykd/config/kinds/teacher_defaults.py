"""Lay `teacher_defaults` under the teachers of a run."""

from __future__ import annotations

from collections.abc import Mapping

from raykd.config.overlay import overlay
from raykd.config.teachers import find_teacher_kind, list_foreign_keys
from raykd.parse import JsonObject


def apply_teacher_defaults(data: object) -> object:
    """Return a run's tree with `teacher_defaults` laid under every teacher. Other values are returned unchanged."""
    if not isinstance(data, Mapping) or not isinstance(data.get("teacher_defaults"), Mapping):
        return data
    defaults = data["teacher_defaults"]
    teachers = data.get("teachers")
    if not isinstance(teachers, (list, tuple)) or not all(isinstance(t, Mapping) for t in teachers):
        return data
    return {**data, "teachers": [overlay(_choose_defaults(defaults, t), t) for t in teachers]}


def _choose_defaults(defaults: JsonObject, teacher: JsonObject) -> JsonObject:
    """Return the defaults without keys that the teacher's kind lacks."""
    kind = find_teacher_kind(teacher) or find_teacher_kind(defaults)
    other = list_foreign_keys(kind) | ({"kind"} if defaults.get("kind") != kind else set())
    return {key: value for key, value in defaults.items() if key not in other}
