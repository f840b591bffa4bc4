"""Tag words (named entities): the unit is the word, a label is a tag of IO, BIO, BILOU, BIOES or BMES.

Decision record: words are places in the text that every model sees, whatever its tokenizer. Where a row came as tokens
(its mode is "split") a tokenizer is given each of them apart, and a model is read at the first token of each, as
`run_ner.py` trains it; joined to a text, Chinese characters would run together to pieces that no tagger was trained on.
In a text that came whole a model is read at the token that holds a word's first character; words that share one are
counted. A word that a model's limit cuts off is not covered by it, neither trained nor taught, and counted as tagged O
when the model is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from raykd.devices import without_gradients
from raykd.distill.features.states import Position
from raykd.distill.objective import Objective
from raykd.distill.signals import MASKED, UNLABELLED
from raykd.head import Head
from raykd.tasks.base import Network, SystemAnswers, TaskBase
from raykd.tasks.chains import compute_marginals, condition_on_gold, estimate_scores, follow_best_row
from raykd.tasks.forms import RowForm
from raykd.tasks.registry import register_task
from raykd.tasks.schemes import Scheme, map_tag_columns, parse_scheme
from raykd.tasks.scores import entities
from raykd.tasks.scores.classes import NO_ENTITY, ClassAnswers, pair_spans
from raykd.tasks.scores.classification import log_softmax
from raykd.tasks.scores.intervals import RowShares
from raykd.tasks.signature import TEXT, Column, Scalar, Signature
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedBatch, EncodedRows, ModelOutputs
from raykd.text.ragged import compute_starts, count_each, expand_ranges
from raykd.text.tokens import Tokenizer, Tokens, merge_tokens
from raykd.text.word_tokens import reads_words_alone, tokenize_split_words, tokenize_words
from raykd.text.words import find_first_tokens, find_shared_tokens


@register_task
class TokenClassification(TaskBase):
    """One tag per word; N = all words of the batch."""

    form: ClassVar[RowForm] = "words"
    head: ClassVar[Head] = "token_classification"
    metric_names: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "accuracy", "nll")
    labelled: ClassVar[bool] = True
    feature_positions: ClassVar[frozenset[Position]] = frozenset({"cls", "mean", "words", "sequence"})
    kind: Literal["token_classification"] = "token_classification"
    max_length: int = Field(128, ge=1)
    """Longest text in tokens, special tokens included; words beyond it are not covered."""

    def check(self, labels: Sequence[str], objective: Objective) -> None:
        """Refuse labels that are not the tags of one scheme."""
        parse_scheme(labels)

    def find_start(self, rows: TextBatch, labels: Sequence[str]) -> NDArray[np.float32] | None:
        """Return a chain's scores by how often tags follow each other in the labelled rows."""
        labels_N = self.list_unit_labels(rows)
        known = bool((labels_N != UNLABELLED).any())
        return estimate_scores(labels_N, self.count_units(rows), len(labels)) if known else None

    def encode(self, tokenizer: Tokenizer, batch: TextBatch) -> EncodedRows:
        """Return the token ids of B rows, and which token is read for each word.

        Raises:
            ConfigError: The tokenizer does not say where its tokens stand.
        """
        tokens, token_N = _locate_words(tokenizer, batch, self.max_length)
        row_N = np.repeat(np.arange(len(batch)), self.count_units(batch))
        return EncodedRows(
            fields=tokens.fields,
            pad_values=tokens.pad_values,
            lengths_B=tokens.lengths_B,
            labels_N=self.list_unit_labels(batch),
            starts_B1=compute_starts(self.count_units(batch)),
            places_N2=np.stack([np.where(token_N < 0, -1, 0), token_N], axis=1),
            extra={"shared": find_shared_tokens(row_N, token_N)},
            long_B=tokens.long_B,
        )

    def count_units(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return the words of each row."""
        if batch.words is None:
            raise ValueError("rows of a tagging task need the places of their words")
        return count_each(batch.words)

    def list_unit_labels(self, batch: TextBatch) -> NDArray[np.int64]:
        """Return the tag of each word; `UNLABELLED` at all words of a row without tags."""
        rows = zip(self.count_units(batch).tolist(), batch.golds or ((),) * len(batch), strict=True)
        flat = [label for count, gold in rows for label in (gold or (UNLABELLED,) * count)]
        return np.asarray(flat, dtype=np.int64)

    def gather(self, outputs: ModelOutputs, encoded: EncodedBatch) -> torch.Tensor:
        """Return ``[N, C]``: of ``[B, L, C]`` logits those at each word's token; of a chain its marginals.

        The most probable tags of a chain's words are the best row of tags (`follow_best_row`).
        """
        emissions_NC, scores_XC = self._read(outputs, encoded)
        if scores_XC is None:
            return emissions_NC
        logits_NC = compute_marginals(emissions_NC, encoded.counts_B, scores_XC)
        return follow_best_row(logits_NC, emissions_NC, encoded.counts_B, scores_XC)

    @without_gradients
    def choose(self, model: Network, encoded: EncodedBatch) -> SystemAnswers:
        """See `TaskBase`; of a chain the best row of tags without its marginals."""
        emissions_NC, scores_XC = self._read(encoded.run(model), encoded)
        logits_NC = emissions_NC.float().cpu().numpy()
        if scores_XC is not None and len(logits_NC) and not np.isnan(logits_NC).any():
            best_N = entities.find_best_rows(logits_NC, encoded.counts_B, scores_XC.cpu().numpy())
            logits_NC = np.full_like(logits_NC, MASKED)
            logits_NC[np.arange(len(best_N)), best_N] = 0.0
        return SystemAnswers(logits_NC, encoded.counts_B, encoded.find_seen())

    def gather_taught(
        self, outputs: ModelOutputs, encoded: EncodedBatch
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `TaskBase`; of a chain the marginals, and for the gold term what the tags before tell."""
        emissions_NC, scores_XC = self._read(outputs, encoded)
        if scores_XC is None:
            return emissions_NC, None
        return condition_on_gold(emissions_NC, encoded.counts_B, scores_XC, encoded.labels_N)

    def locate_features(
        self, encoded: EncodedBatch
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """See `TaskBase`; the words that the model saw, at the tokens where they are tagged."""
        assert encoded.places_N2 is not None
        row_F, places_F2 = encoded.find_rows(), encoded.places_N2
        if encoded.seen_N is not None:
            row_F, places_F2 = row_F[encoded.seen_N], places_F2[encoded.seen_N]
        return row_F, places_F2[:, 0], places_F2[:, 1]

    def _read(self, outputs: ModelOutputs, encoded: EncodedBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return each word's logits, and the scores of a chain, where there is one; it sees nothing of cut words."""
        logits = outputs.logits
        if logits.ndim != 3 or encoded.places_N2 is None:
            raise ValueError(f"a tagger gives [B, L, C] logits, got {tuple(logits.shape)}")
        words_NC = logits[encoded.places_N2[:, 0], encoded.places_N2[:, 1]]
        transitions = getattr(outputs, "transitions", None)
        if transitions is None:
            return words_NC, None
        if encoded.seen_N is not None:
            words_NC = torch.where(encoded.seen_N.unsqueeze(1), words_NC, 0.0)
        return words_NC.float(), transitions[0].float()

    def map_columns(
        self,
        own: Sequence[str],
        wanted: Sequence[str],
        label_map: Mapping[str, str | None],
        name: str,
        missing: Sequence[str] = (),
    ) -> tuple[tuple[int, ...], ...]:
        """See `TaskBase`; tags of another scheme are added up, and types that the teacher lacks have no column."""
        return map_tag_columns(own, wanted, label_map, name, missing).columns

    def build_answer_key(self) -> object:
        """Return how words are given and read, because that changes a model's answer."""
        return [self.kind, "tokens apart"]

    def build_predictions(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> list[dict[str, object]]:
        """Return each text and its entities in order: their text, type, and begin and end in characters."""
        scheme = parse_scheme(labels)
        tags_N = self._decode(answers, scheme)
        kinds = list(dict.fromkeys(scheme.types))
        starts_B1 = compute_starts(answers.counts_B)
        found: list[list[dict[str, object]]] = [[] for _ in rows.texts]
        for first, behind, kind in entities.find_entity_spans(tags_N, answers.counts_B, scheme).tolist():
            row = int(np.searchsorted(starts_B1, first, side="right")) - 1
            words = (rows.words or ())[row]
            begin = words[first - int(starts_B1[row])][0]
            end = words[behind - 1 - int(starts_B1[row])][1]
            text = rows.texts[row][begin:end]
            found[row].append({"text": text, "type": kinds[kind], "start": int(begin), "end": int(end)})
        return [{"text": text, "entities": own} for text, own in zip(rows.texts, found, strict=True)]

    @classmethod
    def build_signature(cls, labels: Sequence[str]) -> Signature:
        """Return the columns: a text; its entities."""
        entity: dict[str, Scalar] = {"text": "string", "type": "string", "start": "long", "end": "long"}
        return Signature(TEXT, (Column("entities", entity),))

    def compute_metrics(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> dict[str, float]:
        """Return entity F1, precision and recall, accuracy of words, NLL (`raykd.tasks.scores.entities`)."""
        return entities.compute_entity_metrics(
            answers.logits_NC, self.list_unit_labels(rows), answers.counts_B, labels, answers.covered_N
        )

    def compute_row_shares(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> RowShares:
        """Return entity F1 by row: twice its hits, and the entities of gold and prediction."""
        scheme = parse_scheme(labels)
        tags_N, gold_N = self._decode(answers, scheme), self.list_unit_labels(rows)
        row_N, counts_B = np.repeat(np.arange(len(rows)), answers.counts_B), answers.counts_B
        own = {tuple(span) for span in entities.find_entity_spans(tags_N, counts_B, scheme).tolist()}
        true = {tuple(span) for span in entities.find_entity_spans(gold_N, counts_B, scheme).tolist()}
        numerator_B, denominator_B = np.zeros(len(rows)), np.zeros(len(rows))
        for span in own & true:
            numerator_B[row_N[span[0]]] += 2
        for span in (*own, *true):
            denominator_B[row_N[span[0]]] += 1
        return RowShares(numerator_B, denominator_B)

    def compare_classes(self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]) -> ClassAnswers:
        """Return the entities of gold and prediction by type, paired where they begin and end at the same words."""
        scheme = parse_scheme(labels)
        kinds = [kind for kind in dict.fromkeys(scheme.types) if kind]
        numbers = np.asarray([-1 if not k else kinds.index(k) for k in dict.fromkeys(scheme.types)])
        own_E3, true_E3 = (
            entities.find_entity_spans(tags_N, answers.counts_B, scheme)
            for tags_N in (self._decode(answers, scheme), self.list_unit_labels(rows))
        )
        for spans_E3 in (own_E3, true_E3):
            spans_E3[:, 2] = numbers[spans_E3[:, 2]]
        return pair_spans(kinds, own_E3, true_E3, NO_ENTITY)

    def measure_confidence(
        self, answers: SystemAnswers, rows: TextBatch, labels: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the probability of the most probable tag of each word that the model saw, and whether it is right."""
        seen_N = answers.covered_N
        p_NC = np.exp(log_softmax(answers.logits_NC[seen_N]))
        return p_NC.max(axis=1), p_NC.argmax(axis=1) == self.list_unit_labels(rows)[seen_N]

    def _decode(self, answers: SystemAnswers, scheme: Scheme) -> NDArray[np.int64]:
        """Return the tag of each word; a word that the model did not see is O."""
        logits_NC = entities.replace_unseen(answers.logits_NC, answers.covered_N, scheme)
        return entities.decode_tags(logits_NC, answers.counts_B, scheme)


def _locate_words(
    tokenizer: Tokenizer, batch: TextBatch, max_length: int
) -> tuple[Tokens, NDArray[np.int64]]:
    """Return the rows' tokens, and the token at which each word of all rows is read, -1 where there is none."""
    spans = batch.words or ()
    split_B = batch.is_in_mode("split") | reads_words_alone(tokenizer)
    apart, whole = np.flatnonzero(split_B).tolist(), np.flatnonzero(~split_B).tolist()
    parts: list[tuple[list[int], Tokens, NDArray[np.int64]]] = []
    if apart:
        words = [[batch.texts[i][begin:end] for begin, end in spans[i]] for i in apart]
        spoken = [batch.languages[i] for i in apart]
        parts.append((apart, *tokenize_split_words(tokenizer, words, max_length, spoken)))
    if whole or not apart:
        texts, spoken = [batch.texts[i] for i in whole], [batch.languages[i] for i in whole]
        tokens = tokenize_words(tokenizer, texts, None, max_length, languages=spoken)
        places = [np.asarray(spans[i], dtype=np.int64).reshape(-1, 2) for i in whole]
        parts.append((whole, tokens, find_first_tokens(tokens.offsets, tokens.special, places)))
    starts_B1 = compute_starts(count_each(spans))
    token_N = np.full(int(starts_B1[-1]), -1, dtype=np.int64)
    for rows, _, found_N in parts:
        token_N[expand_ranges(starts_B1, rows)] = found_N
    return merge_tokens([(rows, tokens) for rows, tokens, _ in parts], len(batch)), token_N
