"""Encode one row's answer as bytes, and decode the bytes of many rows as one answer.

Decision record: a body holds one row, because that is what the store keys and what a batch picks. It has a small header
and one section per field, each a plain array. The bodies of a batch have one form, so a section of all rows is read in
one pass (`raykd.answers.sections`). Numbers are little-endian whatever the machine. A body begins with the version of
the layout, and another version is refused, never guessed. The store detects damage (it keeps a checksum); here only
what cannot be read fails.

Bytes per unit, without the header (14 per row, and 4 for each temperature):

- ids: 2, and one bit more for each doubling of the vocabulary beyond 65,536 (low halves, then planes of high bits);
- dense 4 C; top-k k (id + 2) + 4 a temperature; hidden 2 H;
- sampled: 2 + an id an entry + 1 for each entry drawn more than once (the others' count of 1 is not written);
- offsets 1 (the step from the unit before; 5 beyond 253), entropy 2, gold 2, coverage 1/8 where a unit is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykd.answers.answer import Answer, DenseAnswer, HiddenAnswer, SampledAnswer, TopKAnswer, join_answers
from raykd.answers.sections import SectionReader
from raykd.distill.signals import MASKED

VERSION = 1
"""Of the layout; part of the names of stores."""

_HEADER = struct.Struct("<BBBBIIH")  # version, kind, flags, temperatures, units, columns, width
_HEAD = np.dtype(
    {
        "names": ["version", "kind", "flags", "grid", "units", "columns", "width"],
        "formats": ["u1", "u1", "u1", "u1", "<u4", "<u4", "<u2"],
    }
)
_VERSION_BYTE = bytes([VERSION])
_FLAGS = {"covered_N": 1, "offsets_N": 2, "entropy_N": 4, "gold_logp_N": 8}
_FAR = 255
"""Marks a step of an offset that does not fit; its absolute value follows in the section of far ones."""
_NOWHERE = 254
"""Marks a unit that begins at no character, offset -1."""


Grid = tuple[float, ...]
Common = dict[str, Any]
"""Fields of `Answer` by name, as arguments of a form."""
Section = bytes | NDArray[Any]
"""Bytes, or an array in the order in which it is written, which is copied once: into the body."""
Written = tuple[int, int, Grid, list[Section]]
"""Columns, width and temperatures of the header, and the sections."""


def encode_answer(answer: Answer) -> bytes:
    """Encode the answer to one row.

    Raises:
        ValueError: Offsets fall, or an id is outside the vocabulary.
    """
    flags = sum(bit for name, bit in _FLAGS.items() if getattr(answer, name) is not None)
    if answer.covered_N.all():
        flags &= ~_FLAGS["covered_N"]
    number = _KINDS.index(type(answer))
    columns, width, temperatures, sections = _WRITERS[number](answer)
    header = _HEADER.pack(VERSION, number, flags, len(temperatures), len(answer), columns, width)
    grid = np.asarray(temperatures, dtype="<f4")
    parts: list[Any] = [header, grid.tobytes(), *_write_common(answer, flags), *sections]
    return b"".join(parts)


def decode_answers(bodies: Sequence[bytes | None]) -> tuple[Answer | None, NDArray[np.int64]]:
    """Decode the bodies of many rows.

    Returns:
        One answer of all units of all rows, or None where every body is None, as its form is not known then; and the
        number of units of each row, ``[B]``, 0 where a body is None.

    Raises:
        ValueError: A body is malformed or of another version, or bodies do not fit together.
    """
    held = [body for body in bodies if body is not None]
    same = _decode_equal(held)
    if same is not None:
        answer, units = same
        return answer, np.asarray([0 if body is None else units for body in bodies], dtype=np.int64)
    heads, grids = _read_headers(held)
    units_B = np.zeros(len(bodies), dtype=np.int64)
    units_B[[body is not None for body in bodies]] = heads["units"]
    if not held:
        return None, units_B
    if _have_one_form(heads, grids):
        return _decode_rows(held, heads, grids[0]), units_B
    rows = [_decode_rows([body], heads[i : i + 1], grids[i]) for i, body in enumerate(held)]
    return join_answers(rows), units_B


def encode_rows(
    answer: Answer, counts_B: NDArray[np.int64], finite_N: NDArray[np.bool_]
) -> list[bytes | None]:
    """Encode each row of an answer to many; None for a row with a unit that is not finite.

    Args:
        answer: The units of all rows, row after row.
        counts_B: Units of each row.
        finite_N: Whether a unit's logits are finite.
    """
    alike = _encode_alike(answer, counts_B)
    if alike is not None:
        good_B = np.asarray(finite_N.reshape(len(counts_B), -1).all(axis=1))
        return [body if good else None for body, good in zip(alike, good_B.tolist(), strict=True)]
    rows = answer.rows(counts_B.tolist())
    finite = [bool(part.all()) for part in np.split(finite_N, np.cumsum(counts_B)[:-1])]
    return [encode_answer(row) if good else None for row, good in zip(rows, finite, strict=True)]


def _encode_alike(answer: Answer, counts_B: NDArray[np.int64]) -> list[bytes] | None:
    """Encode dense rows of as many units each, all covered, as one array; None for other answers.

    Answers of classification are such rows. One by one they take thirty times as long.
    """
    units = int(counts_B[0]) if len(counts_B) else 0
    if not isinstance(answer, DenseAnswer) or not units or bool((counts_B != units).any()):
        return None
    if set(answer.columns()) != {"covered_N", "logits_NC"} or not answer.covered_N.all():
        return None
    if len(answer) != units * len(counts_B):
        raise ValueError(f"rows of {counts_B.tolist()} units, but {len(answer)} units in all")
    columns = answer.logits_NC.shape[1]
    head = _HEADER.pack(VERSION, _KINDS.index(DenseAnswer), 0, 0, units, columns, 0)
    whole = np.ascontiguousarray(answer.logits_NC, dtype="<f4").tobytes()
    size = 4 * units * columns
    return (
        [head + whole[begin : begin + size] for begin in range(0, size * len(counts_B), size)]
        if size
        else None
    )


def _decode_equal(bodies: Sequence[bytes]) -> tuple[DenseAnswer, int] | None:
    """Decode dense answers of rows that are alike in everything but their logits; return also the units of each.

    None for other bodies. Answers of classification are always alike, and reading them as one array makes a batch of 32
    rows three times as fast.
    """
    if not bodies or len(set(map(len, bodies))) > 1 or len({body[: _HEADER.size] for body in bodies}) > 1:
        return None
    size = len(bodies[0])
    if size < _HEADER.size:
        return None
    version, kind, flags, grid, units, columns, width = _HEADER.unpack_from(bodies[0])
    wanted = (VERSION, _KINDS.index(DenseAnswer), 0, 0, 0)
    if (
        (version, kind, flags, grid, width) != wanted
        or size != _HEADER.size + 4 * units * columns
        or not units
    ):
        return None
    bytes_BX = np.frombuffer(b"".join(bodies), np.uint8).reshape(len(bodies), size)
    logits = np.ascontiguousarray(bytes_BX[:, _HEADER.size :]).view("<f4")
    logits_NC = logits.reshape(len(bodies) * units, columns)
    return DenseAnswer(logits_NC=logits_NC, covered_N=np.ones(len(logits_NC), dtype=np.bool_)), units


def _read_headers(bodies: Sequence[bytes]) -> tuple[NDArray[Any], list[bytes]]:
    """Return the headers of bodies as one array of `_HEAD`, and the bytes of each one's temperatures."""
    size = _HEADER.size
    for body in bodies:
        if body[:1] != _VERSION_BYTE:
            raise ValueError(f"a body of layout {body[:1].hex() or 'nothing'}, this program reads {VERSION}")
        if len(body) < size:
            raise ValueError(f"a body of {len(body)} bytes is shorter than its header")
    heads = np.frombuffer(b"".join([body[:size] for body in bodies]), _HEAD)
    wrong = (heads["kind"] >= len(_KINDS)) | (heads["flags"] >= 16)
    if wrong.any():
        one = heads[wrong][0]
        raise ValueError(f"a body of unknown form {one['kind']} or unknown fields {one['flags']:#x}")
    # A unit takes at least a bit. Without this check a header of 14 bytes could ask for all memory.
    if any(units > 8 * len(body) for units, body in zip(heads["units"].tolist(), bodies, strict=True)):
        raise ValueError("a body names more units than its bytes can hold")
    ends = (size + 4 * heads["grid"].astype(np.int64)).tolist()
    grids = [body[size:end] for body, end in zip(bodies, ends, strict=True)]
    if any(end > len(body) for body, end in zip(bodies, ends, strict=True)):
        raise ValueError("a body ends within its temperatures")
    return heads, grids


