"""Entities of tagged words: decoding to tags that may follow each other, and entity F1.

Decision record: all systems are decoded by the same constrained Viterbi, so that none gains by repair, and a row of
decoded tags is always one that strict matching accepts. All rows take a step at once, the longest first, so the loop
is over the longest row and not over words. Precision, recall and F1 are seqeval's in strict mode, micro over entities;
the caller takes languages apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from raykd.distill.signals import MASKED, UNLABELLED
from raykd.tasks.metrics import log_softmax
from raykd.tasks.schemes import Scheme, SchemeName, parse


def transitions(scheme: Scheme) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
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


def decode(
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
    allowed_CC, begins_C, ends_C = transitions(scheme)
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


def entity_scores(
    predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], scheme: SchemeName
) -> dict[str, float]:
    """Precision, recall and F1, micro over entities, by seqeval in strict mode; 0 where there is nothing to divide."""
    from seqeval.metrics.v1 import precision_recall_fscore_support
    from seqeval.scheme import BILOU, IOB1, IOB2, IOBES

    # Tags of IO are IOB1's of texts in which no two entities of a type touch.
    kinds = {"IO": IOB1, "BIO": IOB2, "BILOU": BILOU, "BIOES": IOBES}
    precision, recall, f1, _ = precision_recall_fscore_support(
        [list(row) for row in gold],
        [list(row) for row in predicted],
        average="micro",
        scheme=kinds[scheme],
        zero_division=0,
    )
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}


def metrics(
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
            recall, and are left out of the NLL.

    Raises:
        ValueError: no row is labelled, or a row is labelled in part.
    """
    scheme = parse(labels)
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
    outside = np.where(np.arange(len(labels)) == scheme.outside, 0.0, MASKED)
    predicted_N = decode(np.where(seen_N[:, None], kept, outside), counts_B, scheme)
    names, edges = np.asarray(scheme.tags), np.cumsum(counts_B)[:-1]
    scores = entity_scores(
        [row.tolist() for row in np.split(names[predicted_N], edges)],
        [row.tolist() for row in np.split(names[gold_N], edges)],
        scheme.name,
    )
    return {
        "f1": scores["f1"],
        "precision": scores["precision"],
        "recall": scores["recall"],
        "accuracy": float((predicted_N == gold_N).mean()),
        "nll": float(nll_N[seen_N].mean()) if seen_N.any() else float("nan"),
    }
