"""Decode words to tags that may follow each other, find their entities, and compute entity F1.

Decision record: all systems are decoded by the same constrained Viterbi, so that none gains by repair, and a row of
decoded tags is always one that strict matching accepts. All rows take a step at once, the longest first, so the loop
is over the longest row and not over words. Precision, recall and F1 are those of seqeval's strict mode, micro over
entities; the caller takes languages apart. They are counted here on arrays, a hundred times faster than seqeval does;
tests hold the two equal, on rows of impossible tags too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import MASKED, UNLABELLED
from raykd.tasks.schemes import Scheme, parse_scheme
from raykd.tasks.scores.classification import is_known, log_softmax


class _Rules(NamedTuple):
    """What each tag of a scheme allows. ``[C]`` each; the outside tag is an entity of its own that nothing continues.

    Attributes:
        can_begin: Whether a word with the tag can begin an entity.
        can_continue: Whether it can continue the entity of the word before.
        can_end: Whether it can end an entity.
        can_stay_open: Whether the next word can continue its entity.
        kinds: The number of its type, in the order of the types; that of "" for the outside tag.
    """

    can_begin: NDArray[np.bool_]
    can_continue: NDArray[np.bool_]
    can_end: NDArray[np.bool_]
    can_stay_open: NDArray[np.bool_]
    kinds: NDArray[np.int64]


def _read_rules(scheme: Scheme) -> _Rules:
    places = [(True, True) if i == scheme.outside else scheme.place(i) for i in range(len(scheme.tags))]
    numbers = {kind: i for i, kind in enumerate(dict.fromkeys(scheme.types))}
    return _Rules(
        np.asarray([begins is not False for begins, _ in places]),
        np.asarray([begins is not True for begins, _ in places]),
        np.asarray([ends is not False for _, ends in places]),
        np.asarray([ends is not True for _, ends in places]),
        np.asarray([numbers[kind] for kind in scheme.types]),
    )


def list_transitions(scheme: Scheme) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which tag may follow which ``[C, C]``, which may begin a row ``[C]``, which may end a row ``[C]``."""
    rules = _read_rules(scheme)
    fresh_CC = rules.can_end[:, None] & rules.can_begin
    goes_on_CC = rules.can_stay_open[:, None] & rules.can_continue & (rules.kinds[:, None] == rules.kinds)
    return fresh_CC | goes_on_CC, rules.can_begin, rules.can_end


def decode_tags(
    logits_NC: NDArray[np.floating], counts_B: NDArray[np.integer], scheme: Scheme
) -> NDArray[np.int64]:
    """Return the most probable tags ``[N]`` among rows of tags that the scheme allows (Viterbi).

    Args:
        logits_NC: Of all words of B rows, row after row.
        counts_B: Words per row; 0 is allowed.
        scheme: What the C columns mean.

    Raises:
        ValueError: The counts do not add up to N.
    """
    if int(counts_B.sum()) != len(logits_NC):
        raise ValueError(f"{len(logits_NC)} words, but the rows count {int(counts_B.sum())}")
    if len(logits_NC) == 0:
        return np.zeros(0, dtype=np.int64)
    allowed_CC, begins_C, ends_C = list_transitions(scheme)
    barred_CC, barred_C = np.where(allowed_CC, 0.0, -np.inf), np.where(begins_C, 0.0, -np.inf)
    logp_NC = log_softmax(logits_NC)
    # The longest rows come first, so the rows that still have a word at step t are the first ones.
    order_B = np.argsort(-counts_B, kind="stable")
    lengths_B = counts_B[order_B].astype(np.int64)
    first_B = (np.cumsum(counts_B) - counts_B)[order_B].astype(np.int64)
    active_L = np.searchsorted(-lengths_B, -np.arange(lengths_B[0]), side="left")
    best_BC = np.zeros((len(lengths_B), len(scheme.tags)))
    back_NC = np.zeros(logp_NC.shape, dtype=np.int64)
    for t, k in enumerate(active_L):
        at = first_B[:k] + t
        if t == 0:
            best_BC[:k] = logp_NC[at] + barred_C
            continue
        ways = best_BC[:k, :, None] + barred_CC
        back_NC[at] = ways.argmax(axis=1)
        best_BC[:k] = ways.max(axis=1) + logp_NC[at]
    tag_B = np.where(ends_C, best_BC, -np.inf).argmax(axis=1)
    out_N = np.zeros(len(logp_NC), dtype=np.int64)
    for t in range(len(active_L) - 1, -1, -1):
        k = active_L[t]
        at = first_B[:k] + t
        out_N[at] = tag_B[:k]
        tag_B[:k] = back_NC[at, tag_B[:k]]
    return out_N


