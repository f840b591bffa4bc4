"""Linear-chain CRFs over the words of a row (Lafferty et al. 2001; with neural emissions arXiv:1603.01360).

Decision record: a row of tags scores ``start[y_1] + sum_n e_n[y_n] + sum_n T[y_n-1, y_n] + end[y_N]``. All that the
house asks of a tagger is logits of each word, so a chain is turned into such:

- *Marginals*, ``log p(y_n | x) + log Z``: what divergences compare with teachers, whose tags need no chain, and what is
  scored and answered. Distilling posteriors of a chain is that of Wang et al. (arXiv:2004.03846).
- *Given the tags before*, ``log p(y_n | y_<n, x) + constant``: the cross-entropies of a row's gold tags add up to its
  negative log-likelihood, ``-log p(y | x)``, so the gold term stays a sum over units. Words without a gold tag are
  summed over, as in a chain that is labelled in part.
- The *best row* of tags (Viterbi): where its tag of a word is not the word's most probable one, the two tags exchange
  their logits, so that whoever takes the most probable tag of each word reads the best row.

Both directions, and the one that knows the tags before, take a step of the recursion at once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.distill.signals import MASKED, UNLABELLED


def compute_marginals(
    emissions_NC: torch.Tensor, counts_B: NDArray[np.int64], scores_XC: torch.Tensor
) -> torch.Tensor:
    """Return ``log p(y_n = c | x)`` of each word plus a constant of its row, ``[N, C]``.

    Args:
        emissions_NC: Scores of each word's tags, row after row.
        counts_B: Words of each row.
        scores_XC: ``[C + 2, C]``: of each tag after each; of tags at the beginning of a row; of those at its end.
    """
    return _run(torch.logsumexp, emissions_NC, counts_B, scores_XC)[0]


def condition_on_gold(
    emissions_NC: torch.Tensor,
    counts_B: NDArray[np.int64],
    scores_XC: torch.Tensor,
    labels_N: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the marginals, and ``log p(y_n = c | gold tags before, x)`` plus a constant of each word.

    Args:
        emissions_NC: As for `compute_marginals`.
        counts_B: As for `compute_marginals`.
        scores_XC: As for `compute_marginals`.
        labels_N: Gold tags, or `UNLABELLED`.
    """
    gold_N1 = labels_N.clamp_min(0).unsqueeze(1)
    other_NC = torch.ones_like(emissions_NC, dtype=torch.bool).scatter(1, gold_N1, value=False)
    barred_NC = torch.where(other_NC & (labels_N != UNLABELLED).unsqueeze(1), MASKED, 0.0)
    found = _run(torch.logsumexp, emissions_NC, counts_B, scores_XC, barred_NC)
    return found[0], found[1]


def follow_best_row(
    logits_NC: torch.Tensor, emissions_NC: torch.Tensor, counts_B: NDArray[np.int64], scores_XC: torch.Tensor
) -> torch.Tensor:
    """Return the marginals such that the most probable tag of each word is that of its row's best tags.

    Args:
        logits_NC: From `compute_marginals`; other arguments as there.
        emissions_NC: See there.
        counts_B: See there.
        scores_XC: See there.
    """
    best_N1 = _run(torch.amax, emissions_NC, counts_B, scores_XC)[0].argmax(dim=1, keepdim=True)
    top_N1 = logits_NC.argmax(dim=1, keepdim=True)
    at_best_N1, at_top_N1 = logits_NC.gather(1, best_N1), logits_NC.gather(1, top_N1)
    return logits_NC.scatter(1, top_N1, at_best_N1).scatter(1, best_N1, at_top_N1)


