"""Choose the backend of a teacher by its kind.

Decision record: the kinds of `raykd.config.TeacherConfig` are plain config in a lower room; here each has the class
that serves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raykd.config import HttpTeacher
from raykd.errors import TeacherError
from raykd.teachers.backends.base import BackendBase
from raykd.teachers.backends.files.backend import FileBackend
from raykd.teachers.backends.function import CallableBackend
from raykd.teachers.backends.http.tokens import HttpTokensBackend
from raykd.teachers.backends.http.words import HttpWordsBackend
from raykd.teachers.backends.model import ModelBackend
from raykd.teachers.backends.words.backend import LabelWordsBackend
from raykd.teachers.spec import TeacherInfo, TeacherSpec


def _make_http(spec: TeacherSpec) -> BackendBase[Any]:
    has_words = isinstance(spec.teacher, HttpTeacher) and spec.teacher.words
    return HttpWordsBackend(spec) if has_words else HttpTokensBackend(spec)


BACKENDS: dict[str, Callable[[TeacherSpec], BackendBase[Any]]] = {
    "model": ModelBackend,
    "callable": CallableBackend,
    "label_words": LabelWordsBackend,
    "file": FileBackend,
    "http": _make_http,
}
"""The class that serves each kind of teacher. One that a run trains is served as the model that it became."""


def make_backend(spec: TeacherSpec) -> BackendBase[Any]:
    """Make the backend of a teacher; nothing is read or loaded yet.

    Raises:
        TeacherError: Its kind has none.
    """
    kind = spec.teacher.kind
    if kind not in BACKENDS:
        raise TeacherError(
            f"nothing serves teacher {spec.name}",
            got=f"kind {kind}",
            wanted=f"one of {sorted(BACKENDS)}",
            next_step="name its class in BACKENDS (raykd.teachers.backends.backend)",
        )
    return BACKENDS[kind](spec)


def describe_teacher(spec: TeacherSpec) -> TeacherInfo:
    """Return what is known of a teacher before its weights are in memory.

    Raises:
        ModelError: It cannot be used.
        LabelMismatchError: Its labels are not the run's.
    """
    return make_backend(spec).describe()
