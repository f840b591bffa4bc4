"""Compare the student with its teachers: who taught what, sizes, and times.

Decision record: a teacher and the student are timed in the same process on the same texts, threads and device
(`raykd.teachers.timing`), so that their times can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.report.costs import CostTable, TeacherCost
from raykd.report.ensembles.report import SystemRole, SystemSize
from raykd.report.sizes import Size
from raykd.scoring.score import join_sizes, make_student_spec, sample_texts, share_texts
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo
from raykd.teachers.timing import PASSES, Timing, describe_load

Times = Mapping[str, tuple[Timing | None, Timing | None]]
"""By teacher: its own time and the student's in the same process. None is not known."""


def time_teachers(
    pool: TeacherPool, config: RunConfig, student: Path | None, trained: Rows, held_out: Rows
) -> Times:
    """Measure what a held-out text takes each teacher and, in the teacher's process, the student.

    Args:
        pool: The opened teachers.
        config: The run of one task.
        student: Folder of the saved student; None times teachers alone.
        trained: The training rows. A teacher is timed on texts of the languages that it taught.
        held_out: The rows that texts are taken from.
    """
    taught = list_taught_languages(config, pool, trained)
    samples = {
        name: sample_texts(held_out, taught[name] or own)
        for name, own in zip(pool.handle.teachers, pool.handle.teacher_languages, strict=True)
    }
    return pool.replicas.measure_times(
        samples, None if student is None else make_student_spec(student, config)
    )


def list_taught_languages(config: RunConfig, pool: TeacherPool, trained: Rows) -> dict[str, tuple[str, ...]]:
    """Return for each teacher the languages whose training rows it is asked about."""
    names, spoken = pool.handle.teachers, pool.handle.teacher_languages
    languages = sorted(trained.list_languages(), key=config.data.languages.index)
    asked = {language: config.objective.weighting.may_need(language, names, spoken) for language in languages}
    return {name: tuple(x for x in languages if asked[x][m]) for m, name in enumerate(names)}


def make_cost_table(
    config: RunConfig,
    pool: TeacherPool,
    infos: Sequence[TeacherInfo],
    times: Times,
    student: Size,
    trained: Rows,
    held_out: Rows,
    megabytes: Mapping[str, float | None],
    tokens: Mapping[str, float] = MappingProxyType({}),
) -> CostTable:
    """Return the table that shows the student beside its teachers.

    Args:
        config: The run of one task.
        pool: The opened teachers.
        infos: What each teacher says of itself.
        times: As `time_teachers` returns them.
        student: How large and fast the student is.
        trained: The training rows.
        held_out: The rows over which the teachers share the texts, where they are one system.
        megabytes: Of each teacher's weights on disk, by name; None is not known.
        tokens: Mean tokens of a text that each teacher was asked in this run, by name.
    """
    taught = list_taught_languages(config, pool, trained)
    texts = Counter(trained.languages)
    own = student.parameters or 0
    teachers = []
    for info in infos:
        teacher_time, student_time = times.get(info.name, (None, None))
        teachers.append(
            TeacherCost(
                teacher=info.name,
                taught=taught[info.name],
                texts=sum(texts[language] for language in taught[info.name]),
                parameters=info.parameters,
                smaller=info.parameters / max(1, own) if info.parameters else None,
                ms=None if teacher_time is None else teacher_time.ms,
                student_ms=None if student_time is None else student_time.ms,
                kept=teacher_time is not None and teacher_time.kept,
                megabytes=megabytes.get(info.name),
                timed_on=None if teacher_time is None else teacher_time.place,
                earlier=_describe_earlier(teacher_time),
                tokens=tokens.get(info.name),
            )
        )
    names, spoken = pool.handle.teachers, pool.handle.teacher_languages
    return CostTable(
        tuple(teachers),
        own,
        tuple(sorted(texts, key=config.data.languages.index)),
        _describe_conditions(times),
        student.megabytes,
        student.ms,
        student.timed_on,
        join_sizes([t.size for t in teachers], share_texts(config, names, spoken, held_out)),
    )


def _describe_earlier(timing: Timing | None) -> str:
    """Return when and on what texts an earlier run took a time, in words; empty for a time of this run."""
    if timing is None or not timing.kept:
        return ""
    when = f"on {timing.taken}, " if timing.taken else ""
    other = "" if timing.characters is None else f" on texts of {timing.characters:.0f} characters"
    return f"{when}{timing.place}{other}"


def list_system_sizes(costs: CostTable, config: RunConfig) -> tuple[SystemSize, ...]:
    """Return size and speed of each teacher and of the student, and what teaching took and costs.

    Args:
        costs: Sizes and times.
        config: The run of one task, which may name prices.
    """
    prices = {teacher.name: teacher.price for teacher in config.teachers}
    found = []
    for t in costs.teachers:
        seconds, price = None if t.ms is None else t.ms * t.texts / 1e3, prices.get(t.teacher)
        read = None if t.tokens is None else t.tokens * t.texts
        found.append(
            SystemSize(
                system=t.teacher,
                role="teacher",
                parameters=t.parameters,
                megabytes=t.megabytes,
                texts_per_s=None if not t.ms else 1e3 / t.ms,
                student_texts_per_s=None if not t.student_ms else 1e3 / t.student_ms,
                timed_on=t.timed_on,
                texts=t.texts,
                seconds=seconds,
                price=None if price is None else price.charge(t.texts, seconds, read),
            )
        )
    if costs.together is not None:
        found.append(_make_size("teachers together", "ensemble", costs.together))
    return (*found, _make_size("student", "student", costs.student))


def _make_size(system: str, role: SystemRole, size: Size) -> SystemSize:
    return SystemSize(
        system, role, size.parameters or 0, size.megabytes, size.texts_s, timed_on=size.timed_on
    )


def _describe_conditions(times: Times) -> str:
    """Return how times were taken, in a sentence."""
    taken = [own for own, _ in times.values() if own is not None]
    if not taken:
        return "no time was taken"
    threads, rows = sorted({t.threads for t in taken}), sorted({t.rows for t in taken})
    devices, dtypes = sorted({t.device for t in taken}), sorted({t.dtype for t in taken})
    several = "" if threads == [1] else "s"
    return (
        f"times: least of up to {PASSES} passes of {_either(rows)} held-out texts in the languages that a teacher "
        f"taught, tokenisation included, {_either(threads)} thread{several}, {_either(devices)}; "
        f"teachers in {_either(dtypes)}, the student in float32 beside each of them; {_describe_load(times)}"
    )


def _describe_load(times: Times) -> str:
    """Return how busy the machine was while models were timed."""
    return describe_load(
        [t.load for pair in times.values() for t in pair if t is not None and t.load is not None]
    )


def _either(values: Sequence[object]) -> str:
    return " or ".join(map(str, values))
