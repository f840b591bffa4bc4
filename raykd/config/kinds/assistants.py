"""Teachers that are taught by other teachers of the run: teacher assistants, and generations (born-again networks)."""

from __future__ import annotations

from collections.abc import Sequence

from raykd.config.teachers import TeacherConfig, TrainedTeacher


def check_assistants(teachers: Sequence[TeacherConfig]) -> None:
    """Check that each assistant is taught by teachers that stand before it, so that a chain has an order.

    Raises:
        ValueError: It names itself, a later teacher or none of the run.
    """
    before: list[str] = []
    for teacher in teachers:
        named = teacher.training.teachers if isinstance(teacher, TrainedTeacher) else ()
        wrong = [name for name in named if name not in before]
        if wrong:
            raise ValueError(
                f"teacher {teacher.name}: training.teachers names {wrong[0]}; wanted teachers that stand before it: "
                f"{before or 'there is none'}"
            )
        if isinstance(teacher, TrainedTeacher) and teacher.training.objective and not named:
            raise ValueError(
                f"teacher {teacher.name}: training.objective plays no part without training.teachers: it learns from "
                "gold labels"
            )
        before.append(teacher.name)


def add_their_teachers(
    chosen: Sequence[TeacherConfig], teachers: Sequence[TeacherConfig]
) -> tuple[TeacherConfig, ...]:
    """Return the chosen teachers, and before them those that teach them, in the order of the run."""
    needed = {t.name for t in chosen}
    for teacher in reversed(teachers):
        if teacher.name in needed and isinstance(teacher, TrainedTeacher):
            needed |= set(teacher.training.teachers)
    return tuple(t for t in teachers if t.name in needed)
