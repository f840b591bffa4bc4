"""Divide the teachers into parts: each with a target, and the student's logits on the support of that target.

Decision record:

- Teachers that know all columns are mixed into one target, as `raykd.distill.targets` says, and so are teachers of the
  same subset.
- A teacher whose answer has a support of its own (a subset, its k tokens, its draw, what another vocabulary shares)
  cannot be mixed with others before the comparison. It is a part, and the divergences of the parts are summed with the
  teachers' weights.
- On a subset the student's softmax is renormalised, so the student is not punished for labels that the teacher does not
  know.
- With a single part nothing is multiplied, so that classification is computed as without parts.
- Each of several teachers knows only some units (its language), so a part of one teacher holds only the units where it
  has weight: four monolingual teachers then cost what one does. All of them read the student through one gather,
  because the gradient of each would otherwise be as large as the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import torch

from raykd.devices import copy_to_device
from raykd.distill.divergences.base import DivergenceBase
from raykd.distill.signals import UNLABELLED, Signals, Support, Target, VocabularySignal
from raykd.distill.targets import LOG_FLOOR, Mixture, centre_logits, check_alignment, combine_logits, soften
from raykd.distill.vocabulary_signals import SparseSignal, WholeSignal


@dataclass(frozen=True)
class TargetPart:
    """One target, and the student on its support.

    Attributes:
        student_NK: The student's logits.
        target: The teachers' target.
        support: Over what the two are compared.
        share_N: The part's weight per unit; None where it is the only part.
        units_N: Which units these are, rising; None for all of them.
        members: Its teachers, by their places.
        silent_N: Which of its units it does not teach although it covers them; None for none.
        temperature_N: By which the logits on both sides were divided; None where one temperature serves all.
    """

    student_NK: torch.Tensor
    target: Target
    support: Support
    share_N: torch.Tensor | None
    units_N: torch.Tensor | None = None
    members: tuple[int, ...] = ()
    silent_N: torch.Tensor | None = None
    temperature_N: torch.Tensor | None = None


def make_parts(
    logits_NC: torch.Tensor,
    signals: Signals,
    weights_MN: torch.Tensor,
    temperature: float,
    mixture: Mixture,
) -> list[TargetPart]:
    """Divide the teachers into parts, whose shares of a unit sum to 1 where it is covered.

    Args:
        logits_NC: The student's, float32.
        signals: The teachers' answers.
        weights_MN: From the weighting.
        temperature: T.
        mixture: How teachers of one part are averaged.

    Raises:
        ValueError: Widths disagree, an answer does not hold the temperature, or answers that are not whole are to be
            mixed geometrically.
    """
    has_logits = signals.logits_MNC.shape[-1] > 0
    if signals.plain and has_logits:
        target = combine_logits(signals.logits_MNC, weights_MN, temperature, mixture)
        check_alignment(logits_NC, target)
        everyone = tuple(range(len(signals.teachers)))
        target = replace(target, labels_N=signals.labels_N)
        return [TargetPart(logits_NC, target, "whole", None, members=everyone)]
    groups: dict[object, list[int]] = {}
    for m in range(len(signals.teachers)):
        groups.setdefault(_group(signals, m), []).append(m)
    rows = _gather_student(logits_NC, _find_own_units(signals, weights_MN, list(groups.values())))
    parts = []
    for members in groups.values():
        answer = signals.vocabulary_signal(members[0])
        if answer is None and not has_logits:
            continue  # a language model that was asked for no row of the batch
        student_NC, units_N = rows.get(members[0], (logits_NC, None))
        # Row by row: a list as an index is an array of the host, whose copy would wait for the device.
        weights = torch.stack([weights_MN[m] for m in members])
        weights = weights if units_N is None else weights[:, units_N]
        share_N = weights.sum(dim=0)
        inside = torch.where(share_N > 0.0, weights / share_N, 0.0)
        if not _has_own_support(answer):
            made = _make_whole(logits_NC, signals, members, inside, temperature, mixture)
        elif mixture != "arithmetic":
            raise ValueError(
                f"teacher {signals.teachers[members[0]]}: a {mixture} mixture needs all logits of one vocabulary"
            )
        else:
            assert answer is not None
            answer = answer if units_N is None else answer.at(units_N)
            made = _make_reduced(student_NC, answer, signals.teachers[members[0]], inside, temperature)
        student_NK, target, support = made
        if not _has_own_support(answer):
            target = replace(target, labels_N=_find_labels(signals, members[0]))
        own_N = None if len(groups) == 1 else share_N
        parts.append(TargetPart(student_NK, target, support, own_N, units_N, tuple(members)))
    # Parts without units are dropped; one is kept where there is no other, for the graph.
    return [part for part in parts if len(part.target.covered_N)] or parts[:1]


def silence_unsure(
    parts: Sequence[TargetPart], labels_N: torch.Tensor, least_confidence: float
) -> list[TargetPart]:
    """Return the parts such that each is silent where a unit has no gold label and no answer this probability."""
    made = []
    for part in parts:
        own_N = labels_N if part.units_N is None else labels_N[part.units_N]
        unsure_N = part.target.p_NK.max(dim=-1).values < least_confidence
        made.append(replace(part, silent_N=unsure_N & (own_N == UNLABELLED)))
    return made


def find_silent(parts: Sequence[TargetPart], weights_MN: torch.Tensor) -> torch.Tensor | None:
    """Return which units each teacher does not teach since its part is silent, ``[M, N]``; None for none."""
    if all(part.silent_N is None for part in parts):
        return None
    silent_MN = torch.zeros_like(weights_MN, dtype=torch.bool)
    for part in parts:
        units_N = slice(None) if part.units_N is None else part.units_N
        if part.silent_N is not None:
            for m in part.members:
                silent_MN[m, units_N] = part.silent_N
    return silent_MN


def sum_over_parts(
    divergence: DivergenceBase,
    parts: Sequence[TargetPart],
    temperature: float,
    labels_N: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum a divergence over the parts with their shares.

    Args:
        divergence: The divergence.
        parts: From `make_parts`; none where no teacher was asked for the batch.
        temperature: T.
        labels_N: Of the units, whose number they give.

    Returns:
        The sum ``[N]``, and which units any part covers, ``[N]``.

    Raises:
        ValueError: The divergence does not serve a part's support.
    """
    total_N: torch.Tensor | None = None
    covered_N: torch.Tensor | None = None
    for part in parts:
        if not divergence.serves(part.support):
            raise ValueError(f"{divergence.kind} cannot be computed over the support {part.support!r}")
        loss_N = divergence.per_unit(part.student_NK, part.target, temperature)
        if part.silent_N is not None:
            loss_N = torch.where(part.silent_N, 0.0, loss_N)
        if part.temperature_N is not None:
            loss_N = loss_N * part.temperature_N**divergence.temperature_power
        if part.share_N is not None:
            loss_N = torch.where(part.target.covered_N, part.share_N * loss_N, 0.0)
        here_N = part.target.covered_N
        if part.units_N is not None:
            loss_N = torch.zeros_like(labels_N, dtype=loss_N.dtype).index_copy(0, part.units_N, loss_N)
            here_N = torch.zeros_like(labels_N, dtype=torch.bool).index_copy(0, part.units_N, here_N)
        total_N = loss_N if total_N is None else total_N + loss_N
        covered_N = here_N if covered_N is None else covered_N | here_N
    if total_N is None or covered_N is None:
        return torch.zeros_like(labels_N, dtype=torch.float32), torch.zeros_like(labels_N, dtype=torch.bool)
    return total_N, covered_N


