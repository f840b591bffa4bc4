"""Measure whether new texts have drifted away from what a student learnt: how far it is from its teachers on them.

Decision record: no gold label is needed. The measure of a text is the divergence KL(teachers together || student) at
temperature 1, the mean over its units. What is usual is learnt on the validation rows: windows as large as the new
one, with as many texts of each language, are drawn from them, and so are other validation sets, because there are few
validation rows, too (a bootstrap of both sides). The new window has drifted where its mean is further above the
validation mean than the given quantile of these differences. Texts of a language without validation rows are compared
with those of all. The best step was chosen on the validation rows, which makes their distance a bit too small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.source import AnswerSlots
from raykd.config import Files, RunConfig
from raykd.config.home import find_folder
from raykd.config.loading import load_run
from raykd.data.read import read_rows
from raykd.data.rows import Rows
from raykd.driver.jobs import find_trained_teachers, load_rows
from raykd.driver.pool import make_teacher_spec
from raykd.ensemble.mixing import mix_weighted
from raykd.errors import ConfigError, DataError
from raykd.report.evaluations.drift import DriftLine, DriftReport
from raykd.scoring.score import collect_unit_answers, make_student_spec, stack_signals
from raykd.teachers.teacher import Teacher

ALL = "all"
"""Name of the line over all languages."""
SAMPLES = 2000
"""Windows that are drawn from the validation rows."""
_ASKED = 64
"""Rows that a teacher is asked at once."""
_DRAWN = 1_000_000
"""Values that are drawn at once."""
Progress = Callable[[str, int, int], None]
"""Takes who is asked, the rows that are done, and all rows."""


@dataclass(frozen=True)
class Distances:
    """How far a student is from its teachers on some rows.

    Attributes:
        kl_B: KL(teachers || student) of each row in nats, the mean over its units; NaN where no teacher answers.
        same_B: Share of its units whose likeliest choice is the teachers'.
        languages: Of each row.
    """

    kl_B: NDArray[np.float64]
    same_B: NDArray[np.float64]
    languages: NDArray[np.object_]


def _be_silent(who: str, done: int, rows: int) -> None:
    pass


def read_new_texts(config: RunConfig, source: Files) -> Rows:
    """Read texts in the form of a run's rows; labels are not read.

    Raises:
        DataError: As `read_rows`.
    """
    return read_rows(source, config.data, base_dir=Path.cwd(), labelled=False, form=config.form)


def measure_drift(
    run: Path,
    source: Files,
    *,
    level: float = 0.99,
    progress: Progress = _be_silent,
) -> DriftReport:
    """Compare new texts with the validation rows of a run, by how far its student is from its teachers.

    Args:
        run: Folder of the run.
        source: The new texts; labels in them are not read.
        level: Share of undrifted windows below the threshold.
        progress: Is told how far the models are.

    Raises:
        ConfigError: The run has no teachers, or its task chooses among no labels.
        DataError: There is no text, or none that a teacher answers.
    """
    folder = find_folder(run).resolve()
    config = load_run(folder)
    if not config.active_teachers or not config.task.labelled:
        raise ConfigError(
            "drift is the distance of a student from its teachers, over labels",
            got=f"{len(config.active_teachers)} teachers, task {config.task.kind}",
            wanted="a run of one task with teachers that chooses among labels",
        )
    new = read_new_texts(config, source)
    known = load_rows(config)[""].validation
    teachers = open_run_teachers(config, folder)
    try:
        measured = [
            measure_distances(config, folder, teachers, rows.without_labels(), progress)
            for rows in (known, new)
        ]
    finally:
        for teacher in teachers:
            teacher.close()
    if not np.isfinite(measured[1].kl_B).any():
        raise DataError(
            "no teacher answers any of the new texts",
            got=f"{len(new)} texts in {', '.join(new.list_languages())}",
            wanted="texts in the languages of the run's teachers",
        )
    return compare_distances(*measured, level=level, run=str(folder))


def open_run_teachers(config: RunConfig, folder: Path) -> list[Teacher]:
    """Return the teachers of a run as models of this process, which load no weights before they have to.

    Raises:
        ModelError: One was not trained, or is gone.
    """
    trained = find_trained_teachers(config, f"raykd train {folder} --resume trains them again")
    return [Teacher(make_teacher_spec(config, t, trained)) for t in config.active_teachers]


def measure_distances(
    config: RunConfig, folder: Path, teachers: Sequence[Teacher], rows: Rows, progress: Progress = _be_silent
) -> Distances:
    """Return how far the student of a run is from its teachers on some rows; stored answers load no model.

    Args:
        config: The run.
        folder: Its folder.
        teachers: From `open_run_teachers`.
        rows: Without labels.
        progress: Is told how far the models are.
    """
    declared = [t.language_set for t in config.active_teachers]
    names = tuple(t.name for t in config.active_teachers)
    batch = rows.take(range(len(rows)))
    groups = batch.groups or (None,) * len(rows)
    weighting = config.objective.weighting
    needed = [weighting.may_need(x, names, declared, g) for x, g in zip(rows.languages, groups, strict=True)]
    asked_BM = np.asarray(needed, dtype=bool)
    slots = [_ask(t, rows, asked_BM[:, m], progress) for m, t in enumerate(teachers)]
    signals = stack_signals(config, slots, declared, rows)
    target = mix_weighted(signals, weighting.weights(signals), config.objective.mixture)
    student = Teacher(make_student_spec(folder / "student", config))
    answers = collect_unit_answers(config, _ask(student, rows, None, progress), rows)
    logq_NC = torch.from_numpy(answers.logits_NC).double().log_softmax(dim=1)
    logp_NC = target.logp_NK.double()
    kl_N = (logp_NC.exp() * (logp_NC - logq_NC)).sum(dim=1).numpy()
    same_N = (logp_NC.argmax(dim=1) == logq_NC.argmax(dim=1)).double().numpy()
    seen_N = target.covered_N.numpy() & answers.covered_N
    row_N = np.repeat(np.arange(len(rows)), answers.counts_B)
    return Distances(
        _mean_by_row(kl_N, seen_N, row_N, len(rows)),
        _mean_by_row(same_N, seen_N, row_N, len(rows)),
        np.asarray(rows.languages, dtype=object),
    )


def _ask(teacher: Teacher, rows: Rows, asked_B: NDArray[np.bool_] | None, progress: Progress) -> AnswerSlots:
    """Return a model's answers, a part of the rows at a time."""
    teacher.open()
    parts = []
    for begin in range(0, len(rows), _ASKED):
        part = range(begin, min(begin + _ASKED, len(rows)))
        parts.append(
            teacher.answer(rows.take(part), None if asked_B is None else asked_B[part.start : part.stop])
        )
        progress(teacher.name, part.stop, len(rows))
    return AnswerSlots.concat(parts)