def _have_one_form(heads: NDArray[Any], grids: Sequence[bytes]) -> bool:
    """Return whether bodies can be read in one pass."""
    names = ["kind", "width"]
    if _KINDS[heads["kind"][0]] is not DenseAnswer:  # rows of a context have as many columns as it has words
        names.append("columns")
    flags = heads["flags"] & ~np.uint8(_FLAGS["covered_N"])
    same = (flags == flags[0]).all() and all((heads[name] == heads[name][0]).all() for name in names)
    return bool(same) and grids.count(grids[0]) == len(grids)


def _decode_rows(bodies: Sequence[bytes], heads: NDArray[Any], grid: bytes) -> Answer:
    number, flags = int(heads["kind"][0]), int(heads["flags"][0])
    reader = SectionReader(bodies, _HEADER.size + len(grid), heads["units"].astype(np.int64))
    common = _read_common(reader, flags, (heads["flags"] & _FLAGS["covered_N"]).astype(np.bool_))
    # The shortest decimal that float32 holds: 0.7 comes back as 0.7.
    temperatures = tuple(float(str(t)) for t in np.frombuffer(grid, "<f4"))
    answer = _READERS[number](
        reader, common, heads["columns"].astype(np.int64), int(heads["width"][0]), temperatures
    )
    reader.finish()
    return answer


