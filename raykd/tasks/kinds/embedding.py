"""Embed texts: the unit is a text, its answer a vector, and what is compared are the cosines within a micro-batch.

Decision record: vectors of two models have no columns in common and often not one width, but their cosines mean the
same. So teacher and student alike become logits ``[N, N]``: ``scale`` times the cosine of each text of the micro-batch
with each other one. The softmax of a row is the text's distribution over its neighbours, and every divergence, mixture
and weighting serves it as it serves labels; the logit MSE is the relational loss (distance-wise RKD, arXiv:1904.05068)
without the mean of each row. A text's cosine with itself says nothing, so the diagonal is `MASKED` on both sides. What
a teacher was not asked for is a column that it does not know, and the student is compared on the others.

A row is a text, or a text and its pair (a paraphrase or a translation), which makes two units. The pair's column is a
text's gold label, so the hard term is the in-batch contrastive loss with all other texts as negatives (InfoNCE,
arXiv:1807.03748). With `teachers_read: first` the teachers' vector of a text stands for its pair as well: the
translation learns the place that its source has (arXiv:2004.09813, by cosines instead of coordinates, so that widths
may differ).

Each rank and each micro-batch has its own neighbours: gradient accumulation and more workers make them fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from raykd.distill.objective import Objective
from raykd.distill.signals import MASKED, UNLABELLED
from raykd.errors import ConfigError
from raykd.head import Head, Pooling, TaskSettings
from raykd.tasks.base import SystemAnswers, TaskBase
from raykd.tasks.forms import RowForm
from raykd.tasks.registry import register_task
from raykd.tasks.scores import retrieval
from raykd.tasks.scores.intervals import RowShares
from raykd.tasks.signature import Column, Signature
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedBatch, EncodedRows, ModelOutputs, collate_rows
from raykd.text.padding import RIGHT, Padding
from raykd.text.ragged import compute_starts
from raykd.text.tokens import Tokenizer, tokenize


@register_task
class Embedding(TaskBase):
    """A vector per text; N = texts of the micro-batch, C = N."""

    form: ClassVar[RowForm] = "sentences"
    head: ClassVar[Head] = "embedding"
    metric_names: ClassVar[tuple[str, ...]] = ("mrr", "recall_at_1", "spearman", "nll")
    labelled: ClassVar[bool] = False
    vectors: ClassVar[bool] = True
    kind: Literal["embedding"] = "embedding"
    max_length: int = Field(128, ge=1)
    """Longest text in tokens, special tokens included; what is longer is truncated."""
    scale: float = Field(20.0, gt=0.0)
    """Factor of the cosines, which makes them logits; the objective's temperature divides them further."""
    positive_score: float = 4.0
    """Pairs with at least this score mean the same: they are gold, and are to be found. Pairs without a score do."""
    teachers_read: Literal["both", "first"] = "both"
    """`first`: the teachers' vector of a row's text stands for its pair as well, as for a translation that they cannot
    read. The row's language is the pair's then, so its teachers are `languages: all`."""
    pooling: Pooling | None = None
    """Of the student: the mean over its tokens or its first token. None is that of a checkpoint of sentence vectors,
    else the mean."""
    dimension: int | None = Field(None, ge=2)
    """Width of the student's vectors, by a linear layer behind the pooling; None is the student's own."""

    def check(self, labels: Sequence[str], objective: Objective) -> None:
        """Refuse a loss that averages over choices: a text's own column is masked. A centred logit MSE is not moved."""
        divergences = [term.divergence for term in objective.terms]
        wrong = [d.kind for d in divergences if d.equal_choices or not getattr(d, "centre", True)]
        if wrong:
            raise ConfigError(
                f"{wrong[0]} averages over choices, and the cosine of a text with itself is masked",
                got=f"objective.terms: {wrong[0]}",
                wanted="a divergence of probabilities, or logit_mse with centre: true",
                next_step="use forward_kl, reverse_kl, jensen_shannon or logit_mse",
            )

    @property
    def head_settings(self) -> Mapping[str, Any]:
        """Pooling and width of the student's vectors."""
        return {"pooling": self.pooling, "dimension": self.dimension}

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return a sequence for each text of B rows."""
        counts_B = self.count_units(batch)
        row_N = np.repeat(np.arange(len(batch)), counts_B)
        place_N, gold_N = _find_places(counts_B), np.repeat(self._find_positives(batch), counts_B)
        texts = [text for row in zip(batch.texts, batch.pairs or batch.texts, strict=True) for text in row]
        picked = [2 * row + at for row, count in enumerate(counts_B.tolist()) for at in range(count)]
        languages = [batch.languages[row] for row in row_N.tolist()]
        tokens = tokenize(tokenizer, [texts[i] for i in picked], None, self.max_length, languages)
        starts_B1 = compute_starts(counts_B)
        return EncodedRows(
            tokens.fields,
            tokens.pad_values,
            np.add.reduceat(tokens.lengths_B, starts_B1[:-1]) if len(batch) else tokens.lengths_B,
            np.where(gold_N, 1 - place_N, UNLABELLED),
            starts_B1,
            sequences_B1=starts_B1,
            long_B=np.bincount(row_N, tokens.long_B, minlength=len(batch)) > 0,
        )

    def collate(self, rows: EncodedRows, picked: Sequence[int], padding: Padding = RIGHT) -> EncodedBatch:
        """Return the picked rows' texts; a gold label, which is a place in the row, becomes one among them all."""
        encoded = collate_rows(rows, picked, padding)
        first_N = np.repeat(compute_starts(encoded.counts_B)[:-1], encoded.counts_B)
        labels_N = encoded.labels_N + torch.from_numpy(first_N)
        labels_N = torch.where(encoded.labels_N == UNLABELLED, UNLABELLED, labels_N)
        return replace(encoded, labels_N=labels_N, choices=len(labels_N))

    def count_units(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return 2 for a row with a pair, 1 for a text alone."""
        pairs = batch.pairs or ("",) * len(batch)
        return np.asarray([2 if pair else 1 for pair in pairs], dtype=np.int64)

    def list_unit_labels(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return for each text the place of its pair among all texts, where the two mean the same."""
        counts_B = self.count_units(batch)
        first_N = np.repeat(compute_starts(counts_B)[:-1], counts_B)
        gold_N = np.repeat(self._find_positives(batch), counts_B)
        return np.where(gold_N, first_N + 1 - _find_places(counts_B), UNLABELLED)

    def _find_positives(self, batch: TextBatch) -> NDArray[np.bool_]:
        """Return ``[B]``: whether a row has gold and a pair that means the same."""
        values = batch.values or ((),) * len(batch)
        alike = [not own or own[0] >= self.positive_score for own in values]
        found: NDArray[np.bool_] = (
            (self.count_units(batch) == 2) & (batch.labels_B != UNLABELLED) & np.asarray(alike, dtype=bool)
        )
        return found

    def gather(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return the ``[N, D]`` vectors."""
        return outputs.logits

    def locate_features(
        self, encoded: EncodedBatch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """See `TaskBase`; the texts' vectors."""
        return encoded.find_rows(), torch.arange(len(encoded.labels_N), device=encoded.labels_N.device), None

    def scale_answers(self, logits_NC: torch.Tensor) -> torch.Tensor:
        """Return vectors of length 1."""
        return torch.nn.functional.normalize(logits_NC, dim=-1)

    def relate_units(self, logits_NC: torch.Tensor) -> torch.Tensor:
        """Return ``[N, N]``: the scaled cosines of each text with each other one, `MASKED` with itself."""
        unit_ND = torch.nn.functional.normalize(logits_NC.float(), dim=-1)
        cosine_NN = unit_ND @ unit_ND.T
        own_NN = torch.eye(len(unit_ND), dtype=torch.bool, device=unit_ND.device)
        return (self.scale * cosine_NN).masked_fill(own_NN, MASKED)

    def place_answers(
        self, answers_NC: NDArray[np.float32], covered_N: NDArray[np.bool_], counts_B: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return a teacher's vectors as its cosines; a text that it did not answer is a choice that it lacks."""
        if self.teachers_read == "first":
            first_N = np.repeat(compute_starts(counts_B)[:-1], counts_B)
            answers_NC, covered_N = answers_NC[first_N], covered_N[first_N]
        logits_NN = self.relate_units(
            torch.from_numpy(np.array(answers_NC))
        ).numpy()  # decoded ones are not aligned
        return np.where(covered_N, logits_NN, -np.inf).astype(np.float32), covered_N

    @property
    def settings(self) -> TaskSettings:
        """What a saved student must remember to be scored as it was."""
        return {"positive_score": self.positive_score, "scale": self.scale}

    def build_predictions(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """Return text and vector; of a pair also its text, its vector and the cosine of both."""
        found: list[dict[str, object]] = []
        starts, cosine_B = compute_starts(answers.counts_B), retrieval.compute_cosines(*self._split(answers))
        for at, (text, count) in enumerate(zip(rows.texts, answers.counts_B.tolist(), strict=True)):
            row: dict[str, object] = {"text": text, "vector": _write(answers.logits_NC[starts[at]])}
            if count == 2 and rows.pairs is not None:
                second = _write(answers.logits_NC[starts[at] + 1])
                cosine = round(float(cosine_B[at]), 6)
                row |= {"text_pair": rows.pairs[at], "vector_pair": second, "cosine": cosine}
            found.append(row)
        return found

    @classmethod
    def build_signature(cls, labels: Sequence[str]) -> Signature:
        """Return the columns: a text or two; the vector of the text, and the cosine of both."""
        return Signature(
            (Column("text", "string"), Column("text_pair", "string", required=False)),
            (Column("vector", "doubles"), Column("cosine", "double", required=False)),
        )

    def to_columns(
        self, predictions: Sequence[Mapping[str, object]], labels: Sequence[str]
    ) -> dict[str, list[object]]:
        """Return the vectors, and of pairs the cosines."""
        names = ["vector", *(["cosine"] if any("cosine" in row for row in predictions) else [])]
        return {name: [row.get(name) for row in predictions] for name in names}

    def _split(self, answers: SystemAnswers) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the vectors ``[B, D]`` of first texts and of pairs; of a text alone its own stands for the pair's."""
        first_B = compute_starts(answers.counts_B)[:-1]
        return answers.logits_NC[first_B], answers.logits_NC[first_B + answers.counts_B - 1]

    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Return how well a text's pair is found among the pairs of all rows, and how cosines follow the scores.

        MRR and recall at rank 1 of the pairs that mean the same, Spearman's correlation of cosine and score where rows
        have scores, and the NLL (nats) of the pair in the softmax of the scaled cosines.
        """
        first_BD, second_BD = self._split(answers)
        found = self._rank(answers, rows)
        scored = [at for at, value in enumerate(rows.values or ()) if value]
        gold = np.asarray([(rows.values or ())[at][0] for at in scored])
        cosine_B = retrieval.compute_cosines(first_BD[scored], second_BD[scored])
        correlated = {"spearman": retrieval.compute_spearman(cosine_B, gold)} if scored else {}
        return {
            "mrr": _mean(found.reciprocal_Q),
            "recall_at_1": _mean((found.reciprocal_Q == 1.0).astype(np.float64)),
            **correlated,
            "nll": _mean(found.nll_Q),
        }

    def _rank(self, answers: SystemAnswers, rows: TextBatch) -> retrieval.Ranks:
        first_BD, second_BD = self._split(answers)
        asked = np.flatnonzero(self._find_positives(rows))
        pool = np.flatnonzero(answers.counts_B == 2)
        return retrieval.rank_pairs(
            first_BD[asked], second_BD[pool], np.searchsorted(pool, asked), self.scale
        )

    def compute_row_shares(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> RowShares:
        """Return the reciprocal rank of each row's pair; rows whose pair means something else count nothing."""
        asked_B = self._find_positives(rows)
        shares_B = np.zeros(len(asked_B))
        shares_B[asked_B] = self._rank(answers, rows).reciprocal_Q
        return RowShares(shares_B, asked_B.astype(np.float64))


def _find_places(counts_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``[N]``: the place of each text in its row, 0 or 1."""
    return np.arange(int(counts_B.sum())) - np.repeat(compute_starts(counts_B)[:-1], counts_B)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _write(vector_D: NDArray[np.float32]) -> list[float]:
    return [round(value, 6) for value in vector_D.tolist()]
