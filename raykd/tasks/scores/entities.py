"""Entities of tagged words: decoding to tags that may follow each other, and entity F1.

Decision record: all systems are decoded by the same constrained Viterbi, so that none gains by repair, and a row of
decoded tags is always one that strict matching accepts. All rows take a step at once, the longest first, so the loop
is over the longest row and not over words. Precision, recall and F1 are those of seqeval's strict mode, micro over
entities; the caller takes languages apart. They are counted here on arrays, a hundred times faster than seqeval does;
tests hold the two equal, on rows of impossible tags too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import MASKED, UNLABELLED
from raykd.tasks.schemes import Scheme, parse_scheme
from raykd.tasks.scores.classification import log_softmax


def list_transitions(scheme: Scheme) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which tag may follow which ``[C, C]``, which may begin a row ``[C]``, which may end one ``[C]``."""
    n = len(scheme.tags)
    place = [(True, True) if i == scheme.outside else scheme.place(i) for i in range(n)]
    allowed_CC = np.zeros((n, n), dtype=bool)
    for i in range(n):
        for j in range(n):
            same = scheme.types[i] == scheme.types[j] and scheme.outside not in (i, j)
            fresh = place[j][0] is not False and place[i][1] is not False
            goes_on = same and place[j][0] is not True and place[i][1] is not True
            allowed_CC[i, j] = fresh or goes_on
    begins_C = np.asarray([begins is not False for begins, _ in place])
    ends_C = np.asarray([ends is not False for _, ends in place])
    return allowed_CC, begins_C, ends_C


def decode_tags(
    logits_NC: NDArray[np.floating], counts_B: NDArray[np.integer], scheme: Scheme
) -> NDArray[np.int64]:
    """The most probable tags ``[N]`` among rows of tags that the scheme allows (Viterbi over log-probabilities).

    Args:
        logits_NC: all words of B rows, row after row.
        counts_B: words a row; 0 is allowed.

    Raises:
        ValueError: the counts do not add up to N.
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
    """The entities ``[E, 3]`` of B rows: first word, the word behind the last (both counted over all rows), type.

    Strict as seqeval is: a tag that cannot follow the one before it belongs to no entity, and an entity of BILOU
    that does not end is none.
    """
    tags_N = np.asarray(tags_N, dtype=np.int64)
    if len(tags_N) == 0:
        return np.zeros((0, 3), dtype=np.int64)
    kinds = {kind: i for i, kind in enumerate(dict.fromkeys(scheme.types))}
    kind_N = np.asarray([kinds[kind] for kind in scheme.types])[tags_N]
    place = [scheme.place(i) if i != scheme.outside else (False, True) for i in range(len(scheme.tags))]
    inside_N = tags_N != scheme.outside
    may_go_on_N = inside_N & np.asarray([begins is not True for begins, _ in place])[tags_N]
    open_N = inside_N & np.asarray([ends is not True for _, ends in place])[tags_N]
    first_N = np.zeros(len(tags_N), dtype=bool)
    first_N[(np.cumsum(counts_B) - counts_B)[np.asarray(counts_B) > 0]] = True
    goes_on_N = np.zeros(len(tags_N), dtype=bool)
    goes_on_N[1:] = may_go_on_N[1:] & open_N[:-1] & (kind_N[1:] == kind_N[:-1]) & ~first_N[1:]
    may_begin_N = inside_N & np.asarray([begins is not False for begins, _ in place])[tags_N]
    (begin_E,) = np.nonzero(may_begin_N & ~goes_on_N)
    edges = np.append(np.flatnonzero(~goes_on_N), len(tags_N))
    end_E = edges[np.searchsorted(edges, begin_E, side="right")]
    ended_E: NDArray[np.bool_] = np.asarray([ends is not False for _, ends in place])[tags_N[end_E - 1]]
    found_E3: NDArray[np.int64] = np.stack([begin_E, end_E, kind_N[begin_E]], axis=1).astype(np.int64)
    kept_E3: NDArray[np.int64] = found_E3[ended_E]
    return kept_E3


def compute_entity_scores(
    predicted_N: NDArray[np.integer],
    gold_N: NDArray[np.integer],
    counts_B: NDArray[np.integer],
    scheme: Scheme,
) -> dict[str, float]:
    """F1, precision and recall, micro over entities of B rows of tags; 0 where there is nothing to divide by."""
    own, true = find_entity_spans(predicted_N, counts_B, scheme), find_entity_spans(gold_N, counts_B, scheme)
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
    """Entity F1, precision and recall, accuracy of words (all of decoded tags) and NLL (nats a word) of labelled rows.

    Args:
        logits_NC, labels_N: all words of B rows; a row has a label at each word or `UNLABELLED` at each.
        counts_B: words a row.
        labels: the run's tags, the order of C.
        covered_N: false for words that the model did not see (truncated): they are tagged O, count in accuracy and
            recall, and are left out of the NLL, as are words whose gold tag the model does not know (`MASKED`).

    Raises:
        ValueError: no row is labelled, or a row is labelled in part.
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
    told_N = seen_N & (kept[np.arange(len(gold_N)), gold_N] > MASKED)
    predicted_N = decode_tags(replace_unseen(kept, seen_N, scheme), counts_B, scheme)
    return {
        **compute_entity_scores(predicted_N, gold_N, counts_B, scheme),
        "accuracy": float((predicted_N == gold_N).mean()),
        "nll": float(nll_N[told_N].mean()) if told_N.any() else float("nan"),
    }