def _write_common(answer: Answer, flags: int) -> list[Section]:
    sections: list[Section] = []
    if flags & _FLAGS["covered_N"]:
        sections.append(np.packbits(answer.covered_N).tobytes())
    if answer.offsets_N is not None:
        sections += _write_offsets(answer.offsets_N)
    for column in (answer.entropy_N, answer.gold_logp_N):
        if column is not None:
            sections.append(_to_float16(column))
    return sections


def _read_common(reader: SectionReader, flags: int, marked_B: NDArray[np.bool_]) -> Common:
    units_B = reader.units_B
    if marked_B.any():  # a row whose units are all covered has no such section
        reader.covered_N[marked_B[reader.row_N]] = reader.bits(np.where(marked_B, units_B, 0)).astype(
            np.bool_
        )
        reader.held_B = reader.row_sums(reader.covered_N)
    found: Common = {"covered_N": reader.covered_N}
    if flags & _FLAGS["offsets_N"]:
        found["offsets_N"] = _read_offsets(reader)
    for name in ("entropy_N", "gold_logp_N"):
        if flags & _FLAGS[name]:
            found[name] = reader.array("<f2", units_B).astype(np.float32)
    return found


def _write_offsets(offsets_N: NDArray[np.int64]) -> list[bytes]:
    somewhere_N = offsets_N >= 0
    offsets = offsets_N[somewhere_N]
    step = np.diff(offsets, prepend=0)
    if (step < 0).any():
        raise ValueError("the offsets of a row fall")
    far = step >= _NOWHERE
    code_N = np.full(len(offsets_N), _NOWHERE, dtype=np.uint8)
    code_N[somewhere_N] = np.where(far, _FAR, step)
    return [code_N.tobytes(), offsets[far].astype("<u4").tobytes()]