def estimate_scores(
    labels_N: NDArray[np.int64], counts_B: NDArray[np.int64], classes: int
) -> NDArray[np.float32]:
    """Return ``log p(tag | tag before)`` of labelled rows, ``[C + 2, C]``, with one more of each pair.

    That is the most likely chain of words that tell nothing. One that begins there need not learn with a checkpoint's
    small learning rate what counting tells.

    Args:
        labels_N: Gold tags, or `UNLABELLED`.
        counts_B: Words of each row.
        classes: C.
    """
    first_N = np.zeros(len(labels_N), dtype=bool)
    first_N[(np.cumsum(counts_B) - counts_B)[counts_B > 0]] = True
    last_N = np.roll(first_N, -1)
    known_N = labels_N != UNLABELLED
    # Row and column C are what stands before a row's first word and behind its last one.
    pairs = np.ones((classes + 1, classes + 1))
    follows_N = ~first_N[1:] & known_N[1:] & known_N[:-1]
    np.add.at(pairs, (labels_N[:-1][follows_N], labels_N[1:][follows_N]), 1)
    np.add.at(pairs, (classes, labels_N[first_N & known_N]), 1)
    np.add.at(pairs, (labels_N[last_N & known_N], classes), 1)
    pairs[classes, classes] = 0
    told = np.log(pairs / pairs.sum(axis=1, keepdims=True), where=pairs > 0, out=np.zeros_like(pairs))
    return np.concatenate([told[:, :classes], told[None, :classes, classes]]).astype(np.float32)


def _run(
    reduce: Callable[..., torch.Tensor],
    emissions_NC: torch.Tensor,
    counts_B: NDArray[np.int64],
    scores_XC: torch.Tensor,
    *barred_NC: torch.Tensor,
) -> torch.Tensor:
    """Return for each word and tag the reduced score of all rows of tags that have it there, ``[K, N, C]``.

    Args:
        reduce: `torch.logsumexp` or `torch.amax`.
        emissions_NC: As for `compute_marginals`.
        counts_B: As for `compute_marginals`.
        scores_XC: As for `compute_marginals`.
        *barred_NC: For each of K - 1 further results: what is added to a word's tags as the words behind it see them.
    """
    if not len(emissions_NC):
        return (emissions_NC + 0.0 * scores_XC[:1]).expand(1 + len(barred_NC), -1, -1)
    device, order_B = emissions_NC.device, np.argsort(-counts_B, kind="stable")
    rank_B = np.argsort(order_B)
    row_N = np.repeat(np.arange(len(counts_B)), counts_B)
    first_N = (np.cumsum(counts_B) - counts_B)[row_N]
    place_N = np.arange(len(row_N)) - first_N
    mirror_N = counts_B[row_N] - 1 - place_N
    # Rows stand in the order of their lengths, so that a step reads the first ones, which still have a word.
    rows_W = np.bincount(place_N)
    begins_W = np.cumsum(rows_W) - rows_W
    read_N, back_N = begins_W[place_N] + rank_B[row_N], begins_W[mirror_N] + rank_B[row_N]
    unit_N = torch.from_numpy(np.argsort(read_N)).to(device)
    mirrored_N = torch.from_numpy((first_N + mirror_N)[np.argsort(read_N)]).to(device)

    classes, ahead = scores_XC.shape[1], 1 + len(barred_NC)
    step_CC, begin_C, end_C = scores_XC[:classes], scores_XC[classes], scores_XC[classes + 1]
    steps_R1CC = torch.stack([*[step_CC] * ahead, step_CC.T]).unsqueeze(1)
    sizes = rows_W.tolist()
    forth_NC, back_NC = emissions_NC[unit_N], emissions_NC[mirrored_N]
    emissions = torch.stack([*[forth_NC] * ahead, back_NC]).split(sizes, dim=1)
    barred = None
    if barred_NC:
        free_NC = torch.zeros_like(forth_NC)
        barred = torch.stack([free_NC, *(bar_NC[unit_N] for bar_NC in barred_NC), free_NC]).split(
            sizes, dim=1
        )
    reached = [emissions[0] + torch.stack([*[begin_C] * ahead, end_C]).unsqueeze(1)]
    for t in range(1, len(sizes)):
        before_RBC = reached[-1] if barred is None else reached[-1] + barred[t - 1]
        before_RBC = before_RBC[:, : sizes[t]]
        reached.append(reduce(before_RBC.unsqueeze(-1) + steps_R1CC, dim=-2) + emissions[t])
    reached_RNC = torch.cat(reached, dim=1)
    forth_N, behind_N = torch.from_numpy(read_N).to(device), torch.from_numpy(back_N).to(device)
    return reached_RNC[:ahead, forth_N] + reached_RNC[ahead, behind_N] - emissions_NC
