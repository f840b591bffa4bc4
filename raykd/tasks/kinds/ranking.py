"""Rank candidates for a query: the unit is the query, its choices are its candidates.

Decision record: a model is a cross-encoder as sentence-transformers saves it (`AutoModelForSequenceClassification` with
one output), so a sequence is a pair of query and candidate, and its output is the candidate's logit. All candidates of
a query compete in one softmax; a batch is padded with `MASKED`, as contexts of question answering are. So the listwise
KL divergence over candidates is the forward KL as it stands, every weighting and mixture serves, and MarginMSE (arXiv
2010.02666) is the centred logit MSE: of two candidates 4 times it, of K the mean over all pairs is 2 K / (K - 1) times.

Gold is graded: the hard term is the cross-entropy with each candidate's share of the relevances (ListNet, Cao et al.
2007, with shares in place of a softmax, so that candidates of relevance 0 have none). A query without a relevant
candidate has nothing to say in it and no score; teachers still teach it.

Scores of two models have no common zero, but a softmax over candidates does not see it, nor does a centred logit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_answer
from raykd.distill.objective import Objective
from raykd.distill.signals import MASKED, UNLABELLED
from raykd.head import Head
from raykd.tasks.base import Network, PendingRows, SystemAnswers, TaskBase
from raykd.tasks.forms import RowForm
from raykd.tasks.refusals import refuse_equal_choices, refuse_keys
from raykd.tasks.registry import register_task
from raykd.tasks.scores.candidates import QueryScores, score_queries
from raykd.tasks.scores.intervals import RowShares
from raykd.tasks.signature import Column, Signature
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedBatch, EncodedRows, ModelOutputs, collate_rows
from raykd.text.padding import RIGHT, Padding, SubBatch
from raykd.text.ragged import compute_starts, count_each, count_ranges, expand_ranges
from raykd.text.tokens import Tokenizer, tokenize

PASS_TOKENS = 16384
"""Most padded tokens of a forward pass that computes no gradients: a query with many candidates takes several."""
_IDLE = ("label_smoothing", "class_weights", "focal_gamma")
"""Keys of an objective that say something of one gold label."""
_LEAST = 2
"""Choices that a batch has at least: one column is that of values, which losses do not centre."""


@register_task
class Ranking(TaskBase):
    """An order of candidates per query; N = B, C = candidates of the query that has most."""

    form: ClassVar[RowForm] = "candidates"
    head: ClassVar[Head] = "regression"
    metric_names: ClassVar[tuple[str, ...]] = ("ndcg_at_10", "mrr", "mrr_at_10", "nll")
    labelled: ClassVar[bool] = False
    kind: Literal["ranking"] = "ranking"
    max_length: int = Field(128, ge=1)
    """Longest pair of query and candidate in tokens, special tokens included; the longer of both loses its end."""

    def check(self, labels: Sequence[str], objective: Objective) -> None:
        """Refuse losses that compare the same choices of all units, and keys that say something of one gold label."""
        refuse_equal_choices(objective, "queries have different numbers of candidates")
        refuse_keys(objective, _IDLE, "a ranking, whose gold are relevances and not one label")

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return a sequence for each query and candidate of B rows."""
        starts_B1 = compute_starts(_count_candidates(batch))
        row_S = np.repeat(np.arange(len(batch)), np.diff(starts_B1)).tolist()
        candidates = [text for own in batch.candidates or () for text in own]
        queries, languages = [batch.texts[i] for i in row_S], [batch.languages[i] for i in row_S]
        tokens = tokenize(tokenizer, queries, candidates, self.max_length, languages)
        long_B = np.zeros(len(batch), dtype=bool)
        long_B[[row for row, long in zip(row_S, tokens.long_B, strict=True) if long]] = True
        told = zip(_list_relevances(batch), np.diff(starts_B1).tolist(), strict=True)
        return EncodedRows(
            tokens.fields,
            tokens.pad_values,
            np.bincount(row_S, tokens.lengths_B, minlength=len(batch)).astype(np.int64),
            self.list_unit_labels(batch),
            np.arange(len(batch) + 1),
            sequences_B1=starts_B1,
            extra={
                "candidates_B1": starts_B1,
                "gains": np.asarray(
                    [gain for own, n in told for gain in own or (0.0,) * n], dtype=np.float32
                ),
            },
            long_B=long_B,
        )

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """Return the picked rows' pairs, and where each is read."""
        encoded = collate_rows(rows, picked, padding)
        chosen, starts_B1 = np.asarray(picked, dtype=np.int64), rows.extra["candidates_B1"]
        counts_B = count_ranges(starts_B1, chosen)
        choices = int(counts_B.max(initial=_LEAST))
        row_S = np.repeat(np.arange(len(chosen)), counts_B)
        place_S = np.arange(len(row_S)) - np.repeat(compute_starts(counts_B)[:-1], counts_B)
        share_NC = np.zeros((len(chosen), choices), dtype=np.float32)
        share_NC[row_S, place_S] = rows.extra["gains"][expand_ranges(starts_B1, chosen)]
        share_NC /= np.maximum(share_NC.sum(axis=1, keepdims=True), 1e-30)
        place = {"row_S": torch.from_numpy(row_S), "place_S": torch.from_numpy(place_S)}
        return replace(encoded, choices=choices, extra={**place, "values_N": torch.from_numpy(share_NC)})

    def count_units(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return 1 per query."""
        return np.ones(len(batch), dtype=np.int64)

    def name_choices(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return (): each query has candidates of its own."""
        return ()

    def count_choices(self, batch: TextBatch, labels: Sequence[str]) -> int:
        """Return the candidates of the query that has most."""
        return int(_count_candidates(batch).max(initial=_LEAST))

    def compute_mean_logits(self, batch: TextBatch, classes: int) -> float:
        """Return the mean number of candidates."""
        return float(np.mean(_count_candidates(batch)))

    def list_unit_labels(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return the most relevant candidate (of several the first), or `UNLABELLED` where none is relevant."""
        best = [int(np.argmax(own)) if any(own) else UNLABELLED for own in _list_relevances(batch)]
        return np.asarray(best, dtype=np.int64)

    def gather(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return float32 ``[B, C]``: the logit of each candidate, `MASKED` where a query has fewer."""
        row_S, place_S = encoded.extra["row_S"], encoded.extra["place_S"]
        logits = outputs.logits
        if logits.shape != (len(row_S), 1):
            raise ValueError(f"a cross-encoder gives [pairs, 1] logits, got {tuple(logits.shape)}")
        masked_NC = logits.new_full((len(encoded.counts_B), encoded.choices or 1), MASKED).float()
        return masked_NC.index_put((row_S, place_S), logits.float().squeeze(1))

    def locate_features(
        self, encoded: EncodedBatch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """See `TaskBase`; each pair of query and candidate."""
        row_S = encoded.extra["row_S"]
        return row_S, torch.arange(len(row_S), device=row_S.device), None

    def evaluate_batch(self, model: Network, encoded: EncodedBatch) -> SystemAnswers:
        """See `TaskBase`; in passes of at most `PASS_TOKENS`."""
        return super().evaluate_batch(model, _limit_passes(encoded))

    def start_answers(
        self, model: Network, encoded: EncodedBatch, columns: Sequence[Sequence[int]]
    ) -> PendingRows:
        """See `TaskBase`; in passes of at most `PASS_TOKENS`."""
        return super().start_answers(model, _limit_passes(encoded), columns)

    def encode_answers(
        self,
        raw_NC: NDArray[np.float32],
        counts_B: NDArray[np.int64],
        columns: Sequence[Sequence[int]],
        seen_N: NDArray[np.bool_] | None = None,
    ) -> list[bytes | None]:
        """Encode one body per query, without the choices beyond its own candidates."""
        bodies: list[bytes | None] = []
        for row_C in raw_NC:
            own_1C = row_C[None, : int((row_C != MASKED).sum())]
            answer = DenseAnswer(logits_NC=own_1C, covered_N=np.ones(1, dtype=bool))
            bodies.append(encode_answer(answer) if np.isfinite(own_1C).all() else None)
        return bodies

    def build_predictions(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """Return the query, and its candidates with their scores, the best first; ``place`` counts from 0 as given."""
        found: list[dict[str, object]] = []
        for query, own, row_C in zip(rows.texts, rows.candidates or (), answers.logits_NC, strict=True):
            order = np.argsort(-row_C[: len(own)], kind="stable").tolist()
            ranked = [{"text": own[at], "score": round(float(row_C[at]), 6), "place": at} for at in order]
            found.append({"query": query, "ranked": ranked})
        return found

    @classmethod
    def build_signature(cls, labels: Sequence[str]) -> Signature:
        """Return the columns: a query and its candidates; the candidates with their scores, the best first."""
        return Signature(
            (Column("query", "string"), Column("candidates", "strings")),
            (Column("ranked", {"text": "string", "score": "double", "place": "long"}),),
        )

    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Return nDCG@10, MRR, MRR@10 and the listwise NLL of queries that have a relevant candidate."""
        found = self._score(answers, rows)
        near_Q = np.where(found.reciprocal_Q >= 0.1, found.reciprocal_Q, 0.0)
        values = (found.ndcg_Q, found.reciprocal_Q, near_Q, found.nll_Q)
        means = (float(value_Q.mean()) if len(value_Q) else float("nan") for value_Q in values)
        return dict(zip(self.metric_names, means, strict=True))

    def _score(self, answers: SystemAnswers, rows: TextBatch) -> QueryScores:
        relevances = _list_relevances(rows)
        told = [at for at, own in enumerate(relevances) if any(own)]
        return score_queries(answers.logits_NC[told], [relevances[at] for at in told])

    def compute_row_shares(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> RowShares:
        """Return nDCG@10 by query; one without a relevant candidate counts nothing."""
        told_B = np.asarray([any(own) for own in _list_relevances(rows)], dtype=bool)
        shares_B = np.zeros(len(told_B))
        shares_B[told_B] = self._score(answers, rows).ndcg_Q
        return RowShares(shares_B, told_B.astype(np.float64))

    def to_columns(
        self, predictions: Sequence[Mapping[str, object]], labels: Sequence[str]
    ) -> dict[str, list[object]]:
        """Return the ranked candidates."""
        return {"ranked": [row["ranked"] for row in predictions]}


def _count_candidates(batch: TextBatch) -> NDArray[np.int64]:
    return count_each(batch.candidates or ((),) * len(batch))


def _list_relevances(batch: TextBatch) -> Sequence[tuple[float, ...]]:
    return batch.values or ((),) * len(batch)


def _limit_passes(encoded: EncodedBatch) -> EncodedBatch:
    """Return the batch in parts that run apart, where its padded tokens are too many for one pass."""
    if encoded.joined:
        return encoded
    sequences, width = encoded.inputs["input_ids"].shape
    at_once = max(1, PASS_TOKENS // max(1, width))
    if sequences <= at_once or encoded.parts is not None or encoded.sequences is not None:
        return encoded
    widths = {name: value.shape[1] for name, value in encoded.inputs.items()}
    parts = [SubBatch(part, widths) for part in torch.arange(sequences).split(at_once)]
    return replace(encoded, parts=tuple(parts))
