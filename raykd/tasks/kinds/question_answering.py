"""Answer questions from a context: two units per row, the first and the last word of the answer.

Decision record: the choices are the words of the context, which every tokenizer shares, so a row has as many as its
context has words and a batch is padded with `MASKED`. A word's start logit is that of the token which holds its first
character and its end logit that of the token which holds its last one, as `run_qa.py` trains a model and reads it. A
context that is longer than the model is cut to windows that overlap (`stride`), and a word counts by the window where
its logit is highest, since `run_qa.py` takes the best span of any window; all words of a row compete in one softmax.

- Several words may share a token (sentencepiece takes "北京" as one). Their logits are equal, and an answer begins with
  the first and ends with the last of them, as the token does.
- A question that leaves its context no room loses its end, and is counted.
- Gold is the first accepted answer; metrics accept any.
- Tokens of the context at which no word begins (or ends) are a choice together, which is never gold and never
  answered. A plain recipe reads them too, so a student has to learn that no answer begins there.

In rows whose mode is "optional" (SQuAD v2) one more choice, behind the row's last word, says that there is no answer.
It is read at the classification token. Of several windows the one least sure of it counts, as in the official script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_answer
from raykd.distill.objective import Objective
from raykd.distill.signals import MASKED, UNLABELLED
from raykd.head import Head
from raykd.tasks.base import Network, PendingRows, SystemAnswers, TaskBase
from raykd.tasks.forms import RowForm
from raykd.tasks.refusals import refuse_equal_choices
from raykd.tasks.registry import register_task
from raykd.tasks.scores import spans
from raykd.tasks.scores.classification import log_softmax
from raykd.tasks.scores.intervals import RowShares
from raykd.tasks.signature import Column, Signature
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedBatch, EncodedRows, ModelOutputs, collate_rows
from raykd.text.padding import RIGHT, Padding
from raykd.text.ragged import compute_starts, count_each, count_ranges, expand_ranges
from raykd.text.tokens import Tokenizer
from raykd.text.windows import find_null_tokens, find_word_reads
from raykd.text.word_tokens import shorten_questions, tokenize_words
from raykd.text.words import find_word_spans

REST, BESIDE = 1, 2
"""Behind a row's words stands the choice "no answer" and, `REST` places on, that of the tokens at which no answer may
begin or end. `BESIDE` counts both."""


@register_task
class QuestionAnswering(TaskBase):
    """Begin and end of an answer in a context; N = 2 B, C = words of the longest context and two more choices."""

    form: ClassVar[RowForm] = "answers"
    head: ClassVar[Head] = "question_answering"
    metric_names: ClassVar[tuple[str, ...]] = ("f1", "exact_match", "nll")
    labelled: ClassVar[bool] = False
    kind: Literal["question_answering"] = "question_answering"
    max_length: int = Field(256, ge=1)
    """Longest window in tokens: question, a part of the context, special tokens."""
    stride: int = Field(64, ge=1)
    """Tokens by which windows of a long context overlap."""
    max_answer_words: int = Field(30, ge=1)
    """No predicted answer has more words."""

    @model_validator(mode="after")
    def _windows_advance(self) -> QuestionAnswering:
        if self.stride >= self.max_length:
            raise ValueError(f"stride {self.stride} is not below max_length {self.max_length}")
        return self

    def check(self, labels: Sequence[str], objective: Objective) -> None:
        """Refuse a loss that averages over choices, of which rows have different numbers."""
        refuse_equal_choices(objective, "contexts have different numbers of words")

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return the windows of B rows, and for each word of a context the window and token where it is read.

        Raises:
            ConfigError: The tokenizer does not say where its tokens stand.
        """
        contexts = batch.pairs or ()
        asked = [question.lstrip() for question in batch.texts]  # as run_qa.py does
        questions, long_B = shorten_questions(tokenizer, asked, self.max_length, self.stride)
        tokens = tokenize_words(
            tokenizer, questions, contexts, self.max_length, self.stride, languages=batch.languages
        )
        words = [find_word_spans(context) for context in contexts]
        sequences_B1 = compute_starts(np.bincount(tokens.row_of, minlength=len(batch)))
        reads = find_word_reads(tokens, words, sequences_B1)
        return EncodedRows(
            fields=tokens.fields,
            pad_values=tokens.pad_values,
            lengths_B=np.add.reduceat(tokens.lengths_B, sequences_B1[:-1])
            if len(batch)
            else tokens.lengths_B,
            labels_N=self.list_unit_labels(batch),
            starts_B1=compute_starts(self.count_units(batch)),
            sequences_B1=sequences_B1,
            extra={
                "words_B1": compute_starts(count_each(words)),
                "reads_R4": reads.reads_R4,
                "reads_B1": reads.starts_B1,
                "rests_R3": reads.rests_R3,
                "rests_B1": reads.rest_starts_B1,
                "seen": reads.seen_W,
                "shared": reads.shared_W,
                "null_S": find_null_tokens(tokenizer, tokens),
                "null_B": spans.find_null_choices(batch),
            },
            long_B=long_B,
        )

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """Return the picked rows' windows; ``extra`` says where each choice is read."""
        encoded = collate_rows(rows, picked, padding)
        chosen = np.asarray(picked, dtype=np.int64)
        assert rows.sequences_B1 is not None
        words_B = count_ranges(rows.extra["words_B1"], chosen)
        null_B = rows.extra["null_B"][chosen]
        choices = int(words_B.max(initial=0)) + BESIDE
        read_X4 = _collate_reads(rows, "reads", chosen, encoded.shift_S)
        rest_X3 = _collate_reads(rows, "rests", chosen, encoded.shift_S)
        rest_X4 = np.concatenate([rest_X3, words_B[rest_X3[:, 2] // 2, None] + REST], axis=1)
        visible_NC = np.zeros((2 * len(chosen), choices), dtype=bool)
        visible_NC[read_X4[:, 2], read_X4[:, 3]] = True
        optional_B = np.flatnonzero(null_B >= 0)
        for side in (0, 1):
            visible_NC[2 * optional_B + side, null_B[optional_B]] = True
        open_NC = visible_NC.copy()
        visible_NC[rest_X4[:, 2], rest_X4[:, 3]] = True
        labels = encoded.labels_N.numpy().copy()
        # Gold that the model cannot see teaches nothing.
        labels[~open_NC[np.arange(len(labels)), np.clip(labels, 0, choices - 1)]] = UNLABELLED
        return replace(
            encoded,
            labels_N=torch.from_numpy(labels),
            choices=choices,
            extra={
                "read_X4": torch.from_numpy(read_X4),
                "rest_X4": torch.from_numpy(np.ascontiguousarray(rest_X4)),
                "null_S4": torch.from_numpy(_collate_null_reads(rows, chosen, null_B, encoded.shift_S)),
                "visible_NC": torch.from_numpy(visible_NC),
                "open_NC": torch.from_numpy(open_NC),
            },
        )

    def count_units(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return 2 per row."""
        return np.full(len(batch), 2, dtype=np.int64)

    def count_choices(self, batch: TextBatch, labels: Sequence[str]) -> int:
        """Return the words of the longest context and the two choices behind them."""
        return int(spans.count_words(batch).max(initial=0)) + BESIDE

    def compute_mean_logits(self, batch: TextBatch, classes: int) -> float:
        """Return the mean of begin and end, each over the words of the row's own context and two more choices."""
        return 2 * (float(np.mean(spans.count_words(batch))) + BESIDE)

    def list_unit_labels(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return first and last word of the first accepted answer, or the choice "no answer"; else `UNLABELLED`."""
        found = np.full((len(batch), 2), UNLABELLED, dtype=np.int64)
        null_B = spans.find_null_choices(batch)
        for i, gold in enumerate(batch.golds or ()):
            if gold:
                words = find_word_spans((batch.pairs or ())[i])
                place = spans.find_answer_words(words, np.asarray([gold[:2]]))[0]
                if place[0] >= 0:
                    found[i] = place
            elif batch.labels_B[i] != UNLABELLED and null_B[i] >= 0:
                found[i] = null_B[i]
        return found.reshape(-1)

    def gather(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return float32 ``[2 B, C]``: start and end logits at each choice's token, the highest of all windows."""
        read_X4, null_S4 = encoded.extra["read_X4"], encoded.extra["null_S4"]
        both_SL2 = torch.stack([outputs.start_logits, outputs.end_logits], dim=-1).float()
        units, choices = 2 * len(encoded.counts_B), encoded.choices or 1
        values_X = both_SL2[read_X4[:, 0], read_X4[:, 1], read_X4[:, 2] % 2]
        flat_M = both_SL2.new_full((units * choices,), MASKED)
        flat_M = flat_M.scatter_reduce(0, read_X4[:, 2] * choices + read_X4[:, 3], values_X, "amax")
        rest_X4 = encoded.extra["rest_X4"]
        rest_X = both_SL2[rest_X4[:, 0], rest_X4[:, 1], rest_X4[:, 2] % 2]
        flat_M = _add_exponentials(flat_M, rest_X4[:, 2] * choices + rest_X4[:, 3], rest_X)
        units_NC = flat_M.view(units, choices)
        if not len(null_S4):
            return units_NC
        both_S2 = both_SL2[null_S4[:, 0], null_S4[:, 1]]
        # Of a row's windows the one that is least sure of it; windows of one row stand together.
        sums_S = both_S2.detach().sum(dim=-1)
        least_B = torch.full_like(units_NC[::2, 0], torch.inf)
        least_B = least_B.scatter_reduce(0, null_S4[:, 2], sums_S, "amin")
        is_least = sums_S == least_B[null_S4[:, 2]]
        # The other windows write into a row that is dropped: picking those that are least would wait for the device.
        wide_NC = torch.cat([units_NC, units_NC.new_zeros(1, choices)])
        for side in (0, 1):
            row_S = torch.where(is_least, 2 * null_S4[:, 2] + side, units)
            wide_NC = wide_NC.index_put((row_S, null_S4[:, 3]), both_S2[:, side])
        return wide_NC[:units]

    def locate_features(
        self, encoded: EncodedBatch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """See `TaskBase`; the words of the context, at the tokens where begins and ends are read."""
        read_X4 = encoded.extra["read_X4"]
        return read_X4[:, 2] // 2, read_X4[:, 0], read_X4[:, 1]

    def start_answers(
        self, model: Network, encoded: EncodedBatch, columns: Sequence[Sequence[int]]
    ) -> PendingRows:
        """Compute one body per row: begin and end over the words of its context."""
        return PendingRows((self.gather(encoded.run(model), encoded).float(),), _encode_spans)

    def build_answer_key(self) -> object:
        """Return what decides which windows a model sees, and where it reads them."""
        return [self.kind, self.stride, "ends at the last token"]

    def build_predictions(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """Return question, answer, its begin and end in the characters of the context, and its probability.

        Where there may be no answer, that is the answer "" with its own probability.
        """
        places_B2, logp_B, null_logp_B = self._find_best_answers(answers, rows)
        found: list[dict[str, object]] = []
        contexts = rows.pairs or ()
        for i, (question, context) in enumerate(zip(rows.texts, contexts, strict=True)):
            words, (first, last) = find_word_spans(context), places_B2[i].tolist()
            begin, end, logp = 0, 0, logp_B[i] if len(words) else -np.inf
            if null_logp_B[i] > logp:
                logp = null_logp_B[i]
            elif last < len(words):
                begin, end = int(words[first, 0]), int(words[last, 1])
            found.append(
                {
                    "question": question,
                    "answer": context[begin:end],
                    "start": begin,
                    "end": end,
                    "probability": round(float(np.exp(logp)), 6),
                }
            )
        return found

    @classmethod
    def build_served_settings(cls, longest: int) -> dict[str, object]:
        """See `TaskBase`; windows of a long context overlap by a quarter, at most by the task's default."""
        return {"max_length": longest, "stride": min(cls.model_fields["stride"].default, longest // 4)}

    @classmethod
    def build_signature(cls, labels: Sequence[str]) -> Signature:
        """Return the columns: a question and its context; the answer, where it stands and how probable it is."""
        return Signature(
            (Column("question", "string"), Column("context", "string")),
            (
                Column("answer", "string"), Column("start", "long"), Column("end", "long"),
                Column("probability", "double"),
            ),
        )  # fmt: skip

    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Return F1 and exact match of the most probable answer, and the NLL (nats per unit) of the first accepted one.

        Where there may be no answer, also what the best threshold on its score gives, as in SQuAD v2.
        """
        texts, doubt_B, _ = self._read_answers(answers, rows)
        accepted = _list_accepted(rows)
        predicted = _drop_doubtful(texts, doubt_B)
        found = spans.compute_answer_metrics(predicted, accepted, rows.languages)
        if (spans.find_null_choices(rows) >= 0).any():
            found |= spans.find_best_thresholds(texts, doubt_B, accepted, rows.languages)
        gold_N = self.list_unit_labels(rows)
        labelled = gold_N != UNLABELLED
        logp_NC = log_softmax(answers.logits_NC)
        nll = -logp_NC[labelled, gold_N[labelled]].mean() if labelled.any() else float("nan")
        return {"f1": found.pop("f1"), "exact_match": found.pop("exact_match"), "nll": float(nll), **found}

    def compute_row_shares(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> RowShares:
        """Return F1 by row."""
        _, f1_B, _ = self._score_rows(answers, rows)
        return RowShares(f1_B, np.ones(len(f1_B)))

    def measure_confidence(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the probability of each answer, and whether it is an accepted one (exact match)."""
        exact_B, _, logp_B = self._score_rows(answers, rows)
        return np.exp(logp_B), exact_B > 0.0

    def _score_rows(
        self, answers: SystemAnswers, rows: TextBatch
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return exact match, F1 and the log-probability of each row's answer."""
        texts, doubt_B, logp_B = self._read_answers(answers, rows)
        predicted = _drop_doubtful(texts, doubt_B)
        return *spans.score_answers(predicted, _list_accepted(rows), rows.languages), logp_B

    def _read_answers(
        self, answers: SystemAnswers, rows: TextBatch
    ) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
        """Return each row's best answer that is not empty, how much more probable none is, and the likelier's logp."""
        places_B2, logp_B, null_logp_B = self._find_best_answers(answers, rows)
        texts = [
            spans.read_span_text(context, find_word_spans(context), int(first), int(last))
            for context, (first, last) in zip(rows.pairs or (), places_B2, strict=True)
        ]
        return texts, null_logp_B - logp_B, np.maximum(logp_B, null_logp_B)

    def _find_best_answers(
        self, answers: SystemAnswers, rows: TextBatch
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """See `raykd.tasks.scores.spans.find_best_answers`."""
        # A row of nothing but -inf would turn the softmax to NaN.
        return spans.find_best_answers(
            np.maximum(answers.logits_NC, MASKED),
            spans.count_words(rows),
            spans.find_null_choices(rows),
            self.max_answer_words,
        )


def _drop_doubtful(texts: Sequence[str], doubt_B: NDArray[np.float64]) -> list[str]:
    """Return the answers, "" where none is more probable."""
    return ["" if doubt > 0.0 else text for doubt, text in zip(doubt_B, texts, strict=True)]


def _list_accepted(rows: TextBatch) -> list[list[str]]:
    """Return the accepted answers of each row."""
    return [
        [context[begin:end] for begin, end in zip(gold[::2], gold[1::2], strict=True)]
        for context, gold in zip(rows.pairs or (), rows.golds or (), strict=True)
    ]


def _collate_null_reads(
    rows: EncodedRows, chosen: NDArray[np.int64], null_B: NDArray[np.int64], shift_S: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Return ``[S, 4]``: window, token, row and choice of "no answer" in every window of rows that offer it."""
    assert rows.sequences_B1 is not None
    token_S = rows.extra["null_S"][expand_ranges(rows.sequences_B1, chosen)]
    token_S = token_S if shift_S is None else token_S + shift_S
    row_S = np.repeat(np.arange(len(chosen)), count_ranges(rows.sequences_B1, chosen))
    read_S4 = np.stack([np.arange(len(row_S)), token_S, row_S, null_B[row_S]], axis=1)
    kept: NDArray[np.int64] = np.ascontiguousarray(read_S4[read_S4[:, 3] >= 0])
    return kept


def _encode_spans(arrays: Sequence[NDArray[Any]]) -> list[bytes | None]:
    """Return the body of each row from the logits of begins and ends, without the choices beyond its own context."""
    logits_NC = arrays[0]
    bodies: list[bytes | None] = []
    for pair_2C in logits_NC.reshape(-1, 2, logits_NC.shape[1]):
        last = np.flatnonzero((pair_2C > MASKED).any(axis=0))
        kept_2C = pair_2C[:, : int(last[-1]) + 1 if len(last) else 0]
        seen = np.full(2, len(last) > 0)
        good = np.isfinite(pair_2C).all()
        bodies.append(encode_answer(DenseAnswer(logits_NC=kept_2C, covered_N=seen)) if good else None)
    return bodies


def _collate_reads(
    rows: EncodedRows, name: str, chosen: NDArray[np.int64], shift_S: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Return window, token and unit (and choice) of the reads of the chosen rows, counted in their batch."""
    assert rows.sequences_B1 is not None
    starts_B1 = rows.extra[f"{name}_B1"]
    found_RK: NDArray[np.int64] = rows.extra["reads_R4" if name == "reads" else "rests_R3"][
        expand_ranges(starts_B1, chosen)
    ]
    row_R = np.repeat(np.arange(len(chosen)), count_ranges(starts_B1, chosen))
    found_RK[:, 0] += compute_starts(count_ranges(rows.sequences_B1, chosen))[row_R]
    if shift_S is not None:
        found_RK[:, 1] += shift_S[found_RK[:, 0]]
    found_RK[:, 2] += 2 * row_R
    return np.ascontiguousarray(found_RK)


def _add_exponentials(flat_M: torch.Tensor, places_X: torch.Tensor, values_X: torch.Tensor) -> torch.Tensor:
    """Return the tensor with the log-sum-exp of the values at each place; places without a value stay."""
    top_M = flat_M.detach().scatter_reduce(0, places_X, values_X.detach(), "amax")
    sums_M = torch.zeros_like(flat_M).scatter_add(0, places_X, (values_X - top_M[places_X]).exp())
    there_M = sums_M > 0.0
    return torch.where(there_M, top_M + torch.where(there_M, sums_M, 1.0).log(), flat_M)
