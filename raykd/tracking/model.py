"""Serve the student in MLflow, which copies this file beside the weights and runs it to load them.

Decision record: a model from code, so that nothing is pickled. Safetensors and the tokenizer's files are loaded through
`raykd.models`: the installed one, else the one that the model carries (see `packing`). It answers as `raykd predict`
does.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import replace

import pandas
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class StudentModel(PythonModel):
    """Answers rows in the terms of the student's task.

    Classification: ``text`` (and ``text_pair``) with ``label`` and a column ``p_<label>`` for each label. Tagging:
    ``text`` with ``entities``, a list of ``{text, type, start, end}``. Question answering: ``question`` and
    ``context`` with ``answer``, ``start``, ``end`` and ``probability``. Language models: ``text`` (for
    translation also ``lang`` to write and ``src_lang``) with ``written``. A student with an adapter for each language
    also reads ``lang``.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the saved student."""
        _make_importable(context.artifacts["code"])
        from raykd.models import load_model
        from raykd.prediction.predictor import Predictor

        self.predictor = Predictor.of(load_model(context.artifacts["student"]))

    def predict(
        self, context: object, model_input: pandas.DataFrame, params: dict[str, object] | None = None
    ) -> pandas.DataFrame:
        """Return a row for each row of the input, with its index."""
        from raykd.prediction.predictor import build_unlabelled_rows
        from raykd.tasks.signature import LANGUAGE_COLUMNS
        from raykd.text.tokens import list_adapters

        task, labels = self.predictor.task, self.predictor.model.labels
        told = task.marks_languages or list_adapters(self.predictor.model.tokenizer)
        spoken = [column.name for column in LANGUAGE_COLUMNS] if told else []
        names = [c.name for c in task.build_signature(labels).inputs if c.name not in spoken]
        first, second = [*names, ""][:2]
        texts = [str(text) for text in model_input[first]]
        ranks = task.form == "candidates"
        candidates = [list(own) for own in model_input[second]] if ranks else None
        is_pair = second in model_input.columns and not ranks
        pairs = [str(text) for text in model_input[second]] if is_pair else None
        rows = build_unlabelled_rows(task.form, texts, pairs, candidates=candidates)
        if spoken:
            written, read = (
                tuple(x if isinstance(x, str) else "" for x in model_input.get(name, [None] * len(texts)))
                for name in spoken
            )
            rows = replace(rows, languages=written, source_languages=read)
        found = list(self.predictor.predict(rows))
        return pandas.DataFrame(task.to_columns(found, labels), index=model_input.index)


def _make_importable(folder: str) -> None:
    """Import the raykd that the model carries, where none is installed; the process's path stays as it was."""
    try:
        found = importlib.util.find_spec("raykd")
    except (ImportError, ValueError):
        found = None
    if found is not None and found.origin is not None:  # a folder that is only called raykd has none
        return
    sys.modules.pop("raykd", None)
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        importlib.import_module("raykd")
    finally:
        sys.path.remove(folder)


set_model(StudentModel())
