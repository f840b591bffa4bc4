"""Labelled units, and what a combination of teachers earns with each: accuracy, entity F1, or NLL.

Decision record: a unit that nobody covers earns what a guess would: 1 / C of a right label, log C of NLL. A word that
nobody covers is tagged O, as everywhere in raykd.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from raykd.ensemble.calibration import compute_gold_nll, fit_temperature
from raykd.ensemble.mixing import Combined
from raykd.ensemble.resampling import ScoreParts
from raykd.tasks.schemes import Scheme, parse_scheme
from raykd.tasks.scores.entities import decode_tags, find_entity_spans, replace_unseen

WORST_NLL = 12.0
"""Most nats that one unit counts, so that no single unit decides: a probability of 6e-6."""
ROUNDS = 16
"""Steps of the search for a coalition's temperature, which leave 0.3 % of it: its NLL is flat there."""


@dataclass(frozen=True)
class LabelledUnits:
    """The units of B rows, all with a gold label.

    Attributes:
        gold_N: The labels.
        counts_B: Units of each row.
        languages_B: Language of each row.
        labels: The run's.
        tagging: Whether labels are tags of words, of which entities are made.
    """

    gold_N: NDArray[np.int64]
    counts_B: NDArray[np.int64]
    languages_B: tuple[str, ...]
    labels: tuple[str, ...]
    tagging: bool = False

    @property
    def metric(self) -> str:
        """Name of the score: accuracy, or entity F1."""
        return "f1" if self.tagging else "accuracy"

    @cached_property
    def row_N(self) -> NDArray[np.int64]:  # noqa: N802  (a shape, as the fields)
        """The row of each unit."""
        return np.repeat(np.arange(len(self.counts_B)), self.counts_B)

    @cached_property
    def scheme(self) -> Scheme:
        """What the tags mean."""
        return parse_scheme(self.labels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels, or the types of entities."""
        return tuple(dict.fromkeys(t for t in self.scheme.types if t)) if self.tagging else self.labels

    def choose(self, combined: Combined) -> NDArray[np.int64]:
        """Return the label that is chosen for each unit."""
        if not self.tagging:
            return np.asarray(combined.logp_NC.argmax(axis=1))
        seen_NC = replace_unseen(combined.logp_NC, combined.covered_N, self.scheme)
        return decode_tags(seen_NC, self.counts_B, self.scheme)

    def score_choices(self, combinations: Sequence[Combined]) -> ScoreParts:
        """Return what each combination earns: accuracy by unit, or F1 by row and type of entity."""
        earn = self._earn_f1 if self.tagging else self._earn_accuracy
        earned = [earn(combined) for combined in combinations]
        types = len(self.class_names)
        rows = len(self.counts_B)
        return ScoreParts(
            np.stack([top for top, _ in earned]),
            np.stack([bottom for _, bottom in earned]),
            np.repeat(np.arange(rows), types) if self.tagging else self.row_N,
            np.tile(np.arange(types), rows) if self.tagging else self.gold_N,
            self.languages_B,
        )

    def score_nll(self, combinations: Sequence[Combined]) -> ScoreParts:
        """Return what each combination earns by the negative NLL, a row an item, at the temperature that suits it best.

        Dropping a teacher makes a mixture surer, which is no merit: the student's temperature can do that, too.
        """
        rows = len(self.counts_B)
        tops = []
        for combined in combinations:
            # A label that no teacher of the coalition knows has no temperature that suits it.
            told_N = combined.covered_N & combined.find_known(self.gold_N)
            nll_N = np.where(combined.covered_N, WORST_NLL, np.log(len(self.labels)))
            if told_N.any():
                known_NC, gold_N = combined.logp_NC[told_N], self.gold_N[told_N]
                nll_N[told_N] = compute_gold_nll(known_NC, gold_N, fit_temperature(known_NC, gold_N, ROUNDS))
            tops.append(-np.bincount(self.row_N, np.minimum(nll_N, WORST_NLL), minlength=rows))
        counts_SB = np.broadcast_to(self.counts_B.astype(np.float64), (len(tops), rows))
        at = np.arange(rows)
        return ScoreParts(np.stack(tops), counts_SB, at, np.zeros(rows, np.int64), self.languages_B)

    def _earn_accuracy(self, combined: Combined) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        right_N = combined.logp_NC.argmax(axis=1) == self.gold_N
        top_N = np.where(combined.covered_N, right_N, 1.0 / len(self.labels))
        return top_N, np.ones_like(top_N)

    def _earn_f1(self, combined: Combined) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        own, true = self._find_entities(self.choose(combined)), self._true_entities
        hits = np.isin(own[:, 0], true[:, 0])
        size = len(self.counts_B) * len(self.class_names)
        top_I = 2.0 * np.bincount(own[hits, 1], minlength=size).astype(np.float64)
        given_I = np.bincount(own[:, 1], minlength=size) + np.bincount(true[:, 1], minlength=size)
        return top_I, given_I.astype(np.float64)

    @cached_property
    def _true_entities(self) -> NDArray[np.int64]:
        return self._find_entities(self.gold_N)

    def _find_entities(self, tags_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return ``[E, 2]``: a number that only equal entities share, and the item of each entity."""
        spans_E3 = find_entity_spans(tags_N, self.counts_B, self.scheme)
        kinds = list(dict.fromkeys(self.scheme.types))
        place = np.asarray([self.class_names.index(kind) if kind else -1 for kind in kinds])
        kind_E = place[spans_E3[:, 2]]
        size = len(tags_N) + 1
        same_E = (spans_E3[:, 0] * size + spans_E3[:, 1]) * len(kinds) + spans_E3[:, 2]
        item_E = self.row_N[spans_E3[:, 0]] * len(self.class_names) + kind_E
        return np.stack([same_E, item_E], axis=1)