def _mean_by_row(
    value_N: NDArray[np.float64], seen_N: NDArray[np.bool_], row_N: NDArray[np.int64], rows: int
) -> NDArray[np.float64]:
    count_B = np.bincount(row_N, weights=seen_N, minlength=rows)
    sum_B = np.bincount(row_N, weights=np.where(seen_N, value_N, 0.0), minlength=rows)
    mean_B: NDArray[np.float64] = np.divide(sum_B, count_B, out=np.full(rows, np.nan), where=count_B > 0)
    return mean_B


def compare_distances(known: Distances, new: Distances, *, level: float, run: str = "") -> DriftReport:
    """Return for all texts and for each language whether the new ones have drifted.

    Thresholds are corrected for their number (Bonferroni), so that `level` is that of the whole report.

    Args:
        known: Of the validation rows.
        new: Of the new texts.
        level: Share of undrifted windows below the threshold.
        run: Folder of the run, for people.
    """
    languages = [str(x) for x in dict.fromkeys(new.languages.tolist())]
    judged = 1 if len(languages) == 1 else 1 + len(languages)
    corrected = 1.0 - (1.0 - level) / judged
    lines = [_compare(ALL, known, new, np.ones(len(new.kl_B), dtype=bool), corrected)]
    if judged > 1:
        lines += [_compare(x, known, new, new.languages == x, corrected) for x in languages]
    return DriftReport(tuple(line for line in lines if line is not None), level, run)


def _compare(
    what: str, known: Distances, new: Distances, picked_B: NDArray[np.bool_], level: float
) -> DriftLine | None:
    picked_B = picked_B & np.isfinite(new.kl_B)
    if not picked_B.any():
        return None
    rng = np.random.default_rng(0)
    usable_B = np.isfinite(known.kl_B)
    excess_R, kl, same = np.zeros(SAMPLES), 0.0, 0.0
    for language in dict.fromkeys(new.languages[picked_B].tolist()):
        count = int((new.languages[picked_B] == language).sum())
        own_B = usable_B & (known.languages == language)
        of_B = own_B if own_B.any() else usable_B
        if not of_B.any():
            return None
        excess_R += count * (_draw_means(rng, known.kl_B[of_B], count) - _draw_means(rng, known.kl_B[of_B]))
        kl += count * known.kl_B[of_B].mean()
        same += count * known.same_B[of_B].mean()
    total = int(picked_B.sum())
    return DriftLine(
        what=what,
        texts=total,
        divergence=float(new.kl_B[picked_B].mean()),
        usual=kl / total,
        threshold=kl / total + float(np.quantile(excess_R / total, level)),
        agreement=float(new.same_B[picked_B].mean()),
        usual_agreement=same / total,
    )


def _draw_means(
    rng: np.random.Generator, values_B: NDArray[np.float64], count: int | None = None
) -> NDArray[np.float64]:
    """Return the means of SAMPLES draws of some values with replacement, a few at a time; None draws as many."""
    count = len(values_B) if count is None else count
    at_once = max(1, _DRAWN // count)
    parts = [
        rng.choice(values_B, size=(min(at_once, SAMPLES - done), count)).mean(axis=1)
        for done in range(0, SAMPLES, at_once)
    ]
    means_R: NDArray[np.float64] = np.concatenate(parts)
    return means_R