def _group(signals: Signals, m: int) -> object:
    """Return a key that is equal for teachers that can be mixed."""
    answer, columns = signals.vocabulary_signal(m), signals.columns(m)
    if answer is not None:
        return None if answer.support == "whole" else ("alone", m)
    return None if columns is None else tuple(sorted(columns))


def _find_labels(signals: Signals, m: int) -> torch.Tensor:
    """Return ``[N]``: the gold label among the columns that a teacher knows; `UNLABELLED` where it is not there."""
    columns = signals.columns(m)
    if columns is None:
        return signals.labels_N
    place_C = torch.full((max(columns) + 1,), UNLABELLED)
    place_C[sorted(columns)] = torch.arange(len(columns))
    place_C = copy_to_device(place_C, signals.labels_N.device)
    known_N = (signals.labels_N >= 0) & (signals.labels_N < len(place_C))
    return torch.where(known_N, place_C[signals.labels_N.clamp(0, len(place_C) - 1)], UNLABELLED)


def _has_own_support(answer: VocabularySignal | None) -> bool:
    return answer is not None and answer.support != "whole"


def _find_own_units(
    signals: Signals, weights_MN: torch.Tensor, groups: Sequence[Sequence[int]]
) -> dict[int, torch.Tensor]:
    """Return, where there are several parts, the units of each that has a support of its own, by its teacher."""
    if len(groups) == 1:
        return {}
    alone = [members[0] for members in groups if _has_own_support(signals.vocabulary_signal(members[0]))]
    return {m: _find_units(signals, weights_MN, m) for m in alone}


