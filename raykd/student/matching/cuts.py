"""Build the map of a teacher's tokens onto a student that cuts texts into other tokens; see `raykd.answers.cuts`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.cuts import NONE, CutMap, build_cut_map
from raykd.distill.vocabulary_signals import TokenColumns
from raykd.models.vocabulary import count_token_ids
from raykd.tasks import Tokenizer
from raykd.tokenizers.canonical import BEGINS, WITHIN, list_canonical_tokens
from raykd.tokenizers.cutting import Cut, make_cut


def map_cuts(teacher: Tokenizer, student: Tokenizer, ids_T: NDArray[np.int32]) -> CutMap:
    """Return how the teacher's tokens are cut into the student's.

    Args:
        teacher: The teacher's tokenizer.
        student: The student's.
        ids_T: For each of the teacher's tokens the student's of the same string, or -1
            (`raykd.models.vocabulary.compute_overlap`).

    Raises:
        ModelError: As `raykd.tokenizers.canonical.detect_marking`.
    """
    pieces = _cut_all(teacher, make_cut(student), ids_T)
    keys = {
        i: key for i, key in list_canonical_tokens(student).by_id().items() if key[:1] in (BEGINS, WITHIN)
    }
    return build_cut_map(
        pieces, _find_groups(keys, make_cut(teacher), pieces, ids_T, count_token_ids(student))
    )


def make_columns(cuts: CutMap, device: torch.device) -> TokenColumns:
    """Return the columns over which all logits are compared: the groups in which a token of the teacher begins."""
    first_V = cuts.pieces_VL[:, 0].astype(np.int64)
    group_V = np.where(first_V >= 0, cuts.group_S[np.maximum(first_V, 0)], NONE)
    names = np.unique(group_V[group_V >= 0])
    column_S = np.full(len(cuts.group_S) + 1, len(names), dtype=np.int64)  # the last one is that of `NONE`
    column_S[names] = np.arange(len(names))
    teacher_V, student_S = (torch.from_numpy(column_S[group]).to(device) for group in (group_V, cuts.group_S))
    return TokenColumns(teacher_V, student_S, len(names))


def _cut_all(teacher: Tokenizer, cut: Cut, ids_T: NDArray[np.int32]) -> list[tuple[int, ...]]:
    """Return the student's pieces of each of the teacher's tokens."""
    pieces: list[tuple[int, ...]] = [(int(i),) if i >= 0 else () for i in ids_T]
    for i, key in list_canonical_tokens(teacher).by_id().items():
        if ids_T[i] < 0 and key[:1] in (BEGINS, WITHIN):
            pieces[i] = cut(key)
    return pieces


def _find_groups(
    keys: dict[int, bytes],
    cut: Cut,
    pieces: list[tuple[int, ...]],
    ids_T: NDArray[np.int32],
    size: int,
) -> NDArray[np.int64]:
    """Return for each of the student's tokens the one that stands for its group, or `NONE`.

    A token that the teacher has too stands for itself. Another one leads to the teacher's first token of its text, and
    from there, if the student has not got that, to the student's first piece of it, and so on.
    """
    group_S = np.full(size, NONE, dtype=np.int64)
    shared = ids_T[ids_T >= 0]
    group_S[shared] = shared
    for i in keys:
        at, seen = i, set[int]()
        while group_S[at] == NONE and at not in seen:
            seen.add(at)
            first = (cut(keys[at]) if at in keys else ())[:1]
            then = pieces[first[0]][:1] if first and first[0] < len(pieces) else ()
            at = then[0] if then else at
        group_S[list(seen)] = group_S[at]
    return group_S
