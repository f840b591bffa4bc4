"""Align two tokenisations of a text at the positions where both begin a token.

Decision record: a position of a language model is named by the character (code point) of the target text at
which its token begins, because that is what tokenizers of any kind have in common: the text before it. Blanks
belong to no position: byte-level BPE and SentencePiece put the blank into the token that follows, WordPiece
drops it, so an offset is moved past the blanks. Of several tokens that begin at one character (the bytes of a
character that is no token of its own, a blank and the word after it) only the first has seen no more than
the text before; the others have offset `NOWHERE` and match nothing. So the offsets of a row that are not
`NOWHERE` increase, and aligning a whole batch is one binary search over ``row * width + offset``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOWHERE = -1
"""The offset of a token that begins no position of its own, and the index of a unit that is not covered."""

# U+3000, the ideographic space, is the last character that `str.isspace` counts; one place more stands for all others.
_IS_BLANK = np.asarray([chr(i).isspace() for i in range(0x3001)] + [False])


def is_blank(text: str) -> NDArray[np.bool_]:
    """Return for each character of the text whether it is a blank (`str.isspace`)."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    blank: NDArray[np.bool_] = _IS_BLANK[np.minimum(points, len(_IS_BLANK) - 1)]
    return blank


def find_start_offsets(
    offsets_L2: object, text: str, special_L: object, *, ends: bool = True
) -> NDArray[np.int64]:
    """Return ``[L]``: where each token begins in ``text``, or `NOWHERE`.

    Args:
        offsets_L2: First and last + 1 character of each token, as a fast tokenizer gives them.
        text: The target text the offsets count in.
        special_L: True where a token is no token of the target: specials, a prompt, padding.
        ends: Whether the target is followed by an end token. It is the first special token after the target
            (the last of the row where the target is empty) and begins at ``len(text)``; where the row was
            truncated, so that the tokens do not reach the text's last character, it begins `NOWHERE`.
    """
    offsets_L2 = np.asarray(offsets_L2, dtype=np.int64).reshape(-1, 2)
    special_L = np.asarray(special_L, dtype=bool)
    found_L = np.full(len(special_L), NOWHERE, dtype=np.int64)
    at = np.flatnonzero(~special_L)
    if len(at):
        starts, stops = offsets_L2[at].T
        blanks = is_blank(text)
        # The first character from here on that is no blank; the text's length where there is none.
        solid = np.where(blanks, len(text), np.arange(len(text)))
        solid = np.append(np.minimum.accumulate(solid[::-1])[::-1], len(text))
        moved = solid[starts]
        before = np.concatenate([[0], np.maximum.accumulate(stops)[:-1]])
        own = starts >= before  # else it begins inside a character whose first bytes are another token
        own &= moved < len(text)  # else nothing but blanks follows, and the end begins there
        own[1:] &= moved[1:] > np.maximum.accumulate(moved)[:-1]
        found_L[at] = np.where(own, moved, NOWHERE)
    end = at[-1] + 1 if len(at) else len(special_L) - 1
    if ends and 0 <= end < len(special_L):
        reached = int(offsets_L2[at, 1].max()) if len(at) else 0
        found_L[end] = len(text) if reached >= len(text.rstrip()) else NOWHERE
    return found_L


def align_units(
    teacher_N: NDArray[np.int64],
    teacher_units_B: NDArray[np.int64],
    student_M: NDArray[np.int64],
    student_units_B: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return ``[M]``: the index of the teacher's unit at the offset of each of the student's units, or -1.

    Args:
        teacher_N: Offsets of the teacher's units of B rows, row after row; `find_start_offsets` without the tokens that
            are no units.
        teacher_units_B: The teacher's units per row.
        student_M: Offsets of the student's units, likewise.
        student_units_B: The student's units per row.

    Raises:
        ValueError: The counts do not fit the offsets, or the numbers of rows differ.
    """
    if len(teacher_units_B) != len(student_units_B):
        raise ValueError(f"{len(teacher_units_B)} rows of a teacher, {len(student_units_B)} of the student")
    if int(np.sum(teacher_units_B)) != len(teacher_N) or int(np.sum(student_units_B)) != len(student_M):
        raise ValueError("units a row do not add up to the number of offsets")
    units = np.flatnonzero(teacher_N > NOWHERE)
    if not len(units) or not len(student_M):
        return np.full(len(student_M), NOWHERE, dtype=np.int64)
    width = int(max(teacher_N.max(), student_M.max())) + 1
    keys = (np.repeat(np.arange(len(teacher_units_B)), teacher_units_B) * width + teacher_N)[units]
    if len(keys) > 1 and (np.diff(keys) <= 0).any():
        keys, first = np.unique(keys, return_index=True)
        units = units[first]
    wanted_M = np.repeat(np.arange(len(student_units_B)), student_units_B) * width + student_M
    place_M = np.minimum(np.searchsorted(keys, wanted_M), len(keys) - 1)
    index_M = units[place_M]
    same_M = (keys[place_M] == wanted_M) & (student_M > NOWHERE)
    return np.where(same_M, index_M, NOWHERE)


def align_inside(
    teacher_N: NDArray[np.int64],
    teacher_units_B: NDArray[np.int64],
    student_M: NDArray[np.int64],
    student_units_B: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each of the student's units the teacher's unit whose token holds it, and how far inside it is.

    Args:
        teacher_N: As `align_units`, as are the others.
        teacher_units_B: The teacher's units per row.
        student_M: Offsets of the student's units.
        student_units_B: The student's units per row.

    Returns:
        ``[M]``, the index of the teacher's unit that begins at the same offset, or -1, or that of a token that both
        begin alike and that goes on at the student's unit; and ``[M]``, how many of the student's units lie between
        that beginning and the unit.

    Raises:
        ValueError: As `align_units`.
    """
    index_M = align_units(teacher_N, teacher_units_B, student_M, student_units_B)
    units, m = np.flatnonzero(teacher_N > NOWHERE), np.arange(len(student_M))
    if not len(units) or not len(m):
        return index_M, np.zeros_like(index_M)
    row_N = np.repeat(np.arange(len(teacher_units_B)), teacher_units_B)[units]
    row_M = np.repeat(np.arange(len(student_units_B)), student_units_B)
    width = int(max(teacher_N.max(), student_M.max())) + 2
    keys = np.maximum.accumulate(row_N * width + teacher_N[units] + 1)
    # Where a token has no offset of its own, it is as far as the one before it.
    reached_M = np.maximum.accumulate(row_M * width + student_M + 1)
    holder_M = np.searchsorted(keys, reached_M, side="right") - 1
    begin_M = np.maximum.accumulate(np.where(index_M > NOWHERE, m, NOWHERE))
    # The last token of a row that was cut off may end anywhere, so there must be one behind it; and one without an
    # offset may be the student's unit itself (bytes of a character, a word behind its blank), which the held ends at.
    goes_on_N = np.append((row_N[1:] == row_N[:-1]) & (np.diff(units) == 1), False)
    inside_M = (begin_M > NOWHERE) & (holder_M >= 0) & (index_M == NOWHERE)
    inside_M &= (row_M[begin_M] == row_M) & (holder_M[begin_M] == holder_M) & goes_on_N[holder_M]
    index_M = np.where(inside_M, index_M[begin_M], index_M)
    return index_M, np.where(inside_M, m - begin_M, 0)