def _find_units(signals: Signals, weights_MN: torch.Tensor, m: int) -> torch.Tensor:
    """Return the positions of the units for which a teacher has weight; the host knows them where it was prepared."""
    known_MN = signals.on_host.eligible_MN
    if known_MN is None:
        return weights_MN[m].nonzero().squeeze(1)
    return copy_to_device(torch.from_numpy(np.flatnonzero(known_MN[m].numpy())), weights_MN.device)


def _gather_student(
    logits_NC: torch.Tensor, units: Mapping[int, torch.Tensor]
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Return the student's logits at the units of each teacher that has not all of them, and those units."""
    some = {m: units_N for m, units_N in units.items() if len(units_N) < len(logits_NC)}
    if not some:
        return {}
    picked = logits_NC.index_select(0, torch.cat(list(some.values())))
    pieces = torch.split(picked, [len(units_N) for units_N in some.values()])
    return {m: (piece, some[m]) for m, piece in zip(some, pieces, strict=True)}


Made: TypeAlias = "tuple[torch.Tensor, Target, Support]"
"""The student's logits, the target and its support."""


def _make_whole(
    logits_NC: torch.Tensor,
    signals: Signals,
    members: list[int],
    weights_MN: torch.Tensor,
    temperature: float,
    mixture: Mixture,
) -> Made:
    columns = signals.columns(members[0])
    index = None if columns is None else copy_to_device(torch.tensor(sorted(columns)), logits_NC.device)
    if len(members) == 1 and (answer := signals.vocabulary_signal(members[0])) is not None:
        target = _make_single_target(answer.logits(), weights_MN, temperature)
        check_alignment(logits_NC, target)
        return logits_NC, target, "whole"
    if index is None and (routed_NV := _route_logits(signals, members, weights_MN)) is not None:
        target = _make_single_target(routed_NV, weights_MN.sum(dim=0, keepdim=True), temperature)
        check_alignment(logits_NC, target)
        return logits_NC, target, "whole"
    rows = []
    for m in members:
        answer = signals.vocabulary_signal(m)
        known_NC = signals.logits_MNC[m] if answer is None else answer.logits()
        assert known_NC is not None
        rows.append(known_NC if index is None else known_NC[:, index])
    target = combine_logits(torch.stack(rows), weights_MN, temperature, mixture)
    student_NK = logits_NC if index is None else logits_NC[:, index]
    check_alignment(student_NK, target)
    return student_NK, target, "whole"


def _route_logits(signals: Signals, members: list[int], weights_MN: torch.Tensor) -> torch.Tensor | None:
    """Return each unit's logits from the one teacher that has weight for it; None where several have."""
    answers = [signals.vocabulary_signal(m) for m in members]
    known_MN = signals.on_host.eligible_MN
    used_MN = weights_MN > 0.0 if known_MN is None else known_MN[members]
    if any(answer is None for answer in answers) or bool((used_MN.sum(dim=0) > 1).any()):
        return None
    routed_NV: torch.Tensor | None = None
    for answer, used_N in zip(answers, used_MN, strict=True):
        assert answer is not None
        units_N = copy_to_device(used_N.nonzero().squeeze(1), weights_MN.device)
        logits_UV = answer.at(units_N).logits()
        assert logits_UV is not None
        if routed_NV is None:
            routed_NV = logits_UV.new_zeros(len(used_N), logits_UV.shape[1])
        routed_NV.index_copy_(0, units_N, logits_UV)
    return routed_NV


def _make_reduced(
    logits_NC: torch.Tensor,
    answer: VocabularySignal,
    teacher: str,
    weights_1N: torch.Tensor,
    temperature: float,
) -> Made:
    # Its function with a gradient of its own is a class of torch's; a configuration is read without torch.
    from raykd.distill.support import gather_columns, gather_support, sum_columns

    if isinstance(answer, SparseSignal):
        _check_vocabulary(answer.vocab, logits_NC.shape[1], teacher)
        p_NK, logp_NK = answer.target(temperature)
        student_NK = answer.merge(gather_support(logits_NC, answer.ids_NK, temperature), temperature)
        return student_NK, _make_target(p_NK, logp_NK, weights_1N, temperature), answer.support
    if not isinstance(answer, WholeSignal):
        raise TypeError(f"teacher {teacher} answered with {type(answer).__name__}")
    if answer.columns is not None:
        _check_vocabulary(len(answer.columns.student_S), logits_NC.shape[1], teacher)
        reduce = partial(sum_columns, width=answer.columns.width, temperature=temperature)
        student_NK = reduce(logits_NC, answer.columns.student_S)
        with torch.no_grad():
            reduced_NK = reduce(answer.logits(), answer.columns.teacher_V)
    elif answer.ids is not None:
        ids = answer.ids
        _check_vocabulary(ids.student_vocab, logits_NC.shape[1], teacher)
        student_NK = gather_columns(logits_NC, ids.student_K, ids.student_rest, temperature)
        with torch.no_grad():
            reduced_NK = gather_columns(answer.logits(), ids.teacher_K, ids.teacher_rest, temperature)
    else:
        return logits_NC, _make_single_target(answer.logits(), weights_1N, temperature), answer.support
    with torch.no_grad():
        logp_NK = (reduced_NK / temperature).log_softmax(dim=-1).clamp_min(LOG_FLOOR)
        target = _make_target(logp_NK.exp(), logp_NK, weights_1N, temperature)
    return student_NK, target, answer.support


def _make_single_target(
    logits_NV: torch.Tensor | None, weights_1N: torch.Tensor, temperature: float
) -> Target:
    """Compute what `combine_logits` gives for one teacher with a third of its memory, the peak over a vocabulary."""
    assert logits_NV is not None
    with torch.no_grad():
        logp_NV = soften(logits_NV, temperature).clamp_min_(LOG_FLOOR)
        made = _make_target(logp_NV.exp(), logp_NV, weights_1N, temperature)
        return replace(made, make_logits=lambda: centre_logits(logits_NV))


def _make_target(
    p_NK: torch.Tensor, logp_NK: torch.Tensor, weights_1N: torch.Tensor, temperature: float
) -> Target:
    """Make a target over some tokens and a tail; log-probabilities take the place of logits."""
    return Target(
        p_NK=p_NK,
        logp_NK=logp_NK,
        make_logits=lambda: logp_NK,
        weights_MN=weights_1N,
        covered_N=(weights_1N > 0.0).any(dim=0),
        temperature=temperature,
    )


def _check_vocabulary(wanted: int, got: int, teacher: str) -> None:
    if wanted != got:
        raise ValueError(f"teacher {teacher} answered over {wanted} tokens, the student has {got}")
