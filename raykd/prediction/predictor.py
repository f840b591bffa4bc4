"""A saved model as something to ask: rows in, what people and programs read out.

Decision record: one way for the command line and for MLflow, so that both say the same. A model's directory tells its
task and its longest text; what else a task may be set to (the overlap of windows) is the task's default, made to fit
short windows, because it is a property of how a model is asked and not of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from raykd.distill.signals import UNLABELLED
from raykd.errors import ModelError
from raykd.models.textmodel import TextModel
from raykd.prediction.generation_settings import compute_input_limit, count_places
from raykd.prediction.probes import FAILURES, build_row_error
from raykd.prediction.selftest import build_nonfinite_error, find_padding
from raykd.tasks import EncodedBatch, SystemAnswers, TaskBase, build_task, find_task_class
from raykd.tasks.language import LanguageTask
from raykd.text.batch import Mode, TextBatch
from raykd.text.padding import Padding, split_passes
from raykd.text.words import find_word_spans, join_tokens

log = logging.getLogger("raykd.models")
ROWS = 256
"""Rows that are encoded at once."""
PASS_TOKENS = 8192
"""Largest padded size of one forward pass."""
LONGEST = 512
"""Tokens, for a model that does not say with how many it was trained."""
NEW = 64
"""Tokens that are written at most, for a model that does not say how many."""


@dataclass(frozen=True)
class RequestedLengths:
    """What who asks wants of a language model, in tokens: the longest prompt or source, and the longest text that is
    written. None is what the model was judged with, else what it has places for."""

    longest: int | None = None
    new: int | None = None


def build_served_task(model: TextModel, lengths: RequestedLengths = RequestedLengths()) -> TaskBase:
    """The task that a model serves.

    Raises:
        ModelError: the model has no place for so many tokens, or raykd.json holds settings that are none.
    """
    places = None if model.positions is None else model.positions.source
    kind = str(model.settings.get("kind", model.task))
    chosen = find_task_class(kind)
    if chosen is None:
        raise ModelError(
            "the model was trained for a kind of task that nobody registered",
            got=kind,
            wanted="the module that defines it, imported before the model is asked",
            next_step="import it, or load the model with plain transformers",
        )
    longest = model.max_length or (LONGEST if chosen.form == "answers" else _own_longest(model))
    if chosen.generates:
        return _build_language_task(model, lengths)
    if lengths != RequestedLengths():
        raise ModelError(
            "only models that write text have these lengths",
            got=f"a model of task {model.task}",
            wanted="a model of task causal_lm or seq2seq",
            next_step="leave --max-length and --max-new-tokens out",
        )
    return build_task({"kind": kind, **chosen.build_served_settings(min(longest, places or longest))})


def _build_language_task(model: TextModel, lengths: RequestedLengths) -> TaskBase:
    """Lengths as they were asked for, else as the model was judged with, else as its positions allow."""
    config, own = model.model.config, dict(model.settings)
    read, written = count_places(config)
    closed = bool(config.is_encoder_decoder)
    some = NEW if written is None else min(NEW, written if closed else written // 2)
    new = lengths.new or int(own.get("max_new_tokens") or some)
    if not closed and written is not None and new >= written:
        compute_input_limit(config, new, lengths.longest)  # says so
    room = read if closed or read is None else read - new
    trained = model.max_length
    if trained is not None and not closed:
        trained = max(1, trained - int(own.get("max_target_length") or trained // 2))
    longest = lengths.longest or min(n for n in (trained, room, _longest(model)) if n is not None)
    settings = {"kind": model.task, **own, "max_new_tokens": new, "max_length": longest}
    if not closed:
        settings |= {"max_target_length": new, "max_length": longest + new}
    try:
        task = build_task(settings)
    except ValidationError as error:
        raise ModelError(
            "raykd.json of the model holds settings that are none", got=str(error)[:300]
        ) from None
    return task


def _own_longest(model: TextModel) -> int:
    """The longest text that a model of others was made for: what its tokenizer says, and `LONGEST` at least."""
    said = getattr(model.tokenizer, "model_max_length", None)
    return max(LONGEST, said) if isinstance(said, int) and said < 10**6 else LONGEST


def _longest(model: TextModel) -> int | None:
    """The longest text of a model that does not tell in positions: what its tokenizer says, else `LONGEST`."""
    if model.max_length is not None or count_places(model.model.config)[0] is not None:
        return None
    said = getattr(model.tokenizer, "model_max_length", None)
    return said if isinstance(said, int) and 0 < said < 10**6 else LONGEST


@dataclass(frozen=True)
class Predictor:
    """A model in evaluation mode and its task."""

    model: TextModel
    task: TaskBase
    _tested: list[Padding] = field(default_factory=list, repr=False, compare=False)

    @staticmethod
    def of(model: TextModel, lengths: RequestedLengths = RequestedLengths()) -> Predictor:
        """The predictor of a loaded model."""
        model.model.eval()
        return Predictor(model, build_served_task(model, lengths))

    def predict(self, batch: TextBatch) -> Iterator[dict[str, Any]]:
        """The task's prediction for each row, in order; of a language model what it writes.

        Raises:
            ModelError: a masked language model, which says nothing of a text as a whole.
        """
        if self.task.language and not self.task.generates:
            raise ModelError(
                "a masked language model has nothing to predict of a whole text",
                got=f"a model of task {self.task.kind}",
                wanted="a model of another task",
                next_step="train a task on it: a student of kind pretrained with this directory as its path",
            )
        if isinstance(self.task, LanguageTask):
            yield from self._written(self.task, batch)
            return
        if self.model.no_answer and batch.modes is None:
            mode: Mode = "optional"
            batch = replace(batch, modes=(mode,) * len(batch))
        for begin in range(0, len(batch), ROWS):
            part = batch.take(range(begin, min(begin + ROWS, len(batch))))
            yield from self._part(part)

    def _written(self, task: LanguageTask, batch: TextBatch) -> Iterator[dict[str, Any]]:
        from raykd.prediction.writing import generate_texts

        for begin in range(0, len(batch), ROWS):
            texts = batch.texts[begin : begin + ROWS]
            made = generate_texts(
                self.model.model,
                self.model.tokenizer,
                texts,
                languages=batch.languages[begin : begin + ROWS],
                source_languages=(batch.source_languages or ())[begin : begin + ROWS],
                max_new_tokens=task.max_new_tokens,
                max_input_tokens=task.prompt_tokens,
                beams=task.beams,
                generation=task.generation,
            )
            yield from ({"text": text, "written": answer} for text, answer in zip(texts, made, strict=True))

    def _padding(self, batch: TextBatch) -> Padding:
        """How rows share a forward pass: by the model's self-test, made once where there is more than one row."""
        if self._tested:
            return self._tested[0]
        if len(batch) < 2:
            return self.model.padding
        found = find_padding(self.model, self.task, batch)
        padding = found.of(self.model.padding)
        if found.is_conclusive:
            self._tested.append(padding)
            if found.shapes != "longest":
                log.warning("%s", found.describe())
        return padding

    def _part(self, batch: TextBatch) -> list[dict[str, object]]:
        padding = self._padding(batch)
        rows = self.task.encode(self.model.tokenizer, batch)
        found: list[dict[str, object]] = [{} for _ in range(len(batch))]
        for picked in split_passes(rows.lengths_B, PASS_TOKENS):
            encoded = self.task.collate(rows, picked, padding)
            said = self._said(encoded, int(rows.lengths_B[picked].max(initial=0)))
            answers = self.task.build_predictions(said, batch.take(picked), self.model.labels)
            for at, answer in zip(picked, answers, strict=True):
                found[at] = answer
        return found

    def _said(self, encoded: EncodedBatch, longest: int) -> SystemAnswers:
        """What the model says to a batch.

        Args:
            longest: Tokens of its longest row, for the message.

        Raises:
            ModelError: The model fails, or answers with NaN.
        """
        try:
            with torch.inference_mode():
                said = self.task.evaluate_batch(self.model.model, encoded)
        except FAILURES as error:
            raise build_row_error(error, longest) from None
        if np.isnan(said.logits_NC).any():
            raise build_nonfinite_error("the model")
        return said


def build_unlabelled_rows(
    form: str,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
    *,
    no_answer: bool = False,
) -> TextBatch:
    """Rows without gold and without a language, as the tasks read them.

    Args:
        form: of the task's rows. tokens: the words of each row, where they are known; its text then follows.
        no_answer: whether "no answer" is a choice for questions about a context.
    """
    words = None
    mode: Mode = "split" if tokens is not None else "optional" if no_answer and form == "answers" else ""
    if tokens is not None:
        joined = [join_tokens(row) for row in tokens]
        texts, words = [text for text, _ in joined], tuple(spans for _, spans in joined)
    elif form == "words":
        words = tuple(tuple((int(b), int(e)) for b, e in find_word_spans(text)) for text in texts)
    return TextBatch(
        ids=tuple(f"text {i + 1}" for i in range(len(texts))),
        texts=tuple(texts),
        languages=("",) * len(texts),
        labels_B=np.full(len(texts), UNLABELLED, dtype=np.int64),
        pairs=None if pairs is None else tuple(pairs),
        words=words,
        modes=(mode,) * len(texts) if mode else None,
    )
