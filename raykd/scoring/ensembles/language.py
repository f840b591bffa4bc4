"""Measure what each language model adds to the combined NLL of the validation targets, per token.

Decision record: answers hold a few tokens of a vocabulary and the log-probability of the token that the text has. That
is enough for the arithmetic mixture: its probability of the token is the weighted mean of the teachers'. It needs
teachers that cut every target into the same tokens, which is checked by number and place. The geometric mixture needs
whole distributions, so it is not measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.answer import Answer, DenseAnswer
from raykd.answers.codec import decode_answers
from raykd.answers.source import AnswerSlots
from raykd.distill.signals import UNLABELLED, Signals, VocabularySignal
from raykd.distill.weighting import Weighting
from raykd.ensemble.contributions import compute_contributions
from raykd.ensemble.resampling import ScoreParts
from raykd.ensemble.shapley import plan_game
from raykd.report.ensembles.report import EnsembleReport

UNKNOWN = 1e4
"""What stands for the entropy of a unit that a teacher does not cover; it has no weight there."""


def measure_language_models(
    report: EnsembleReport,
    answers: Sequence[AnswerSlots],
    spoken: Sequence[frozenset[str] | None],
    languages_B: Sequence[str],
    weighting: Weighting,
) -> EnsembleReport | None:
    """Return the report with each teacher's part of the mixture's NLL; None where tokens differ between teachers.

    Args:
        report: What is known so far.
        answers: Each teacher's answers to the validation rows.
        spoken: What each teacher was declared for.
        languages_B: Language of each row.
        weighting: The run's.
    """
    read = [decode_answers(slots.bodies) for slots in answers]
    counts_B: NDArray[np.int64] = np.max([units_B for _, units_B in read], axis=0)
    vocabulary = _find_common_vocabulary([answer for answer, _ in read])
    if vocabulary is None or not _have_equal_tokens(read, counts_B):
        return None
    names = tuple(slots.teacher for slots in answers)
    signals = _stack(names, spoken, read, counts_B, languages_B)
    game = plan_game(len(names))
    row_N = np.repeat(np.arange(len(counts_B)), counts_B)
    tops = [
        np.bincount(row_N, _mix_gold(signals, weighting, members_M, vocabulary), minlength=len(counts_B))
        for members_M in game.members_SM
    ]
    parts = ScoreParts(
        np.stack(tops),
        np.broadcast_to(counts_B.astype(np.float64), (len(tops), len(counts_B))),
        np.arange(len(counts_B)),
        np.zeros(len(counts_B), np.int64),
        tuple(languages_B),
    )
    answered = {
        x: [bool((units_B[[code == x for code in languages_B]] > 0).any()) for _, units_B in read]
        for x in parts.languages
    }
    found = compute_contributions(game, parts, names, ("",), answered)
    means = parts.score_mean()[:, 0]
    return replace(
        report,
        metric="nll",
        coalitions=len(game.members_SM),
        exact=game.exact,
        base=-float(means[-1]),
        guess=-float(means[0]),
        contributions=tuple(c for c in found if c.group != "class"),
    )


def _find_common_vocabulary(answers: Sequence[Answer | None]) -> int | None:
    """Return the size of the vocabulary that all answers are over; None where it differs or is not known."""
    sizes = {
        answer.logits_NC.shape[1] if isinstance(answer, DenseAnswer) else getattr(answer, "vocab", None)
        for answer in answers
        if answer is not None and answer.gold_logp_N is not None
    }
    known = all(answer is not None and answer.gold_logp_N is not None for answer in answers)
    return sizes.pop() if known and len(sizes) == 1 else None


def _have_equal_tokens(
    read: Sequence[tuple[Answer | None, NDArray[np.int64]]], counts_B: NDArray[np.int64]
) -> bool:
    """Return whether teachers that answer the same row have the same number of tokens, at the same places."""
    starts_B = np.cumsum(counts_B) - counts_B
    places_N = np.full(int(counts_B.sum()), -2, dtype=np.int64)
    for answer, units_B in read:
        asked_B = units_B > 0
        if answer is None or (units_B[asked_B] != counts_B[asked_B]).any():
            return False
        if answer.offsets_N is None:
            continue
        at = _place_units(starts_B, units_B)
        if ((places_N[at] != -2) & (places_N[at] != answer.offsets_N)).any():
            return False
        places_N[at] = answer.offsets_N
    return True


def _place_units(starts_B: NDArray[np.int64], units_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions of a teacher's units among those of all rows."""
    first_B = np.cumsum(units_B) - units_B
    within = np.arange(int(units_B.sum())) - np.repeat(first_B, units_B)
    return np.asarray(np.repeat(starts_B, units_B) + within)


def _stack(
    names: tuple[str, ...],
    spoken: Sequence[frozenset[str] | None],
    read: Sequence[tuple[Answer | None, NDArray[np.int64]]],
    counts_B: NDArray[np.int64],
    languages_B: Sequence[str],
) -> Signals:
    """Return likelihoods and entropies of all units as weightings read them, without gold labels."""
    starts_B, units = np.cumsum(counts_B) - counts_B, int(counts_B.sum())
    covered_MN = np.zeros((len(names), units), dtype=bool)
    signals = []
    for m, (answer, units_B) in enumerate(read):
        assert answer is not None and answer.gold_logp_N is not None
        at = _place_units(starts_B, units_B)
        ce_N, entropy_N = np.full(units, UNKNOWN, np.float32), np.full(units, UNKNOWN, np.float32)
        covered_MN[m, at], ce_N[at] = answer.covered_N, -answer.gold_logp_N
        if answer.entropy_N is not None:
            entropy_N[at] = answer.entropy_N
        sent = None if answer.entropy_N is None else torch.from_numpy(entropy_N)
        signals.append(VocabularySignal(entropy_N=sent, gold_ce_N=torch.from_numpy(ce_N)))
    return Signals(
        names,
        tuple(spoken),
        torch.zeros((len(names), units, 0)),
        torch.from_numpy(covered_MN),
        torch.full((units,), UNLABELLED),
        tuple(np.repeat(np.asarray(languages_B, dtype=object), counts_B).tolist()),
        vocabulary_M=tuple(signals),
    )


def _mix_gold(
    signals: Signals, weighting: Weighting, members_M: NDArray[np.bool_], vocabulary: int
) -> NDArray[np.float64]:
    """Return ``[N]``: the mixture's log-probability of the token that the text has; a guess where nobody covers it."""
    covered_MN = signals.covered_MN & torch.from_numpy(np.asarray(members_M)).unsqueeze(1)
    weights_MN = weighting.weights(replace(signals, covered_MN=covered_MN, eligible_MN=None)).double()
    logp_MN = torch.stack(
        [-s.gold_ce_N.double() for s in signals.vocabulary_M if s and s.gold_ce_N is not None]
    )
    mixed_N = torch.logsumexp(weights_MN.log() + logp_MN, dim=0)
    guess_N = torch.full_like(mixed_N, -math.log(vocabulary))
    return np.asarray(torch.where(weights_MN.sum(dim=0) > 0, mixed_N, guess_N).numpy())
