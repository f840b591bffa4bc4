"""Evaluate a saved model on a file of labelled rows.

Decision record: the numbers are those of a run's table, from the same functions, at temperature 1 on raw logits. Scores
over the whole file come first, because a file is what was asked about; where it holds several languages their
unweighted mean stands beside it, which is what the tables of runs show. Lengths are counted in characters and cut into
four groups of equal size, so that a file of any language and length has something to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from raykd import models
from raykd.prediction.predictor import Predictor
from raykd.report.evaluations.result import CalibrationBin, EvaluationResult, Reliability, Slice
from raykd.report.sizes import Size
from raykd.scoring.evaluation.labelled_file import (
    FileOptions,
    LabelledFile,
    holds_candidates,
    read_labelled_file,
)
from raykd.scoring.language_answers import answer_as_language_model
from raykd.student.evaluate import join_system_answers
from raykd.tasks import SystemAnswers, TaskBase
from raykd.tasks.kinds.language import LanguageTask
from raykd.tasks.scores.chance import compare_with_constant_label
from raykd.tasks.scores.classes import ClassAnswers
from raykd.tasks.scores.classification import ECE_BINS, compute_calibration_bins
from raykd.tasks.scores.intervals import compute_bootstrap_interval
from raykd.teachers.timing import TIMED_TEXTS, describe_conditions, measure_time
from raykd.text.batch import TextBatch

_WRITTEN = ("chrf", "bleu", "rougeL", "exact_match")
"""Metrics of the texts that a generating model writes."""
_UNITS = {"words": "word", "labels": "label"}
"""What an answer is of, by the form of rows; a row where it is not here."""
_LENGTH_GROUPS = 4
_SMALLEST_GROUP = 10
"""Rows of a group of lengths at least; smaller groups say nothing."""


@dataclass(frozen=True)
class _Asked:
    """A model's answers to all rows of a file.

    Attributes:
        task: What the model serves.
        answers: In the rows' order, in the common labels.
        rows: The rows.
        labels: The common labels.
        long_B: Rows that lost something to the model's longest text.
    """

    task: TaskBase
    answers: SystemAnswers
    rows: TextBatch
    labels: tuple[str, ...]
    long_B: NDArray[np.bool_]


def evaluate_model(model: models.TextModel, name: str, path: Path, options: FileOptions) -> EvaluationResult:
    """Ask a model about all rows of a file and score its answers.

    Args:
        model: The loaded model.
        name: Its name, for messages and tables.
        path: JSON lines, CSV, TSV or Parquet.
        options: What a person says of the file.

    Raises:
        DataError: See `read_labelled_file`.
        LabelMismatchError: The file has a label that the model has not.
        ModelError: The model fails, or answers with NaN.
    """
    predictor = Predictor.of(model)
    if holds_candidates(path, options):
        predictor = predictor.as_ranker()
    language = model.languages[0] if len(model.languages) == 1 else ""
    found = read_labelled_file(path, predictor.task.form, model.labels, options, name, language)
    asked = _ask_model(predictor, found)
    return EvaluationResult(
        model=name,
        file=str(path),
        task=asked.task.kind,
        rows=len(asked.rows),
        metric=asked.task.metric_names[0],
        overall=_score_slice(asked, "all", "", np.arange(len(asked.rows))),
        mean_of_languages=_average_languages(asked),
        slices=(
            *_slice_by_language(asked),
            *_slice_by_group(asked),
            *_slice_by_length(asked),
            *_slice_by_cut(asked),
        ),
        classes=asked.task.score_classes(asked.answers, asked.rows, asked.labels),
        calibration=_measure_calibration(asked),
        notes=(*found.notes, *_list_notes(asked)),
        size=_measure_size(predictor, Path(name), found.rows),
    )


def _measure_size(predictor: Predictor, folder: Path, rows: TextBatch) -> Size:
    """Return how large and fast the model is, timed as students and teachers of a run are."""
    weights = {weight.data_ptr(): weight.numel() for weight in predictor.model.model.parameters()}
    megabytes = models.measure_stored_megabytes(folder) if folder.is_dir() else None
    if isinstance(predictor.task, LanguageTask):  # writing takes what the length of its texts takes
        return Size(sum(weights.values()), megabytes)
    count = min(TIMED_TEXTS, len(rows))
    sample = rows.take([i * len(rows) // count for i in range(count)])
    device = str(predictor.model.model.device)
    asked = describe_conditions(
        sample.texts, torch.get_num_threads(), device, str(predictor.model.model.dtype)
    )
    timing = measure_time(lambda: list(predictor.answer(sample)), asked)
    return Size(sum(weights.values()), megabytes, timing.ms, timing.place)


def _ask_model(predictor: Predictor, found: LabelledFile) -> _Asked:
    task, model = predictor.task, predictor.model
    rows: TextBatch = found.rows
    if isinstance(task, LanguageTask):
        if task.generates:
            task = task.model_copy(update={"written": _WRITTEN})
        answers, long_B = answer_as_language_model(model, task, rows)
        return _Asked(task, answers, rows, (), long_B)
    if model.no_answer and rows.modes is None:
        rows = found.rows.with_mode("optional")
    parts = list(predictor.answer(rows))
    back = np.argsort(np.concatenate([np.asarray(part.rows) for part in parts]))
    answers = join_system_answers([part.answers for part in parts]).take(back)
    long_B = np.concatenate([part.long_B for part in parts])[back]
    if found.labels is None:
        return _Asked(task, answers, rows, (), long_B)
    if task.form == "labels":  # units are the model's labels, and so are the file's
        return _Asked(task, answers, rows, model.labels, long_B)
    answers = replace(answers, logits_NC=found.labels.columns.apply(answers.logits_NC))
    return _Asked(task, answers, rows, found.labels.names, long_B)


def _score_slice(
    asked: _Asked,
    by: Literal["all", "language", "group", "length", "cut"],
    name: str,
    picked_B: NDArray[np.integer],
) -> Slice:
    """Return the scores of the rows at these positions."""
    answers, rows = asked.answers.take(picked_B), asked.rows.take(picked_B)
    if len(set(rows.languages)) > 1:
        answers = replace(answers, texts=None)  # what is written is scored by the rules of one language
    metrics = asked.task.compute_metrics(answers, rows, asked.labels)
    shares = asked.task.compute_row_shares(answers, rows, asked.labels)
    interval = None if shares is None else compute_bootstrap_interval(shares)
    return Slice(by, name, len(rows), metrics, interval)


def _group_by_language(asked: _Asked) -> dict[str, NDArray[np.integer]]:
    """Return the positions of the rows of each language; nothing where there is one language."""
    codes = np.asarray(asked.rows.languages, dtype=object)
    names = sorted(set(asked.rows.languages))
    return {name: np.flatnonzero(codes == name) for name in names} if len(names) > 1 else {}


def _slice_by_language(asked: _Asked) -> list[Slice]:
    return [_score_slice(asked, "language", name, at) for name, at in _group_by_language(asked).items()]


def _slice_by_group(asked: _Asked) -> list[Slice]:
    """Return the rows of each value of the column that the key `group` names, all languages together."""
    groups = np.asarray(asked.rows.groups or (), dtype=object)
    names = sorted(set(groups.tolist()) - {""})
    return [_score_slice(asked, "group", name, np.flatnonzero(groups == name)) for name in names]


def _average_languages(asked: _Asked) -> dict[str, float] | None:
    scores = [
        asked.task.compute_metrics(asked.answers.take(at), asked.rows.take(at), asked.labels)
        for at in _group_by_language(asked).values()
    ]
    return {m: float(np.mean([found[m] for found in scores])) for m in scores[0]} if scores else None


def _count_characters(asked: _Asked) -> NDArray[np.int64]:
    """Return ``[B]``: the characters that a row gives to the model; of a text to be written, its source."""
    pairs = () if isinstance(asked.task, LanguageTask) else asked.rows.pairs or ()
    lengths = [len(text) for text in asked.rows.texts]
    return np.asarray([n + len(pair) for n, pair in zip(lengths, pairs or ("",) * len(lengths), strict=True)])


def _slice_by_length(asked: _Asked) -> list[Slice]:
    """Return four groups of rows of rising length; fewer where many rows are equally long."""
    lengths_B = _count_characters(asked)
    if len(lengths_B) < _LENGTH_GROUPS * _SMALLEST_GROUP:
        return []
    cuts = np.unique(np.quantile(lengths_B, np.linspace(0, 1, _LENGTH_GROUPS + 1)[1:-1], method="lower"))
    group_B = np.searchsorted(cuts, lengths_B, side="left")
    groups = [np.flatnonzero(group_B == g) for g in range(len(cuts) + 1)]
    groups = [at for at in groups if len(at)]
    return [
        _score_slice(asked, "length", f"{lengths_B[at].min():,} to {lengths_B[at].max():,}", at)
        for at in (groups if len(groups) > 1 else [])
    ]


def _slice_by_cut(asked: _Asked) -> list[Slice]:
    """Return the rows that the model does not see whole, where there are such."""
    at = np.flatnonzero(asked.long_B)
    return [_score_slice(asked, "cut", f"over {asked.task.max_length} tokens", at)] if len(at) else []


def _compare_classes(asked: _Asked) -> ClassAnswers | None:
    return asked.task.compare_classes(asked.answers, asked.rows, asked.labels)


def _measure_calibration(asked: _Asked) -> Reliability | None:
    found = asked.task.measure_confidence(asked.answers, asked.rows, asked.labels)
    if found is None or not len(found[0]):
        return None
    confidence_N, correct_N = found
    bins = tuple(
        CalibrationBin(at / ECE_BINS, (at + 1) / ECE_BINS, *values)
        for at, values in enumerate(compute_calibration_bins(confidence_N, correct_N))
    )
    ece = sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / len(confidence_N)
    return Reliability(float(ece), _UNITS.get(asked.task.form, "row"), bins)


def _list_notes(asked: _Asked) -> list[str]:
    """Return what a reader must know about the answers."""
    notes = []
    if count := int(asked.long_B.sum()):
        notes.append(
            f"rows that lose what is beyond the {asked.task.max_length} tokens that the model reads: {count:,} of "
            f"{len(asked.rows):,}"
        )
    if asked.task.form == "answers" and "" in asked.rows.languages:
        notes.append(
            "no language is known, so articles count in F1 and exact match; --language en leaves them out as SQuAD does"
        )
    compared = _compare_classes(asked)
    if compared is not None:
        notes += _list_class_notes(asked, compared)
    return notes


def _list_class_notes(asked: _Asked, compared: ClassAnswers) -> list[str]:
    """Return notes on classes that one side lacks, and on answers that no model is needed for."""
    gold, predicted = set(compared.gold_X.tolist()), set(compared.predicted_X.tolist())
    absent = [name for at, name in enumerate(compared.names) if at not in gold]
    invented = int(np.isin(compared.predicted_X, [compared.names.index(name) for name in absent]).sum())
    notes = []
    if absent:
        what = "entities" if asked.task.form == "words" else "rows"
        notes.append(
            f"the file has none of the model's {_enumerate(absent)}; the model gives {invented:,} {what} "
            + ("such a label, which count as wrong" if invented else "such a label")
        )
    if compared.nothing:
        return notes
    if len(predicted) == 1 and len(gold) > 1:
        notes.append(f"the model gives every row the same label: {compared.names[next(iter(predicted))]}")
    chance = compare_with_constant_label(compared.predicted_X, compared.gold_X, len(compared.names))
    notes.append(
        f"the most frequent label alone ({compared.names[chance.label]}) would be right in {100 * chance.share:.1f} %"
        + ("; the model is no better" if chance.is_no_better else "")
    )
    if chance.swap is not None:
        swapped = [(i, to) for i, to in enumerate(chance.swap.assignment) if i != to]
        meant = ", ".join(f"{compared.names[i]} as {compared.names[to]}" for i, to in swapped)
        notes.append(
            f"the labels may be swapped: read {meant}, the model would be right in {100 * chance.swap.accuracy:.1f} %"
        )
    return notes


def _enumerate(names: Sequence[str]) -> str:
    most = 6
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
