"""Register the kinds of task: each is a class, and a configuration may name any of them.

Decision record: the union of tasks is built from the classes that are registered when a configuration model is built,
so that a task in a file of its own, or in another package, is read, checked and explained like raykd's own.
Models that hold a task say so with `holds_task`; they are built again when a class comes later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, TypeAdapter

from raykd.spec import KindUnion
from raykd.tasks.base import TaskBase

T = TypeVar("T", bound=TaskBase)
M = TypeVar("M", bound=type[BaseModel])

_CLASSES: dict[str, type[TaskBase]] = {}
_HOLDERS: list[type[BaseModel]] = []


def register_task(task: type[T]) -> type[T]:
    """Add a class to the kinds of task. Use it as a decorator.

    Args:
        task: A concrete `TaskBase` whose field ``kind`` is a literal with that default.

    Raises:
        ValueError: Another class has this kind, or the class lacks a facet (see `TaskBase`).
    """
    kind = str(task.model_fields["kind"].default)
    known = _CLASSES.get(kind)
    if known is not None and known.__qualname__ != task.__qualname__:
        raise ValueError(f"two tasks are of kind {kind}: {known.__qualname__} and {task.__qualname__}")
    lacking = [name for name in ("form", "head", "metric_names", "labelled") if not hasattr(task, name)]
    if lacking or getattr(task, "__abstractmethods__", None):
        raise ValueError(f"task {kind} lacks {', '.join(lacking or sorted(task.__abstractmethods__))}")
    _CLASSES[kind] = task
    rebuild_holders()
    return task


def rebuild_holders() -> None:
    """Build the marked models again, after a kind of task or of teacher was registered."""
    for holder in _HOLDERS:
        holder.model_rebuild(force=True)


def holds_task(model: M) -> M:
    """Mark a configuration model with a field of the union, or with another such model inside. Use it as a decorator.

    Models are built again in the order in which they were marked: the inner one first.
    """
    _HOLDERS.append(model)
    return model


def find_task_class(kind: str) -> type[TaskBase] | None:
    """Return the class of a kind of task; None for a kind that nobody registered."""
    return _CLASSES.get(kind)


def build_task(settings: Mapping[str, object]) -> TaskBase:
    """Return the task that a tree describes.

    Raises:
        pydantic.ValidationError: A key is wrong, or nobody registered its kind.
    """
    adapter: TypeAdapter[TaskBase] = TypeAdapter(Annotated[TaskBase, RegisteredTask()])
    return adapter.validate_python(settings)


class RegisteredTask(KindUnion):
    """Annotates a field that takes a task of any registered kind."""

    def __init__(self) -> None:
        super().__init__(_CLASSES)
