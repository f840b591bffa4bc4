"""`HttpWordsBackend`: a served causal language model is read as a classifier, at words behind a template.

Decision record: a word is scored as a local model scores it (`raykd.teachers.backends.words.reading`): the sum of the
log-probabilities of its tokens behind the prompt, whatever their rank, so nothing of the words' probability is unknown.
That takes a request for each word; servers keep the prompt that they share. A row of which a word cannot be scored is
not covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_answer
from raykd.errors import ConfigError, TeacherError
from raykd.tasks import Classification
from raykd.tasks.label_columns import ColumnMap
from raykd.teachers.backends.http.backend import HttpBackend
from raykd.teachers.backends.http.server import ServerFacts
from raykd.teachers.backends.words.tokens import WordPlan, plan_words, tokenize_template
from raykd.teachers.spec import TeacherSpec
from raykd.text.batch import TextBatch
from raykd.text.label_phrases import ANY, LABEL, TEXT


class HttpWordsBackend(HttpBackend):
    """A served causal language model with words for labels.

    Args:
        spec: What to ask and how to answer.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        super().__init__(spec)
        self.labels, self.reading = self.teacher.word_labels, self.teacher.words_key
        self._priors: dict[str, NDArray[np.float64]] = {}

    def check_task(self) -> None:
        """See `HttpBackend.check_task`."""
        name, key = self.spec.name, f"teachers.{self.spec.name}"
        if not isinstance(self.spec.task, Classification):
            raise ConfigError(
                f"{self.who} with words teaches no {self.spec.task.kind}",
                got=f"task.kind {self.spec.task.kind}",
                wanted="classification",
                next_step=f"leave {key}.template and words out for causal_lm",
            )
        for phrase in self.teacher.phrases.values():
            spans = phrase.fill("x", "x", "x").spans
            if spans[LABEL][0] < max(begin for place, (begin, _) in spans.items() if place != LABEL):
                raise ConfigError(
                    f"teacher {name} reads nothing behind {{label}}",
                    got=phrase.template,
                    wanted=f"{{label}} behind {{{TEXT}}}",
                    next_step=f"correct {key}.template",
                )

    def compute(self, batch: TextBatch) -> list[bytes]:
        """Answer every row by one request for each word.

        Raises:
            TeacherError: The server does not answer, or the budget would be passed.
            ModelError: It is not what it was, or its replies are not of the tokens that were sent.
        """
        facts = self.make_ready(patient=True)
        names = [self._find_phrase(language) for language in batch.languages]
        for name in dict.fromkeys(names):
            self._measure_prior(facts, name)
        logits_BC = self._score_rows(facts, batch, names)
        logits_BC -= np.stack([self._priors[name] for name in names])
        usable_B = np.asarray(np.isfinite(logits_BC).all(axis=1))
        self.count_units(len(batch), int((~usable_B).sum()), 0)
        columns = ColumnMap(self.describe().columns)
        mapped_BC = columns.apply(
            np.where(usable_B[:, None], logits_BC, 0.0).astype(np.float32), unknown=-np.inf
        )
        answer = DenseAnswer(logits_NC=mapped_BC, covered_N=usable_B)
        return self.finish(batch, [encode_answer(row) for row in answer.rows([1] * len(batch))])

    def estimate_tokens(self, batch: TextBatch) -> float | None:
        """Return the tokens of a row's requests on average, those generated included; asks no server."""
        rows = self._list_requests(batch, [self._find_phrase(language) for language in batch.languages])
        return float(np.mean([sum(len(ids) + 1 for ids, _ in row) for row in rows])) if rows else 0.0

    def _measure_prior(self, facts: ServerFacts, name: str) -> None:
        """Measure the prior that a template gives the labels, once; 0 where it is not calibrated.

        Raises:
            TeacherError: A text of the calibration cannot be scored.
        """
        if name in self._priors:
            return
        phrase = self.teacher.phrases[name]
        texts = phrase.calibration_texts
        prior_C = np.zeros(len(self.labels))
        if texts:
            pairs = texts if phrase.has_pair else None
            batch = TextBatch(texts, texts, (name,) * len(texts), np.full(len(texts), -1), pairs)
            logits_BC = self._score_rows(facts, batch, [name] * len(texts))
            if not np.isfinite(logits_BC).all():
                raise TeacherError(
                    f"{self.who}: the prior of its template cannot be measured",
                    got="a text of the calibration without log-probabilities",
                    wanted="log-probabilities of each of its words",
                    next_step=f"set teachers.{self.spec.name}.calibrate: none",
                )
            p_BC = np.exp(logits_BC - np.logaddexp.reduce(logits_BC, axis=1, keepdims=True))
            prior_C = np.log(p_BC.mean(axis=0))
        self._priors[name] = prior_C

    def _score_rows(self, facts: ServerFacts, batch: TextBatch, names: Sequence[str]) -> NDArray[np.float64]:
        """Return ``[B, C]``: the log-probability of each label's words; NaN for a row that cannot be scored."""
        rows = self._list_requests(batch, names)
        asked = [request for row in rows for request in row]

        def ask(i: int) -> tuple[float, int]:
            ids, length = asked[i]
            scores, used = self.score(facts, ids)
            gold = [unit.gold if unit is not None else np.nan for unit in scores[-length:]]
            return float(np.sum(gold)) / (length if self.teacher.length_normalise else 1), used

        found = iter(self.ask_all(ask, [len(ids) + 1 for ids, _ in asked]))
        logits_BC = np.empty((len(rows), len(self.labels)))
        for i, (row, name) in enumerate(zip(rows, names, strict=True)):
            logp_W1 = np.asarray([*(next(found) for _ in row), -np.inf])
            with np.errstate(invalid="ignore"):  # NaN stays NaN
                logits_BC[i] = np.logaddexp.reduce(logp_W1[self._plans[name].words_CW], axis=1)
        return logits_BC

    def _list_requests(self, batch: TextBatch, names: Sequence[str]) -> list[list[tuple[list[int], int]]]:
        """Return for each row and word the tokens to score, and how many of them are the word's."""
        limit = self.teacher.max_length or self.spec.task.max_length
        requests: list[list[tuple[list[int], int]]] = [[] for _ in names]
        for name in dict.fromkeys(names):
            picked = [i for i, own in enumerate(names) if own == name]
            some, phrase, plan = batch.take(picked), self.teacher.phrases[name], self._plans[name]
            words = _list_words(plan)
            pieces = tokenize_template(
                self.tokenizer, phrase, some.texts, some.pairs if phrase.has_pair else None, False, limit
            )
            for i, own in zip(picked, pieces, strict=True):
                requests[i] = [([*own.before, *ids], len(ids)) for ids in words]
        return requests

    @cached_property
    def _plans(self) -> dict[str, WordPlan]:
        key = f"teachers.{self.spec.name}.words"
        phrases = self.teacher.phrases
        return {
            name: plan_words(self.tokenizer, phrase, None, f"{key}.{name}" if name else key)
            for name, phrase in phrases.items()
        }

    def _find_phrase(self, language: str) -> str:
        return language if language in self.teacher.phrases else ANY


def _list_words(plan: WordPlan) -> list[list[int]]:
    """Return the tokens of each word."""
    words: list[list[int]] = [[] for _ in plan.lengths_W]
    for _, token, word in plan.reads_R3.tolist():
        words[word].append(int(plan.tokens_K[token]))
    return words
