"""Turn an answer over a vocabulary into the tensors of its signal; only this module knows which form becomes which."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.answer import Answer, DenseAnswer, HiddenAnswer, SampledAnswer, TopKAnswer
from raykd.answers.cuts import CutAnswer
from raykd.devices import copy_to_device
from raykd.distill.logitmap import PLAIN, LogitMap
from raykd.distill.signals import VocabularySignal
from raykd.distill.vocabulary_signals import (
    CutSignal,
    IdMap,
    SampledSignal,
    TokenColumns,
    TopKSignal,
    WholeSignal,
)


def to_vocabulary_signal(
    answer: Answer,
    device: torch.device | str | None = None,
    *,
    weight_VD: torch.Tensor | None = None,
    bias_V: torch.Tensor | None = None,
    after: LogitMap = PLAIN,
    ids: IdMap | None = None,
    columns: TokenColumns | None = None,
    own_vocabulary: bool = False,
) -> VocabularySignal:
    """Return an answer as the objective reads it.

    Args:
        answer: Its units are already the student's (`Answer.take`).
        device: Of the tensors.
        weight_VD: The teacher's output head, for hidden states, on the same device.
        bias_V: Of that head.
        after: What the teacher does to the product of both.
        ids: For a teacher whose tokens are all the student's, which they are; None for the same vocabulary.
        columns: For a teacher of other tokens, what is compared.
        own_vocabulary: See `WholeSignal`.

    Raises:
        ValueError: Hidden states come without a head, or the vocabularies do not allow this form.
    """
    numbers: dict[str, Any] = {
        "entropy_N": _to_tensor(answer.entropy_N, device),
        "gold_ce_N": _to_tensor(None if answer.gold_logp_N is None else -answer.gold_logp_N, device),
    }
    if isinstance(answer, DenseAnswer):
        rows_ND = copy_to_device(torch.from_numpy(answer.logits_NC), device)
        return WholeSignal(
            rows_ND=rows_ND, ids=ids, columns=columns, own_vocabulary=own_vocabulary, **numbers
        )
    if isinstance(answer, HiddenAnswer):
        if weight_VD is None:
            raise ValueError("hidden states need the teacher's output head: give weight_VD")
        return WholeSignal(
            rows_ND=copy_to_device(torch.from_numpy(answer.states_NH), device),
            weight_VD=weight_VD,
            bias_V=bias_V,
            after=after,
            ids=ids,
            columns=columns,
            own_vocabulary=own_vocabulary,
            **numbers,
        )
    if own_vocabulary or not isinstance(answer, TopKAnswer | SampledAnswer):
        raise ValueError(f"answers of kind {answer.kind} cannot be compared by rank: all logits are needed")
    if isinstance(answer, TopKAnswer):
        return TopKSignal(
            ids_NK=_translate_ids(answer.ids_NK, ids, device),
            vocab=answer.vocab if ids is None else ids.student_vocab,
            logits_NK=copy_to_device(torch.from_numpy(answer.logits_NK), device).float(),
            lse_NG=copy_to_device(torch.from_numpy(answer.lse_NG), device),
            temperatures=answer.temperatures,
            **numbers,
        )
    if ids is not None and not ids.total:
        raise ValueError("sampled tokens of another vocabulary: those that do not map would bias the target")
    return SampledSignal(
        ids_NK=_translate_ids(answer.ids_NJ, ids, device),
        vocab=answer.vocab if ids is None else ids.student_vocab,
        shares_NK=copy_to_device(torch.from_numpy(answer.counts_NJ), device).float() / answer.draws,
        temperature=answer.temperature,
        **numbers,
    )


def to_cut_signal(cut: CutAnswer, vocab: int, device: torch.device | str | None = None) -> CutSignal:
    """Return a top-k answer over the tokens of a student that cuts texts otherwise (`vocab` of them)."""
    answer = cut.answer

    def tensor(column: NDArray[Any]) -> torch.Tensor:
        return copy_to_device(torch.from_numpy(column), device)

    return CutSignal(
        entropy_N=_to_tensor(answer.entropy_N, device),
        gold_ce_N=_to_tensor(None if answer.gold_logp_N is None else -answer.gold_logp_N, device),
        ids_NK=tensor(cut.ids_NJ),
        vocab=vocab,
        logits_NK=tensor(answer.logits_NK).float(),
        column_NK=tensor(cut.column_NK),
        inside_N=tensor(cut.inside_N),
        group_NJ=tensor(cut.group_NJ),
        width=cut.width,
        lse_NG=tensor(answer.lse_NG),
        temperatures=answer.temperatures,
    )


def _to_tensor(column: NDArray[np.float32] | None, device: torch.device | str | None) -> torch.Tensor | None:
    return None if column is None else copy_to_device(torch.from_numpy(column), device)


def _translate_ids(
    ids_NK: NDArray[np.int32], ids: IdMap | None, device: torch.device | str | None
) -> torch.Tensor:
    own_NK = copy_to_device(torch.from_numpy(ids_NK), device).long()
    if ids is None:
        return own_NK
    return torch.where(own_NK >= 0, ids.student_of_V.to(own_NK.device)[own_NK.clamp_min(0)], -1)
