"""Extractive question answering: two units a row, the answer's first and last word among those of the context.

Decision record: the choices are the words of the context, which every tokenizer shares, so a row has as many as its
context has words and a batch is padded with `MASKED`. A word's logit is that of the token which holds its first
character. A context that is longer than the model is cut to windows that overlap (`stride`), and each word is read in
the window that shows most of what stands around it (as BERT's SQuAD code did); all words of a row compete in one
softmax, whichever window they were read in. A question that leaves its context no room loses its end, and is
counted. Gold is the first accepted answer; metrics accept any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from raykd.distill.codec import encode as encode_body
from raykd.distill.objective import Objective
from raykd.distill.payloads import Dense
from raykd.distill.signals import MASKED, UNLABELLED, TextBatch
from raykd.errors import ConfigError
from raykd.tasks import answers
from raykd.tasks.base import (
    EncodedBatch,
    EncodedRows,
    Said,
    TaskBase,
    collate,
    ranges,
    starts_of,
)
from raykd.tasks.forms import RowForm
from raykd.tasks.metrics import log_softmax
from raykd.text.padding import RIGHT, Padding
from raykd.text.tokens import Tokenizer, shortened, tokenize_words
from raykd.text.words import first_tokens, word_spans


class QuestionAnswering(TaskBase):
    """Begin and end of an answer in a context; N = 2 B, C = words of the longest context."""

    form: ClassVar[RowForm] = "answers"
    metric_names: ClassVar[tuple[str, ...]] = ("f1", "exact_match", "nll")
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
        """A loss on logits averages over choices, of which rows have different numbers."""
        if any(term.divergence.kind == "logit_mse" for term in objective.terms):
            raise ConfigError(
                "logit_mse is a mean over choices, and contexts have different numbers of words",
                got="objective.terms: logit_mse",
                wanted="a divergence of probabilities",
                next_step="use forward_kl, reverse_kl, jensen_shannon or total_variation",
            )

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Windows of B rows, and for each word of a context the window and token where it is read.

        Raises:
            ConfigError: a tokenizer that does not tell where its tokens stand.
        """
        contexts = batch.pairs or ()
        questions, long_B = shortened(tokenizer, batch.texts, self.max_length, self.stride)
        tokens = tokenize_words(tokenizer, questions, contexts, self.max_length, self.stride)
        spans = [word_spans(context) for context in contexts]
        sequences_B1 = starts_of(np.bincount(tokens.row_of, minlength=len(batch)))
        places = _places(tokens.offsets, tokens.parts, tokens.row_of, spans, sequences_B1)
        return EncodedRows(
            fields=tokens.fields,
            pad_values=tokens.pad_values,
            lengths_B=np.add.reduceat(tokens.lengths_B, sequences_B1[:-1])
            if len(batch)
            else tokens.lengths_B,
            labels_N=self.unit_labels(batch),
            starts_B1=starts_of(self.counts(batch)),
            sequences_B1=sequences_B1,
            extra={
                "words_B1": starts_of(np.asarray([len(s) for s in spans], dtype=np.int64)),
                "places_W2": places,
            },
            long_B=long_B,
        )

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """The picked rows' windows; ``extra`` says where each word is read."""
        encoded = collate(rows, picked, padding)
        chosen = np.asarray(picked, dtype=np.int64)
        assert rows.sequences_B1 is not None
        words_B = np.diff(rows.extra["words_B1"])[chosen]
        places_W2 = rows.extra["places_W2"][ranges(rows.extra["words_B1"], chosen)]
        first_B = starts_of(np.diff(rows.sequences_B1)[chosen])[:-1]
        seen_W = places_W2[:, 0] >= 0
        window_W = np.where(seen_W, places_W2[:, 0] + np.repeat(first_B, words_B), 0)
        row_W = np.repeat(np.arange(len(chosen)), words_B)
        word_W = np.arange(len(row_W)) - np.repeat(starts_of(words_B)[:-1], words_B)
        moved_W = 0 if encoded.shift_S is None else encoded.shift_S[window_W]
        index = np.stack(
            [window_W, np.where(seen_W, places_W2[:, 1] + moved_W, 0), row_W, word_W], axis=1
        )[seen_W]
        labels = encoded.labels_N.numpy().copy()
        visible = np.zeros((len(chosen), int(words_B.max(initial=0)) + 1), dtype=bool)
        visible[row_W[seen_W], word_W[seen_W]] = True
        # Gold that the model cannot see teaches nothing.
        labels[~visible[np.repeat(np.arange(len(chosen)), 2), np.maximum(labels, 0)]] = UNLABELLED
        return replace(
            encoded,
            labels_N=torch.from_numpy(labels),
            choices=int(words_B.max(initial=1)),
            extra={"read_W4": torch.from_numpy(np.ascontiguousarray(index))},
        )

    def counts(self, batch: TextBatch) -> NDArray[np.int64]:
        """Two a row."""
        return np.full(len(batch), 2, dtype=np.int64)

    def choices(self, batch: TextBatch, labels: Sequence[str]) -> int:
        """Words of the longest context."""
        return max((len(word_spans(context)) for context in batch.pairs or ()), default=1)

    def unit_labels(self, batch: TextBatch) -> NDArray[np.int64]:
        """First and last word of the first accepted answer; `UNLABELLED` where there is none."""
        found = np.full((len(batch), 2), UNLABELLED, dtype=np.int64)
        for i, gold in enumerate(batch.golds or ()):
            if gold:
                spans = word_spans((batch.pairs or ())[i])
                place = answers.answer_words(spans, np.asarray([gold[:2]]))[0]
                if place[0] >= 0:
                    found[i] = place
        return found.reshape(-1)

    def gather(self, outputs: Any, encoded: EncodedBatch) -> torch.Tensor:
        """``[W, L]`` start and end logits at each word's token, ``[2 B, C]``."""
        read_W4 = encoded.extra["read_W4"]
        start_WL, end_WL = outputs.start_logits, outputs.end_logits
        both_X2 = torch.stack([start_WL, end_WL], dim=-1)[read_W4[:, 0], read_W4[:, 1]]
        units_NC = both_X2.new_full((len(encoded.counts_B), 2, encoded.choices or 1), MASKED)
        rows, words = read_W4[:, 2].repeat_interleave(2), read_W4[:, 3].repeat_interleave(2)
        sides = torch.arange(2, device=rows.device).repeat(len(read_W4))
        return units_NC.index_put((rows, sides, words), both_X2.reshape(-1)).flatten(0, 1)

    def answer(
        self, model: Any, encoded: EncodedBatch, columns: Sequence[Sequence[int]]
    ) -> list[bytes | None]:
        """A body a row: begin and end over the words of its context."""
        logits_NC = self.gather(encoded.run(model), encoded).float().cpu().numpy()
        said: list[bytes | None] = []
        for pair_2C in logits_NC.reshape(-1, 2, logits_NC.shape[1]):
            last = np.flatnonzero(pair_2C[0] > MASKED)
            kept_2C = pair_2C[:, : int(last[-1]) + 1 if len(last) else 0]
            seen = np.full(2, len(last) > 0)
            good = np.isfinite(pair_2C).all()
            said.append(encode_body(Dense(logits_NC=kept_2C, covered_N=seen)) if good else None)
        return said

    def columns(
        self, own: Sequence[str], wanted: Sequence[str], label_map: Mapping[str, str], name: str
    ) -> tuple[tuple[int, ...], ...]:
        """There are no labels."""
        return ()

    def answer_key(self) -> Any:
        """Windows change what a model sees."""
        return [self.kind, self.stride]

    def predictions(self, said: Said, rows: TextBatch, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Question, answer, its begin and end in the characters of the context, and its probability."""
        places_B2, logp_B = answers.best_spans(np.maximum(said.logits_NC, MASKED), self.max_answer_words)
        found: list[dict[str, Any]] = []
        contexts = rows.pairs or ()
        for question, context, (first, last), logp in zip(
            rows.texts, contexts, places_B2.tolist(), logp_B.tolist(), strict=True
        ):
            spans = word_spans(context)
            inside = last < len(spans)
            begin, end = (int(spans[first, 0]), int(spans[last, 1])) if inside else (0, 0)
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

    def metrics(self, said: Said, rows: TextBatch, labels: Sequence[str]) -> dict[str, float]:
        """F1 and exact match of the most probable span, and the NLL (nats a unit) of the first accepted answer."""
        places_B2, _ = answers.best_spans(np.maximum(said.logits_NC, MASKED), self.max_answer_words)
        contexts, golds = rows.pairs or (), rows.golds or ()
        predicted = [
            answers.span_text(context, word_spans(context), int(first), int(last))
            for context, (first, last) in zip(contexts, places_B2, strict=True)
        ]
        accepted = [
            [context[begin:end] for begin, end in zip(gold[::2], gold[1::2], strict=True)]
            for context, gold in zip(contexts, golds, strict=True)
        ]
        found = answers.metrics(predicted, accepted, rows.languages)
        gold_N = self.unit_labels(rows)
        labelled = gold_N != UNLABELLED
        logp_NC = log_softmax(said.logits_NC)
        nll = -logp_NC[labelled, gold_N[labelled]].mean() if labelled.any() else float("nan")
        return {"f1": found["f1"], "exact_match": found["exact_match"], "nll": float(nll)}


def _places(
    offsets: Sequence[NDArray[np.int64]],
    parts: Sequence[NDArray[np.int64]],
    row_of: NDArray[np.int64],
    spans: Sequence[NDArray[np.int32]],
    sequences_B1: NDArray[np.int64],
) -> NDArray[np.int64]:
    """``[W, 2]``: window (of its row) and token of every word of every context; (-1, -1) where no window shows it."""
    window_spans = [spans[row] for row in row_of.tolist()]
    token_X = first_tokens(offsets, [part != 1 for part in parts], window_spans)
    counts_S = np.asarray([len(s) for s in window_spans], dtype=np.int64)
    window_X = np.repeat(np.arange(len(row_of)), counts_S)
    # How far the nearer end of the window's context is from the token: the word is read where that is most.
    first_S = np.asarray([int(np.argmax(part == 1)) for part in parts], dtype=np.int64)
    last_S = np.asarray([len(part) - 1 - int(np.argmax(part[::-1] == 1)) for part in parts], dtype=np.int64)
    around_X = np.minimum(token_X - first_S[window_X], last_S[window_X] - token_X)
    around_X = np.where(token_X < 0, -1, around_X)
    starts_B1 = starts_of(np.asarray([len(s) for s in spans], dtype=np.int64))
    word_X = np.arange(len(token_X)) - np.repeat(starts_of(counts_S)[:-1], counts_S)
    word_X += np.repeat(starts_B1[row_of], counts_S)
    places = np.full((int(starts_B1[-1]), 2), -1, dtype=np.int64)
    order = np.argsort(around_X, kind="stable")
    order = order[around_X[order] >= 0]  # the largest comes last and stays
    places[word_X[order], 0] = (window_X - np.repeat(sequences_B1[row_of], counts_S))[order]
    places[word_X[order], 1] = token_X[order]
    return places
