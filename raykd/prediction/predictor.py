"""Ask a saved model: rows go in, what people and programs read comes out.

Decision record: the command line and MLflow share one way, so that both give the same answers. A model's directory
tells its task and its longest text. Other settings of a task (the overlap of windows) are the task's defaults, made to
fit short windows, because they belong to how a model is asked and not to the model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from raykd.distill.signals import UNLABELLED
from raykd.errors import DataError, ModelError
from raykd.models.textmodel import TextModel
from raykd.prediction.generation_settings import compute_input_limit, count_places
from raykd.prediction.probes import FAILURES, build_row_error
from raykd.prediction.selftest import build_nonfinite_error, find_padding
from raykd.tasks import EncodedBatch, SystemAnswers, TaskBase, build_task, find_task_class
from raykd.tasks.base import Network
from raykd.tasks.kinds.language import LanguageTask
from raykd.tasks.markers import MARKERS, is_marked
from raykd.text.batch import Mode, TextBatch
from raykd.text.padding import Padding, split_passes
from raykd.text.words import find_word_spans, join_tokens

Ask = Callable[[Network, EncodedBatch], SystemAnswers]
log = logging.getLogger("raykd.models")
ROWS = 512
"""Rows that are encoded at once."""
WRITTEN_ROWS = 256
"""Rows of a model that writes, which are ordered by length together."""
PASS_TOKENS = 8192
"""Largest padded size of one forward pass."""
LONGEST = 512
"""Tokens of the longest text, for a model that does not say with how many it was trained."""
NEW = 64
"""Tokens that are written at most, for a model that does not say how many."""


@dataclass(frozen=True)
class RequestedLengths:
    """Lengths that the user asks of a language model, in tokens.

    None is what the model was judged with, else what it has places for.

    Attributes:
        longest: The longest prompt or source.
        new: The longest text that is written.
    """

    longest: int | None = None
    new: int | None = None


def build_served_task(model: TextModel, lengths: RequestedLengths = RequestedLengths()) -> TaskBase:
    """Return the task that a model serves.

    Raises:
        ModelError: The model has no place for so many tokens, or raykd.json holds invalid settings.
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
    longest = model.max_length or (
        LONGEST if chosen.form == "answers" else max(LONGEST, _read_tokenizer_limit(model) or 0)
    )
    if chosen.generates:
        return _build_language_task(model, lengths)
    if lengths != RequestedLengths():
        raise ModelError(
            "only models that write text have these lengths",
            got=f"a model of task {model.task}",
            wanted="a model of task causal_lm or seq2seq",
            next_step="leave --max-length and --max-new-tokens out",
        )
    own = {key: value for key, value in model.settings.items() if key in chosen.model_fields}
    served = chosen.build_served_settings(min(longest, places or longest))
    return build_task({**own, "kind": kind, **served}).with_labels(model.labels)


