"""Provide the public functions that ask a saved model, or finished runs: load, predict, evaluate, drift and more.

Importing this module imports neither torch nor Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from raykd.config.loading import ConfigSource, Override
    from raykd.parse import JsonObject
    from raykd.report.evaluations.drift import DriftReport
    from raykd.report.evaluations.result import EvaluationResult
    from raykd.results import Explanation, Result, Run, RunsReport
    from raykd.scoring.model import Model


def load(model: str | os.PathLike[str], *, task: str | None = None) -> Model:
    """Load a saved student, or any model with a head that raykd serves.

    Args:
        model: Folder of the model, or of a run, whose student is meant.
        task: Name of the task, of a student of several tasks.

    Returns:
        The model; its `predict` takes texts.

    Raises:
        ModelError: There is no model, or it must not be loaded (pickled weights, code of its own).
    """
    from raykd.scoring.model import Model

    return Model.load(model, task=task)


def predict(
    model: str | os.PathLike[str],
    inputs: str | Iterable[str | Mapping[str, object]],
    pairs: Sequence[str] | None = None,
    *,
    task: str | None = None,
    **options: Any,
) -> list[JsonObject]:
    """Load a model and predict a row for each input, in order.

    Args:
        model: As for `load`; load it once where you predict more than once.
        inputs: Texts, or mappings such as ``{"question": ..., "context": ...}``.
        pairs: Second texts, or contexts, one for each text.
        task: Name of the task, of a student of several tasks.
        **options: As for `Model.predict`.

    Returns:
        Plain values by task, for example ``{"text": ..., "label": ..., "probabilities": {...}}``.

    Raises:
        ModelError: As `load`.
        DataError: The inputs are not of the model's task.
    """
    return load(model, task=task).predict(inputs, pairs, **options)


def extract_triples(
    tagger: str | os.PathLike[str],
    relations: str | os.PathLike[str],
    inputs: str | Iterable[str | Mapping[str, object]],
    *,
    most_pairs: int = 100,
) -> list[JsonObject]:
    """Find the entities of texts and the relations between them.

    Args:
        tagger: Folder of a tagger, or of a run, whose student is meant.
        relations: The same of a model of relations.
        inputs: Texts, or mappings such as ``{"tokens": [...]}``.
        most_pairs: Pairs of entities of one text that are asked about at most, the closest first. Where there are
            more, their number is under ``pairs_left_out``.

    Returns:
        For each input ``text``, ``entities`` and ``triples``: a list of ``{"head": ..., "relation": ..., "tail": ...,
        "probability": ...}``, head and tail as the tagger gives entities. Pairs without a relation are left out.

    Raises:
        ModelError: As `load`; a model serves another task.
        DataError: As `predict`.
    """
    return load(tagger).chain(load(relations), most_pairs=most_pairs).predict(inputs)


def evaluate(
    model: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    label_map: Mapping[str, str | None] | None = None,
    language: str | None = None,
    skip_bad_rows: bool = False,
    task: str | None = None,
) -> EvaluationResult:
    """Score a saved model on a file of labelled rows.

    Args:
        model: As for `load`.
        file: JSON lines, CSV, TSV or Parquet; the ending says which.
        columns: Names of columns by their keys, for example ``{"text": "review", "label": "stars"}``.
        label_map: What a label, of the file or of the model, is called; None leaves the rows of a label of the file
            out. Several labels may lead to one.
        language: Language of all rows, for a file that has no column for it.
        skip_bad_rows: Leave rows out that cannot be used; they are counted in the notes.
        task: Name of the task, of a student of several tasks.

    Returns:
        Scores with intervals, by class, language and length, and calibration.

    Raises:
        ModelError: As `load`; the file has a label that the model has not (`LabelMismatchError`).
        DataError: The file cannot be read, a column is missing, or a row is bad.
        ConfigError: An option names what is not there.
    """
    from pathlib import Path

    from raykd.scoring.evaluation.evaluate import evaluate_model
    from raykd.scoring.evaluation.labelled_file import FileOptions
    from raykd.scoring.model import load_saved_model

    options = FileOptions(columns or {}, language, label_map or {}, skip_bad_rows)
    return evaluate_model(load_saved_model(model, task), str(model), Path(file), options)


def explain(
    run: str | os.PathLike[str] | Run, *, comparison: str | os.PathLike[str] | None = None
) -> Explanation:
    """Explain what each teacher of a run adds, over stored answers: contributions, agreement, calibration, advice.

    Nothing is trained and no teacher is loaded. Writes ensemble.json and ensemble.html into the run's folder, and
    replaces them and the run's page in MLflow.

    Args:
        run: The folder of a run, or its result.
        comparison: Folder of an experiment that left its teachers out; its result stands beside the estimate.

    Returns:
        Contributions by teacher, language and class; what is worth changing.

    Raises:
        ConfigError: It is not the folder of a run with teachers.
        TeacherError: The stored answers are gone; names the command that computes them again.
        RaykdError: Data or models cannot be read.
    """
    from pathlib import Path

    from raykd.results import Explanation, Run
    from raykd.scoring.ensembles.explained_run import explain_folder

    folder = run.folder if isinstance(run, Run) else Path(run)
    explained = explain_folder(folder, None if comparison is None else Path(comparison))
    return Explanation.of(explained[0].folder, explained)


def write_report(
    *runs: str | os.PathLike[str] | Result, page: str | os.PathLike[str] | None = None, png: bool = False
) -> RunsReport:
    """Write the page of one run again, or set any runs side by side: scores by language, costs, what differs.

    Nothing is trained and no model is loaded.

    Args:
        *runs: Folders of runs, sweeps and comparisons, their names under ``runs``, or results. A sweep is shown by its
            best trial, a comparison by its arms.
        page: The file of a page about several; None is ``compared.html`` beside the first folder.
        png: Whether to draw the charts as PNGs beside the page, too; needs the extra ``raykd[png]``.

    Returns:
        The runs as a table, and the keys of their configurations that differ.

    Raises:
        ConfigError: A folder is none of raykd's, or a PNG cannot be drawn.
        DataError: A folder holds no report.
    """
    from pathlib import Path

    from raykd.report.side_by_side.write import write_report_of
    from raykd.results import Result, RunsReport

    folders = [run.folder if isinstance(run, Result) else Path(run) for run in runs]
    return RunsReport.of(write_report_of(folders, None if page is None else Path(page), png=png))


def drift(
    run: str | os.PathLike[str],
    files: str | Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    level: float = 0.99,
    progress: Callable[[str, int, int], None] = lambda who, done, rows: None,
) -> DriftReport:
    """Measure whether new texts have drifted away from what a student learnt: how far it is from its teachers.

    Needs no gold label. Teachers answer in this process; stored answers load no model.

    Args:
        run: Folder of a run with teachers.
        files: The new texts: paths or patterns.
        columns: Names of columns by their keys, where they are not the run's.
        language: Of all texts, where the files have no column for it.
        level: Share of windows of undrifted texts below the threshold, in (0, 1).
        progress: Is told who is asked, the rows that are done, and all rows.

    Returns:
        Divergence, threshold and agreement of all texts and of each language; `drifted` says the verdict.

    Raises:
        ConfigError: The run has no teachers, or its task chooses among no labels.
        DataError: The files cannot be read, or no teacher answers.
        ModelError: A teacher is not there any more.
    """
    from raykd.config import Files
    from raykd.scoring.evaluation.drift import measure_drift

    paths = (files,) if isinstance(files, str) else tuple(files)
    source = Files.model_validate({"paths": paths, "columns": dict(columns or {}), "language": language})
    return measure_drift(Path(run), source, level=level, progress=progress)


def watch(
    config: ConfigSource,
    pattern: str,
    *,
    from_run: str | os.PathLike[str],
    overrides: Sequence[Override] = (),
    columns: Mapping[str, str] | None = None,
    language: str | None = None,
    level: float = 0.99,
    window: int = 200,
    every_s: float = 3600.0,
    once: bool = False,
    console: Console | None = None,
) -> list[DriftReport]:
    """Watch for files of new texts; where they have drifted, train the next run with them, which goes on from the last.

    Args:
        config: Run file of the runs that follow; `data.unlabeled` is set to the new texts, `from_run` to the last run.
        pattern: Of the files. A file is judged once, when its texts and those of others make a window.
        from_run: Folder of the run to begin with. What was judged is kept there, in drift.jsonl.
        overrides: Keys of the run file to change.
        columns: As of `drift`.
        language: As of `drift`.
        level: As of `drift`.
        window: Least texts that are judged together.
        every_s: Seconds between two looks.
        once: Look once, and not for ever.
        console: Where it says what it found; None makes one.

    Returns:
        What was measured.

    Raises:
        RaykdError: As `drift` and `train`.
    """
    from functools import partial

    from rich.console import Console

    from raykd.runs.watching import DriftWatch, watch_files
    from raykd.scoring.evaluation.drift import measure_drift

    source = {"columns": dict(columns or {}), "language": language}
    measure = partial(measure_drift, level=level)
    watched = DriftWatch(
        Path(from_run).resolve(), config, pattern, source, measure, window=window, overrides=tuple(overrides)
    )
    return watch_files(watched, console or Console(), every_s=every_s, once=once)
