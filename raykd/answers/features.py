"""Put a teacher's states behind its answer to a row, and lay them out over the student's rows and units.

Decision record: states travel with the answer of their row, by the same path and in the same slots, as a body of their
own layout around the answer's. So requests, retries and routing know nothing of them. They are float16, which keeps
three decimals: half the bytes, and less than what dropout adds. Of a text only its own tokens travel. A row whose
tokens are not as many as the student's was cut elsewhere, and its tokens cover nothing.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raykd.answers.source import AnswerSlots
from raykd.devices import copy_to_device
from raykd.distill.features.states import FeatureRequest, Position, Source, TeacherStates

_HEADER = struct.Struct("<BBI")  # mark, version, bytes of the answer
_MARK, _VERSION = 0xFE, 1
"""A body of `raykd.answers.codec` begins with its version, which is far below the mark."""
_COUNT = struct.Struct("<I")
BYTES = 2
"""Bytes of a number that travels."""


def name_feature_store(answers: str, request: FeatureRequest) -> str:
    """Return the name of the store of answers with these states.

    Args:
        answers: Name of the store of the answers alone.
        request: What is asked for beside them.
    """
    return hashlib.sha256(json.dumps([answers, _VERSION, request]).encode()).hexdigest()


def group_by_position(request: FeatureRequest) -> Iterator[tuple[Position, list[Source]]]:
    """Yield the sources of each position, in the order in which they are written."""
    for position, sources in groupby(request, key=lambda source: source.position):
        yield position, list(sources)


def encode_features(
    bodies: Sequence[bytes | None],
    vectors: Mapping[Source, NDArray[np.float16]],
    request: FeatureRequest,
    mask_BL: NDArray[np.bool_],
    counts_B: NDArray[np.int64],
) -> list[bytes | None]:
    """Put states behind the answers to some rows.

    Args:
        bodies: The answer to each row; None stays None.
        vectors: By source ``[X, D]``, of `sequence` ``[B, L, D]``.
        request: What was asked for.
        mask_BL: The teacher's tokens that are no padding.
        counts_B: Units of each row.

    Returns:
        One body per row; None also for a row with a state that is not finite.
    """
    ends_B = np.cumsum(counts_B)
    encoded: list[bytes | None] = []
    for row, body in enumerate(bodies):
        parts: list[bytes] = []
        finite = body is not None
        for position, sources in group_by_position(request):
            index: Any = slice(row, row + 1)
            if position == "words":
                index = slice(int(ends_B[row] - counts_B[row]), int(ends_B[row]))
            elif position == "sequence":
                index = (row, mask_BL[row])
            own = np.concatenate([vectors[source][index] for source in sources], axis=-1)
            finite = finite and bool(np.isfinite(own).all())
            parts += [_COUNT.pack(len(own)), np.ascontiguousarray(own, dtype="<f2").tobytes()]
        if body is None or not finite:
            encoded.append(None)
        else:
            encoded.append(b"".join([_HEADER.pack(_MARK, _VERSION, len(body)), body, *parts]))
    return encoded


def split_features(slots: AnswerSlots) -> tuple[AnswerSlots, list[bytes | None]]:
    """Return a teacher's answers as they would be without states, and the states' bytes of each row.

    Raises:
        ValueError: A body is of another layout.
    """
    answers: list[bytes | None] = []
    states: list[bytes | None] = []
    for body in slots.bodies:
        if not body or body[0] != _MARK:
            answers.append(body)
            states.append(None)
            continue
        _, version, size = _HEADER.unpack_from(body)
        if version != _VERSION:
            raise ValueError(f"states of layout {version}, this program reads {_VERSION}")
        behind = _HEADER.size + size
        answers.append(body[_HEADER.size : behind])
        states.append(body[behind:])
    bare = AnswerSlots(slots.teacher, answers, slots.latency_s, slots.forwarded, slots.lost)
    return bare, states


def lay_out_states(
    bodies: Sequence[bytes | None],
    request: FeatureRequest,
    width: int,
    lengths_B: NDArray[np.int64],
    counts_B: NDArray[np.int64],
    length: int,
    device: torch.device | None = None,
) -> TeacherStates | None:
    """Lay one teacher's states out over the student's rows and units; None where it gave none.

    Args:
        bodies: From `split_features`.
        request: What was asked for.
        width: Of the teacher's states.
        lengths_B: The student's tokens of each row.
        counts_B: The student's units of each row.
        length: L, the student's padded length.
        device: Of the result; None for the host.

    Raises:
        ValueError: A body ends too early or too late, or has another number of units.
    """
    if all(body is None for body in bodies):
        return None
    rows, starts_B = len(bodies), np.cumsum(counts_B) - counts_B
    vectors: dict[Source, torch.Tensor] = {}
    covered: dict[Position, torch.Tensor] = {}
    at_B = [0] * rows
    for position, sources in group_by_position(request):
        columns = width * len(sources)
        shape = {"words": (int(counts_B.sum()),), "sequence": (rows, length)}.get(position, (rows,))
        block = np.zeros((*shape, columns), dtype=np.float16)
        seen_X = np.zeros(shape[0], dtype=bool)
        for row, body in enumerate(bodies):
            if body is None:
                continue
            own, at_B[row] = _read_block(body, at_B[row], columns)
            if position == "sequence":
                if len(own) == lengths_B[row]:
                    block[row, : len(own)], seen_X[row] = own, True
                continue
            count = int(counts_B[row]) if position == "words" else 1
            if len(own) != count:
                raise ValueError(f"states of {len(own)} places in a row, which has {count}")
            first = int(starts_B[row]) if position == "words" else row
            block[first : first + count], seen_X[first : first + count] = own, True
        whole = copy_to_device(torch.from_numpy(block), device).float()
        vectors |= zip(sources, whole.split(width, dim=-1), strict=True)
        covered[position] = copy_to_device(torch.from_numpy(seen_X), device)
    if any(body is not None and at != len(body) for at, body in zip(at_B, bodies, strict=True)):
        raise ValueError("the states of a row are longer than what was asked for")
    return TeacherStates(vectors, covered)


def _read_block(body: bytes, at: int, columns: int) -> tuple[NDArray[np.float16], int]:
    """Return the vectors at a place of a body, ``[X, columns]``, and where they end."""
    if at + _COUNT.size > len(body):
        raise ValueError("the states of a row end before their contents")
    (count,) = _COUNT.unpack_from(body, at)
    begin, end = at + _COUNT.size, at + _COUNT.size + BYTES * count * columns
    if end > len(body):
        raise ValueError("the states of a row end before their contents")
    return np.frombuffer(body[begin:end], dtype="<f2").reshape(count, columns), end