def _build_language_task(model: TextModel, lengths: RequestedLengths) -> TaskBase:
    """Return the task with lengths as asked for, else as the model was judged with, else as its positions allow."""
    config, own = model.model.config, dict(model.settings)
    read, written = count_places(config)
    closed = bool(config.is_encoder_decoder)
    fitting = NEW if written is None else min(NEW, written if closed else written // 2)
    new = lengths.new or int(own.get("max_new_tokens") or fitting)
    if not closed and written is not None and new >= written:
        compute_input_limit(config, new, lengths.longest)  # raises
    room = read if closed or read is None else read - new
    trained = model.max_length
    if trained is None and read is None:
        room = _read_tokenizer_limit(model) or LONGEST
    if trained is not None and not closed:
        trained = max(1, trained - int(own.get("max_target_length") or trained // 2))
    longest = lengths.longest or min(n for n in (trained, room) if n is not None)
    settings = {"kind": model.task, **own, "max_new_tokens": new, "max_length": longest}
    if not closed:
        settings |= {"max_target_length": new, "max_length": longest + new}
    try:
        return build_task(settings)
    except ValidationError as error:
        raise ModelError("raykd.json of the model holds invalid settings", got=str(error)[:300]) from None


def _read_tokenizer_limit(model: TextModel) -> int | None:
    """Return the longest text that the model's tokenizer names; None where it names none."""
    limit = getattr(model.tokenizer, "model_max_length", None)
    # transformers writes 10**30 where nothing was said.
    return limit if isinstance(limit, int) and 0 < limit < 10**6 else None


@dataclass(frozen=True)
class AnsweredPart:
    """A model's answers to some rows of a batch.

    Attributes:
        rows: Their positions in the batch.
        answers: In the order of `rows`.
        long_B: Whether each of them lost something to the model's longest text.
    """

    rows: list[int]
    answers: SystemAnswers
    long_B: NDArray[np.bool_]


@dataclass(frozen=True)
class Predictor:
    """A model in evaluation mode and the task that it serves."""

    model: TextModel
    task: TaskBase
    _tested: list[Padding] = field(default_factory=list, repr=False, compare=False)

    @staticmethod
    def of(model: TextModel, lengths: RequestedLengths = RequestedLengths()) -> Predictor:
        """Return the predictor of a loaded model."""
        model.model.eval()
        return Predictor(model, build_served_task(model, lengths))

    def as_ranker(self) -> Predictor:
        """Return the predictor of candidates: a model that gives one number for a pair ranks, whatever it learnt."""
        if self.task.head != "regression":
            return self
        return replace(
            self, task=build_task({"kind": "ranking", "max_length": self.task.max_length}), _tested=[]
        )

    def predict(self, batch: TextBatch, *, probabilities: bool = True) -> Iterator[dict[str, object]]:
        """Yield the task's prediction for each row, in order; a language model's is what it writes.

        Args:
            batch: The rows.
            probabilities: Whether a choice comes with the probability of every label, not of itself alone.

        Raises:
            DataError: The model learnt from pairs of texts, and the rows have one text each.
            ModelError: The model is a masked language model, which has no answer to a text as a whole.
        """
        if self.task.language and not self.task.generates:
            raise ModelError(
                "a masked language model has nothing to predict of a whole text",
                got=f"a model of task {self.task.kind}",
                wanted="a model of another task",
                next_step="train a task on it: a student of kind pretrained with this directory as its path",
            )
        if isinstance(self.task, LanguageTask):
            yield from self._generate(self.task, batch)
            return
        self._check_pairs(batch)
        if self.model.no_answer and batch.modes is None:
            mode: Mode = "optional"
            batch = replace(batch, modes=(mode,) * len(batch))
        for begin in range(0, len(batch), ROWS):
            part = batch.take(range(begin, min(begin + ROWS, len(batch))))
            yield from self._predict_part(part, probabilities=probabilities)

    def _generate(self, task: LanguageTask, batch: TextBatch) -> Iterator[dict[str, object]]:
        from raykd.prediction.writing import generate_texts

        for begin in range(0, len(batch), WRITTEN_ROWS):
            texts = batch.texts[begin : begin + WRITTEN_ROWS]
            made = generate_texts(
                self.model.model,
                self.model.tokenizer,
                texts,
                languages=batch.languages[begin : begin + WRITTEN_ROWS],
                source_languages=(batch.source_languages or ())[begin : begin + WRITTEN_ROWS],
                max_new_tokens=task.max_new_tokens,
                max_input_tokens=task.prompt_tokens,
                beams=task.beams,
                generation=task.generation,
            )
            for text, written in zip(texts, made, strict=True):
                yield {"text": text, "written": written}

    def _find_padding(self, batch: TextBatch) -> Padding:
        """Return how rows share a forward pass, by a self-test that is made once, as soon as there are several rows."""
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

    def answer(self, batch: TextBatch) -> Iterator[AnsweredPart]:
        """Yield the logits of some rows at a time, for a task that has units; every row comes once, in any order.

        Raises:
            DataError: The model learnt from pairs of texts, and the rows have one text each.
            ModelError: The model fails, or answers with NaN.
        """
        self._check_pairs(batch)
        for begin in range(0, len(batch), ROWS):
            part = batch.take(range(begin, min(begin + ROWS, len(batch))))
            for found in self._answer_part(part, self.task.evaluate_batch):
                yield replace(found, rows=[begin + at for at in found.rows])

    def _check_pairs(self, batch: TextBatch) -> None:
        """Refuse lone texts where the model learnt from pairs: its answer would mean nothing."""
        if self.model.pairs and batch.pairs is None:
            raise DataError(
                "this model learnt from pairs of texts",
                got=f"a text without a second one: {batch.texts[0][:80]!r}" if batch.texts else "no text",
                wanted="a second text for each text",
                next_step="raykd predict MODEL --file ROWS --pair KEY, or pairs= in Python",
            )

    def _predict_part(self, batch: TextBatch, *, probabilities: bool) -> list[dict[str, object]]:
        build = self.task.build_predictions if probabilities else self.task.build_choices
        order: list[int] = []
        found: list[dict[str, object]] = []
        for part in self._answer_part(batch, self.task.choose):
            order += part.rows
            found += build(part.answers, batch.take(part.rows), self.model.labels)
        return [found[at] for at in np.argsort(order).tolist()]

    def _answer_part(self, batch: TextBatch, ask: Ask) -> Iterator[AnsweredPart]:
        """Yield the answers of each forward pass over rows that are encoded at once."""
        padding = self._find_padding(batch).answering(self.model.model.device)
        rows = self.task.encode(self.model.tokenizer, batch)
        long_B = np.zeros(len(batch), dtype=bool) if rows.long_B is None else rows.long_B
        # What costs nothing a token needs no bound.
        most = ROWS * LONGEST if padding.joined else PASS_TOKENS
        for picked in split_passes(
            rows.lengths_B,
            most,
            much_shorter=padding.much_shorter,
            adapters_B=rows.adapters_B,
            joined=padding.joined,
        ):
            encoded = self.task.collate(rows, picked, padding)
            answers = self._answer(ask, encoded, int(rows.lengths_B[picked].max(initial=0)))
            yield AnsweredPart(list(picked), answers, long_B[picked])

    def _answer(self, ask: Ask, encoded: EncodedBatch, longest: int) -> SystemAnswers:
        """Return the model's answers to a batch.

        Args:
            ask: The task's way to ask it.
            encoded: The batch.
            longest: Tokens of its longest row, for the message.

        Raises:
            ModelError: The model fails, or answers with NaN.
        """
        try:
            with torch.inference_mode():
                answers = ask(self.model.model, encoded)
        except FAILURES as error:
            raise build_row_error(error, longest) from None
        if np.isnan(answers.logits_NC).any():
            raise build_nonfinite_error("the model")
        return answers


def build_unlabelled_rows(
    form: str,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
    *,
    no_answer: bool = False,
    candidates: Sequence[Sequence[str]] | None = None,
) -> TextBatch:
    """Return rows without gold and without a language, as the tasks read them.

    Args:
        form: The form of the task's rows.
        texts: First texts.
        pairs: Second texts.
        tokens: The words of each row, where they are known; its text then follows from them.
        no_answer: Whether "no answer" is a choice for questions about a context.
        candidates: The texts that are ranked for each query.

    Raises:
        DataError: A text of a relation lacks its markers, or queries have no candidates.
    """
    if (form == "candidates") != (candidates is not None) or not all(map(len, candidates or ())):
        raise DataError(
            "this model ranks candidates for a query" if form == "candidates" else "this model ranks nothing",
            got="a query without candidates" if form == "candidates" else "rows with candidates",
            wanted='JSON lines {"query": ..., "candidates": [...]}' if form == "candidates" else "texts",
            next_step="raykd predict MODEL_DIR --file FILE" if form == "candidates" else "name another model",
        )
    if form == "marked":
        for at, text in enumerate(texts, 1):
            if not is_marked(text):
                raise DataError(
                    "this model names the relation between two marked entities",
                    got=f"text {at}: {text[:80]!r}",
                    wanted=f"each of {' '.join(MARKERS)} once",
                    next_step="mark them, or pass rows with the keys text, head and tail",
                )
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
        candidates=None if candidates is None else tuple(map(tuple, candidates)),
        words=words,
        modes=(mode,) * len(texts) if mode else None,
    )