def replace_unseen(
    logits_NC: NDArray[np.floating], seen_N: NDArray[np.bool_], scheme: Scheme
) -> NDArray[np.floating]:
    """Return the logits with every unseen word certainly tagged O."""
    outside_C = np.where(np.arange(len(scheme.tags)) == scheme.outside, 0.0, MASKED)
    return np.where(seen_N[:, None], logits_NC, outside_C)


def find_entity_spans(
    tags_N: NDArray[np.integer], counts_B: NDArray[np.integer], scheme: Scheme
) -> NDArray[np.int64]:
    """Return the entities ``[E, 3]`` of B rows: first word, the word behind the last, number of the type.

    Words are counted over all rows. Strict as seqeval is: a tag that cannot follow the tag before it belongs to no
    entity, and an entity of BILOU that does not end is none.
    """
    tags_N = np.asarray(tags_N, dtype=np.int64)
    if len(tags_N) == 0:
        return np.zeros((0, 3), dtype=np.int64)
    rules = _read_rules(scheme)
    kind_N = rules.kinds[tags_N]
    first_N = np.zeros(len(tags_N), dtype=bool)
    first_N[(np.cumsum(counts_B) - counts_B)[np.asarray(counts_B) > 0]] = True
    goes_on_N = ~first_N & rules.can_continue[tags_N]
    goes_on_N[1:] &= rules.can_stay_open[tags_N[:-1]] & (kind_N[1:] == kind_N[:-1])
    (begin_E,) = np.nonzero((tags_N != scheme.outside) & rules.can_begin[tags_N] & ~goes_on_N)
    edges = np.append(np.flatnonzero(~goes_on_N), len(tags_N))
    end_E = edges[np.searchsorted(edges, begin_E, side="right")]
    found_E3: NDArray[np.int64] = np.stack([begin_E, end_E, kind_N[begin_E]], axis=1)
    ended_E3: NDArray[np.int64] = found_E3[rules.can_end[tags_N[end_E - 1]]]
    return ended_E3


def compute_entity_scores(
    predicted_N: NDArray[np.integer],
    gold_N: NDArray[np.integer],
    counts_B: NDArray[np.integer],
    scheme: Scheme,
) -> dict[str, float]:
    """Return F1, precision and recall, micro over entities of B rows of tags; 0 where there is nothing to divide by."""
    own, true = find_entity_spans(predicted_N, counts_B, scheme), find_entity_spans(gold_N, counts_B, scheme)
    # Each entity becomes one number, so that equal entities are found by one intersection.
    weights = np.asarray([(len(gold_N) + 1) * len(scheme.tags), len(scheme.tags), 1])
    hits = len(np.intersect1d(own @ weights, true @ weights, assume_unique=True))
    return {
        "f1": 2 * hits / max(1, len(own) + len(true)),
        "precision": hits / max(1, len(own)),
        "recall": hits / max(1, len(true)),
    }


def compute_entity_metrics(
    logits_NC: NDArray[np.floating],
    labels_N: NDArray[np.int64],
    counts_B: NDArray[np.integer],
    labels: Sequence[str],
    covered_N: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Return entity F1, precision and recall, accuracy of words (all of decoded tags) and NLL (nats per word).

    Args:
        logits_NC: Of all words of B rows.
        labels_N: Gold tags; a row has a label at each word or `UNLABELLED` at each, and then it does not count.
        counts_B: Words per row.
        labels: The run's tags, the order of C.
        covered_N: False for words that the model did not see (truncated): they are tagged O, count in accuracy and
            recall, and are left out of the NLL, as are words whose gold tag the model does not know (`MASKED`).

    Raises:
        ValueError: No row is labelled, or a row is labelled in part.
    """
    scheme = parse_scheme(labels)
    row_N = np.repeat(np.arange(len(counts_B)), counts_B)
    labelled_N = labels_N != UNLABELLED
    labelled_B = np.bincount(row_N, weights=labelled_N, minlength=len(counts_B))
    if not labelled_N.any():
        raise ValueError("no labelled unit to measure on")
    if not np.isin(labelled_B - counts_B * (labelled_B > 0), 0).all():
        raise ValueError("a row has a label at some of its words only")
    kept = np.asarray(logits_NC)[labelled_N]
    gold_N, counts_B = labels_N[labelled_N], counts_B[labelled_B > 0]
    seen_N = np.ones(len(gold_N), dtype=bool) if covered_N is None else covered_N[labelled_N]
    nll_N = -log_softmax(kept)[np.arange(len(gold_N)), gold_N]
    told_N = seen_N & is_known(kept[np.arange(len(gold_N)), gold_N])
    predicted_N = decode_tags(replace_unseen(kept, seen_N, scheme), counts_B, scheme)
    return {
        **compute_entity_scores(predicted_N, gold_N, counts_B, scheme),
        "accuracy": float((predicted_N == gold_N).mean()),
        "nll": float(nll_N[told_N].mean()) if told_N.any() else float("nan"),
    }
