"""Compare the answers of files with the rows of a run, before a student starts: how many rows have one.

Decision record: rows without an answer are no error by themselves, since other teachers and gold labels teach them.
They are counted for each part of the data, and said. A file that answers no row at all is one of another run, and is
refused. Ids lead to texts here (`raykd.teachers.backends.files.backend` says why), so texts whose ids have different
answers are refused here, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from raykd.config import FileTeacher, Run, RunConfig
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.driver.pool import make_teacher_spec
from raykd.errors import DataError
from raykd.teachers.backends.files.backend import FileBackend
from raykd.teachers.backends.files.index import NOT_FOUND, find_conflicts
from raykd.teachers.source import TeacherRouter
from raykd.teachers.store import make_text_keys
from raykd.text.batch import TextBatch

_AT_ONCE = 8192


def check_all_given_answers(config: Run, data: Mapping[str, Dataset]) -> Iterator[str]:
    """Check every teacher that answers from files; yield a line about each that lacks answers.

    Raises:
        DataError, ModelError: As `check_given_answers`.
    """
    for task, member in config.members.items():
        for teacher in member.active_teachers:
            if isinstance(teacher, FileTeacher):
                line, is_whole = check_given_answers(teacher, member, data[task])
                if not is_whole:
                    yield f"teacher {teacher.name}: {line}"


def check_given_answers(teacher: FileTeacher, config: RunConfig, data: Dataset) -> tuple[str, bool]:
    """Count the rows that a teacher of a run will be asked for and has an answer to.

    Returns:
        A line for people, and whether there is an answer to each row.

    Raises:
        DataError: There is no answer at all, or not to all rows although the teacher says `on_unanswered: stop`; or
            ids of equal texts have different answers.
        ModelError: The files cannot be read.
    """
    backend = FileBackend(replace(make_teacher_spec(config, teacher, {}), store=None))
    said, lacking, total, answered = [], [], 0, 0
    keys, positions = [], []
    ids: list[str] = []
    names = tuple(each.name for each in config.active_teachers)
    spoken = tuple(each.language_set for each in config.active_teachers)
    for part, rows in (("training", data.asked), ("validation", data.validation), ("test", data.test)):
        router = TeacherRouter(names, spoken, config.objective.weighting if part == "training" else None)
        asked = found = 0
        for part_rows in _cut(rows):
            asked_N = router.route(part_rows)[names.index(teacher.name)]
            batch = part_rows.take(np.flatnonzero(asked_N).tolist())
            position_B = backend.find(batch)
            asked, found = asked + len(batch), found + int((position_B != NOT_FOUND).sum())
            first = np.flatnonzero(position_B == NOT_FOUND)[:3].tolist()
            lacking += [(batch.ids[i], batch.texts[i]) for i in first]
            if teacher.by == "id":
                keys.append(np.frombuffer(b"".join(key[:8] for key in make_text_keys(batch)), "<u8"))
                positions.append(position_B)
                ids += batch.ids
        if rows is not None:
            said.append(f"{found:,} of {asked:,} {part} rows")
        total, answered = total + asked, answered + found
    if keys:
        _refuse_different_ids(backend, np.concatenate(keys), np.concatenate(positions), ids)
    line = f"answers to {', '.join(said)}"
    if total and (not answered or (answered < total and teacher.on_unanswered == "stop")):
        _refuse_gaps(backend, line, lacking)
    return line, answered == total


def _cut(rows: Rows | None) -> Iterator[TextBatch]:
    for begin in range(0, 0 if rows is None else len(rows), _AT_ONCE):
        assert rows is not None
        yield rows.take(range(begin, min(begin + _AT_ONCE, len(rows))))


def _refuse_different_ids(
    backend: FileBackend, keys: NDArray[np.uint64], positions: NDArray[np.int64], ids: list[str]
) -> None:
    """Refuse ids of equal texts with different answers, or with and without one."""
    order = np.lexsort((-positions, keys))
    same = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    one, other = order[same], order[same + 1]
    bad = positions[other] == NOT_FOUND
    bad &= positions[one] != NOT_FOUND
    both = np.flatnonzero((positions[other] != NOT_FOUND) & (positions[one] != positions[other]))
    bad[both] = find_conflicts(backend.load(), positions[one[both]], positions[other[both]])
    if bad.any():
        at = int(bad.argmax())
        lacks = positions[other[at]] == NOT_FOUND
        raise DataError(
            f"{backend.who}: rows of equal texts have different answers",
            got=f"{int(bad.sum())} rows, such as ids {ids[one[at]]} and {ids[other[at]]}"
            + (", which has none" if lacks else ""),
            wanted="one answer to a text, whatever its id",
            next_step=f"give their ids the same answer, or leave equal texts out of the data; "
            f"teachers.{backend.spec.name}.by: text asks by text",
        )


def _refuse_gaps(backend: FileBackend, line: str, lacking: list[tuple[str, str]]) -> None:
    by, is_strict = backend.teacher.by, backend.teacher.on_unanswered == "stop"
    names, own = ", ".join(name for name, _ in lacking[:3]), lacking[0][by == "text"]
    raise DataError(
        f"{backend.who}: its files do not answer {'all' if is_strict else 'any'} rows of the run",
        got=f"{line}; none to {names}; the run has the {by} {own[:60]!r}, the files {backend.show_key()[:60]!r}",
        wanted=f"an answer to {'each row' if is_strict else 'some of the rows'} that it is asked for",
        next_step="raykd label RUN.yaml --to PATH writes answers to all rows; match by: "
        f"{'text' if by == 'id' else 'id'}; languages keeps other rows from it",
    )