def _read_offsets(reader: SectionReader) -> NDArray[np.int64]:
    code_N = reader.array(np.uint8, reader.units_B)
    far_N = code_N == _FAR
    absolute = reader.array("<u4", reader.row_sums(far_N)).astype(np.int64)
    somewhere_N = code_N != _NOWHERE
    step, row, far = code_N[somewhere_N].astype(np.int64), reader.row_N[somewhere_N], far_N[somewhere_N]
    first = np.diff(row, prepend=-1) > 0
    # Steps are summed over all rows at once; a row's first unit and a far one begin a sum of their own.
    begins = np.flatnonzero(first | far)
    known = step[begins]
    known[far[begins]] = absolute
    sums = np.cumsum(step)
    moved = np.zeros(len(step), dtype=np.int64)
    moved[begins] = np.diff(known - sums[begins], prepend=0)
    offsets = sums + np.cumsum(moved)
    if ((np.diff(offsets) < 0) & ~first[1:]).any():
        raise ValueError("the offsets of a body fall")
    offsets_N = np.full(len(code_N), -1, dtype=np.int64)
    offsets_N[somewhere_N] = offsets
    return offsets_N


def _to_float16(column: NDArray[np.floating]) -> NDArray[np.float16]:
    """Return a column as float16; what is that already was clipped where it was computed, and is not copied."""
    if column.dtype == np.float16:
        return np.ascontiguousarray(column, dtype="<f2")
    limit = float(np.finfo(np.float16).max)
    clipped: NDArray[np.float16] = np.clip(column, -limit, limit).astype("<f2")
    return clipped


def _count_planes(vocab: int) -> int:
    """Return how many bits an id of this vocabulary has beyond 16."""
    return max((vocab - 1).bit_length() - 16, 0)


def _write_ids(ids: NDArray[np.int32], vocab: int) -> list[bytes]:
    if ids.size and (ids.min() < 0 or ids.max() >= vocab):
        raise ValueError(f"ids from {ids.min()} to {ids.max()} in a vocabulary of {vocab}")
    low = (ids & 0xFFFF).astype("<u2").tobytes()
    return [low, *(np.packbits((ids >> (16 + b)) & 1).tobytes() for b in range(_count_planes(vocab)))]


def _read_ids(reader: SectionReader, count_B: NDArray[np.int64], vocab: int) -> NDArray[np.int32]:
    ids = reader.array("<u2", count_B).astype(np.int32)
    for b in range(_count_planes(vocab)):
        ids |= reader.bits(count_B).astype(np.int32) << (16 + b)
    if ids.size and ids.max() >= vocab:
        raise ValueError(f"id {ids.max()} in a vocabulary of {vocab}")
    return ids


def _write_dense(answer: DenseAnswer) -> Written:
    return answer.logits_NC.shape[1], 0, (), [np.ascontiguousarray(answer.logits_NC, dtype="<f4")]


def _read_dense(
    reader: SectionReader, common: Common, columns_B: NDArray[np.int64], width: int, grid: Grid
) -> DenseAnswer:
    most = int(columns_B.max())
    logits = reader.array("<f4", reader.units_B * columns_B)
    if columns_B.min() == most:
        return DenseAnswer(logits_NC=logits.reshape(len(reader.row_N), most), **common)
    logits_NC = np.full((len(reader.row_N), most), MASKED, dtype=np.float32)
    logits_NC[np.arange(most) < columns_B[reader.row_N][:, None]] = logits
    return DenseAnswer(logits_NC=logits_NC, **common)


def _write_top_k(answer: TopKAnswer) -> Written:
    present_N = slice(None) if answer.covered_N.all() else answer.covered_N
    ids = _write_ids(answer.ids_NK[present_N].ravel(), answer.vocab)
    rest = [
        _to_float16(answer.logits_NK[present_N]),
        np.ascontiguousarray(answer.lse_NG[present_N], dtype="<f4"),
    ]
    return answer.vocab, answer.ids_NK.shape[1], answer.temperatures, [*ids, *rest]


