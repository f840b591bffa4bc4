"""What a run's student is beside its teachers: who taught what, sizes, and times taken alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from raykd import models
from raykd.config import RunConfig
from raykd.data.rows import Rows
from raykd.report.costs import CostTable, TeacherCost
from raykd.scoring.score import make_student_spec, sample_texts
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherInfo
from raykd.teachers.timing import Timing

Times = Mapping[str, tuple[Timing | None, Timing | None]]
"""By teacher its own time and the student's beside it; None is not known."""


def time_teachers(
    pool: TeacherPool, config: RunConfig, student: Path, trained: Rows, held_out: Rows
) -> Times:
    """Return what a held-out text takes each teacher and, in its process, the student.

    Args:
        trained: The rows that the student learnt from: a teacher is timed on texts of the languages that it
            taught.
    """
    taught = list_taught_languages(config, pool, trained)
    samples = {
        name: sample_texts(held_out, taught[name] or own)
        for name, own in zip(pool.handle.teachers, pool.handle.teacher_languages, strict=True)
    }
    return pool.replicas.measure_times(samples, make_student_spec("student", student, config))


def list_taught_languages(config: RunConfig, pool: TeacherPool, trained: Rows) -> dict[str, tuple[str, ...]]:
    """Of each teacher the languages whose training rows it is asked about."""
    names, spoken = pool.handle.teachers, pool.handle.teacher_languages
    languages = sorted(set(trained.languages), key=config.data.languages.index)
    asked = {language: config.objective.weighting.may_need(language, names, spoken) for language in languages}
    return {name: tuple(x for x in languages if asked[x][m]) for m, name in enumerate(names)}


def make_cost_table(
    config: RunConfig,
    pool: TeacherPool,
    infos: Sequence[TeacherInfo],
    times: Times,
    student: Path,
    trained: Rows,
) -> CostTable:
    """Return the table of a run with teachers."""
    taught = list_taught_languages(config, pool, trained)
    texts = Counter(trained.languages)
    own = models.count_stored_parameters(student)
    teachers = []
    for info in infos:
        ms, beside = times.get(info.name, (None, None))
        teachers.append(
            TeacherCost(
                teacher=info.name,
                taught=taught[info.name],
                texts=sum(texts[language] for language in taught[info.name]),
                parameters=info.parameters,
                smaller=info.parameters / max(1, own),
                ms=None if ms is None else ms.ms,
                student_ms=None if beside is None else beside.ms,
                kept=ms is not None and ms.kept,
            )
        )
    languages = sorted(texts, key=config.data.languages.index)
    return CostTable(tuple(teachers), own, tuple(languages), _describe_conditions(times))


def _describe_conditions(times: Times) -> str:
    """Return how times were taken, in a sentence."""
    taken = [own for own, _ in times.values() if own is not None]
    if not taken:
        return "no time was taken"
    threads = sorted({t.threads for t in taken})
    devices, dtypes = sorted({t.device for t in taken}), sorted({t.dtype for t in taken})
    rows = sorted({t.rows for t in taken})
    several = "" if threads == [1] else "s"
    return (
        f"times: median over passes of {_either(rows)} held-out texts in the languages that a teacher taught, "
        f"tokenisation included, {_either(threads)} thread{several}, {_either(devices)}; "
        f"teachers in {_either(dtypes)}, the student in float32 in each teacher's process"
    )


def _either(values: Sequence[object]) -> str:
    return " or ".join(map(str, values))
