"""Predict with a saved model, from Python and for `raykd predict`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raykd import models
from raykd.config.home import find_student
from raykd.errors import ModelError
from raykd.prediction.predictor import Predictor, RequestedLengths
from raykd.prediction.triples import MOST_PAIRS, check_chain, relate_entities
from raykd.scoring.inputs import InputRows, make_input_rows
from raykd.text.tokens import has_languages, list_adapters


class Model:
    """A saved model, loaded: predicts labels, entities, answers or texts.

    Attributes:
        task: Kind of task that it serves, for example ``classification``.
        labels: Its labels; () for a model without any.
    """

    def __init__(self, loaded: models.TextModel) -> None:
        self._loaded = loaded
        self._predictors: dict[RequestedLengths, Predictor] = {}
        self._relations: Predictor | None = None
        self._most_pairs = MOST_PAIRS
        self.task: str = str(loaded.settings.get("kind", loaded.task))
        self.labels: tuple[str, ...] = tuple(loaded.labels)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, task: str | None = None) -> Model:
        """Load a model's folder, or the student of a run's folder.

        Args:
            path: The folder.
            task: Name of the task, of a student of several tasks.

        Raises:
            ModelError: There is no model, or it must not be loaded (pickled weights, code of its own).
        """
        return cls(load_saved_model(path, task))

    def chain(self, relations: Model, *, most_pairs: int = MOST_PAIRS) -> Model:
        """Return a model that names the relations between the entities which this one finds.

        Args:
            relations: A model of relations.
            most_pairs: Pairs of entities of one text that are asked about at most, the closest first.

        Raises:
            ModelError: One of the two serves another task.
        """
        chained = Model(self._loaded)
        chained._relations, chained._most_pairs = relations._get_predictor(RequestedLengths()), most_pairs
        check_chain(chained._get_predictor(RequestedLengths()), chained._relations)
        return chained

    def __repr__(self) -> str:
        return f"Model(task={self.task!r}, labels={self.labels!r})"

    def predict(
        self,
        inputs: str | Iterable[str | Mapping[str, object]],
        pairs: Sequence[str] | None = None,
        *,
        probabilities: bool = True,
        no_answer: bool = False,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        language: str | None = None,
        source_language: str | None = None,
    ) -> list[dict[str, Any]]:
        """Predict a row for each input, in order.

        Args:
            inputs: Texts; or mappings with the keys of a JSON line of `raykd predict`: ``{"text": ...}``,
                ``{"tokens": [...]}``, ``{"question": ..., "context": ...}``, ``{"query": ..., "candidates": [...]}``.
                Other keys of a mapping come out again.
            pairs: Second texts, or contexts, one for each text.
            probabilities: Whether a label comes with the ``probabilities`` of all labels. Without, it comes with its
                own ``probability`` alone, which takes half the time of a small model of many labels.
            no_answer: Whether "no answer" is a choice for questions. It also is where an input's ``answers``
                are empty, and for a student that learnt it.
            max_length: Longest prompt or source in tokens, of a model that writes; None is what it was
                trained with.
            max_new_tokens: Longest text in tokens that a model writes; None is what it was judged with.
            language: Language to write, for a multilingual model; or of the texts, for a student with an adapter
                for each language. None is what an input says under tgt_lang or lang.
            source_language: Language of the sources; None is what an input says under src_lang.

        Returns:
            Plain values. By task: ``label`` and ``probabilities`` (label to [0, 1]), or ``probability``; ``entities``;
            ``answer`` and ``probability``; ``written``; ``ranked``; ``triples`` of chained models. Each with the text
            that it answers.

        Raises:
            DataError: The inputs are not of the model's task.
            ModelError: The model fails, or answers with NaN.
        """
        return list(
            self.iterate(
                make_input_rows(inputs, pairs),
                probabilities=probabilities,
                no_answer=no_answer,
                max_length=max_length,
                max_new_tokens=max_new_tokens,
                language=language,
                source_language=source_language,
            )
        )

    def iterate(
        self,
        rows: InputRows,
        *,
        probabilities: bool = True,
        no_answer: bool = False,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        language: str | None = None,
        source_language: str | None = None,
    ) -> Iterator[dict[str, object]]:
        """Predict rows lazily, in order; arguments and results as in `predict`."""
        predictor = self._get_predictor(RequestedLengths(max_length, max_new_tokens))
        if rows.candidates is not None:
            predictor = predictor.as_ranker()
        if no_answer and predictor.task.form != "answers":
            raise ModelError(
                "no_answer is a choice for questions about a context",
                got=f"a model of task {predictor.task.kind}",
                wanted="a model of task question_answering",
                next_step="leave --no-answer out",
            )
        batch = rows.batch(predictor.task, no_answer=no_answer)
        tokenizer = self._loaded.tokenizer
        writes = predictor.task.marks_languages
        reads = writes or bool(list_adapters(tokenizer)) or has_languages(tokenizer)
        if not reads and (language or source_language):
            raise ModelError(
                "this model reads all texts alike, whatever their language",
                got=f"language {language or source_language}",
                wanted="a model that writes several languages, or one with an adapter or a tokenizer for each",
                next_step="leave --language and --source-language out",
            )
        if source_language and not writes:
            raise ModelError(
                "this model translates nothing",
                got=f"source language {source_language}",
                wanted="a model that translates",
                next_step="leave --source-language out; --language names the texts'",
            )
        if reads:
            batch = rows.in_languages(batch, source_language, language)
        predictions = predictor.predict(batch, probabilities=probabilities)
        if self._relations is not None:
            predictions = relate_entities(predictions, self._relations, self._most_pairs)
        if rows.others is None:
            return predictions
        return ({**kept, **answer} for kept, answer in zip(rows.others, predictions, strict=True))

    def list_answer_keys(self, *, ranks: bool = False) -> tuple[str, ...]:
        """Return the names of what the model answers, the answer itself first: ``label``, then ``p_LABEL``.

        Args:
            ranks: Whether the rows have candidates.
        """
        if self._relations is not None:
            return ("triples",)
        predictor = self._get_predictor(RequestedLengths())
        task = (predictor.as_ranker() if ranks else predictor).task
        return tuple(column.name for column in task.build_signature(self.labels).outputs)

    def _get_predictor(self, lengths: RequestedLengths) -> Predictor:
        if lengths not in self._predictors:
            self._predictors[lengths] = Predictor.of(self._loaded, lengths)
        return self._predictors[lengths]


def load_saved_model(path: str | os.PathLike[str], task: str | None = None) -> models.TextModel:
    """Load a model's folder, or the student of a run's folder; arguments and errors as of `Model.load`."""
    return models.load_model(models.find_task_folder(find_student(Path(path)), task))