def _read_top_k(
    reader: SectionReader, common: Common, columns_B: NDArray[np.int64], width: int, grid: Grid
) -> TopKAnswer:
    vocab = int(columns_B[0])
    held_B, held = reader.held_B, int(reader.held_B.sum())
    ids_NK = _read_ids(reader, held_B * width, vocab).reshape(held, width)
    logits_NK = reader.array("<f2", held_B * width).reshape(held, width)
    lse_NG = reader.array("<f4", held_B * len(grid)).reshape(held, len(grid))
    return TopKAnswer(
        ids_NK=reader.spread(ids_NK, -1),
        logits_NK=reader.spread(logits_NK, 0),
        lse_NG=reader.spread(lse_NG, 0),
        temperatures=grid,
        vocab=vocab,
        **common,
    )


def _write_sampled(answer: SampledAnswer) -> Written:
    counts_NJ = np.where(answer.covered_N[:, None], answer.counts_NJ, 0).astype(np.uint8)
    # Entries drawn several times come first, so one number per unit says how many counts are written.
    order_NJ = np.argsort(-counts_NJ.astype(np.int16), axis=1, kind="stable")
    counts_NJ = np.take_along_axis(counts_NJ, order_NJ, axis=1)
    ids_NJ = np.take_along_axis(answer.ids_NJ, order_NJ, axis=1)
    entries_N = (counts_NJ > 0).sum(axis=1).astype(np.uint8)
    several_N = (counts_NJ > 1).sum(axis=1).astype(np.uint8)
    ids = _write_ids(ids_NJ[counts_NJ > 0], answer.vocab)
    sections = [entries_N.tobytes(), several_N.tobytes(), *ids, counts_NJ[counts_NJ > 1].tobytes()]
    return answer.vocab, answer.draws, (answer.temperature,), sections


def _read_sampled(
    reader: SectionReader, common: Common, columns_B: NDArray[np.int64], width: int, grid: Grid
) -> SampledAnswer:
    vocab = int(columns_B[0])
    entries_N, several_N = reader.array(np.uint8, reader.units_B), reader.array(np.uint8, reader.units_B)
    if len(grid) != 1 or (several_N > entries_N).any():
        raise ValueError("a body of sampled tokens contradicts itself")
    column_J = np.arange(int(entries_N.max(initial=0)))
    held_NJ = column_J < entries_N[:, None]
    ids_NJ = np.full(held_NJ.shape, -1, dtype=np.int32)
    ids_NJ[held_NJ] = _read_ids(reader, reader.row_sums(entries_N), vocab)
    counts_NJ = held_NJ.astype(np.uint8)
    several_NJ = column_J < several_N[:, None]
    counts_NJ[several_NJ] = reader.array(np.uint8, reader.row_sums(several_N))
    drawn_N = counts_NJ.sum(axis=1, dtype=np.int64)
    if (drawn_N != np.where(common["covered_N"], width, 0)).any():
        raise ValueError(f"a body of {width} draws a unit holds between {drawn_N.min()} and {drawn_N.max()}")
    return SampledAnswer(
        ids_NJ=ids_NJ, counts_NJ=counts_NJ, draws=width, temperature=grid[0], vocab=vocab, **common
    )


def _write_hidden(answer: HiddenAnswer) -> Written:
    return answer.states_NH.shape[1], 0, (), [_to_float16(answer.states_NH)]


def _read_hidden(
    reader: SectionReader, common: Common, columns_B: NDArray[np.int64], width: int, grid: Grid
) -> HiddenAnswer:
    columns = int(columns_B[0])
    states = reader.array("<f2", reader.units_B * columns)
    return HiddenAnswer(states_NH=states.reshape(len(reader.row_N), columns), **common)


_KINDS: tuple[type[Answer], ...] = (DenseAnswer, TopKAnswer, SampledAnswer, HiddenAnswer)
_WRITERS: tuple[Callable[[Any], Written], ...] = (_write_dense, _write_top_k, _write_sampled, _write_hidden)
_READERS: tuple[Callable[..., Answer], ...] = (_read_dense, _read_top_k, _read_sampled, _read_hidden)
