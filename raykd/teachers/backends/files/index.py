"""Keep the answers of files where any row is found at once: an index in memory maps, beside the numbers.

Decision record:

- A run asks for rows at random, and Parquet and JSON lines are read in order. So the files are read once, from begin
  to end, into plain arrays in the cache folder of this machine (`raykd.cache`), under a key of their content. Every
  process of the machine maps them. Memory is needed for the keys alone, while they are sorted. What was not opened for
  `KEPT_DAYS` is removed when another index is built.
- A row's key is half of the hash of its text or id: two of ten million share it with a probability of 1e-25.
- A text or id that stands twice has one answer. Two that differ by more than `LARGEST` are refused, since nothing says
  which one holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raykd.cache import find_cache_folder
from raykd.errors import ModelError
from raykd.tasks.scores.classification import log_softmax
from raykd.teachers.backends.self_test import LARGEST

KEPT_DAYS = 14
NOT_FOUND = -1
Space = Literal["choice", "each", "value"]
"""How numbers of two answers are compared: as probabilities of one label, of each label by itself, or as they are."""
_ARRAYS = ("keys", "begins", "counts", "places")
_WHOLE = "whole"
_AT_ONCE = 65_536


@dataclass(frozen=True)
class AnsweredRows:
    """Rows of a file with their answers. Made by the reader of files, read by `open_index`.

    Attributes:
        file: The file, for messages.
        first: Number of the first row there.
        keys: 32 bytes for each row.
        logits_NC: float32, row after row; NaN for a unit without an answer.
        counts_B: Units of each row; 0 where the row has no answer.
    """

    file: str
    first: int
    keys: Sequence[bytes]
    logits_NC: NDArray[np.float32]
    counts_B: NDArray[np.int64]


@dataclass(frozen=True)
class AnswerIndex:
    """The answers of files, mapped into memory.

    Attributes:
        keys: uint64 [R, 2], sorted; a row of them for each text or id.
        begins: int64 [R], the first unit of each.
        counts: int32 [R], its units.
        logits_NC: float32, NaN for a unit without an answer.
        space: How answers are compared.
    """

    keys: NDArray[np.uint64]
    begins: NDArray[np.int64]
    counts: NDArray[np.int32]
    logits_NC: NDArray[np.float32]
    space: Space

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the position of each key; `NOT_FOUND` where there is no answer."""
        if not len(self) or not keys:
            return np.full(len(keys), NOT_FOUND, dtype=np.int64)
        asked = _read_keys(keys)
        at = np.minimum(np.searchsorted(self.keys[:, 0], asked[:, 0]), len(self) - 1)
        same = (self.keys[at] == asked).all(axis=1)
        return np.where(same, at, NOT_FOUND)

    def read(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the logits of all units of these rows, row after row."""
        begins, counts = self.begins[positions], self.counts[positions].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)])
        units = np.arange(starts[-1]) + np.repeat(begins - starts[:-1], counts)
        return np.asarray(self.logits_NC[units])


def _read_keys(keys: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(key[:16] for key in keys), dtype="<u8").reshape(-1, 2)


def open_index(
    key: str, width: int, space: Space, read: Callable[[], Iterator[AnsweredRows]], who: str
) -> AnswerIndex:
    """Open the index of this content, and build it first where this machine has none.

    Args:
        key: A hash of all that it follows from; names its folder.
        width: Numbers of a unit.
        space: How answers are compared.
        read: Reads all rows.
        who: The teacher, for messages.

    Raises:
        ModelError: As `read`; or a text or id stands twice with different answers.
    """
    cache = find_cache_folder()
    root = Path(tempfile.gettempdir()) / "raykd-answers" if cache is None else cache / "answers"
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / f"{key}.lock").open("w")
    except OSError as error:
        raise ModelError(
            f"{who}: its answers cannot be prepared on this machine",
            got=str(error),
            wanted="a folder that may be written",
            next_step="set RAYKD_CACHE to a folder on a local disk",
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits and finds what the first has built
        folder = root / key
        if not (folder / _WHOLE).exists():
            _remove_unused(root)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                _build(folder, width, space, read, who)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        (folder / _WHOLE).touch()
    return _map(folder, width, space)


def _remove_unused(root: Path) -> None:
    for mark in root.glob(f"*/{_WHOLE}"):
        with contextlib.suppress(OSError):
            if time.time() - mark.stat().st_mtime > KEPT_DAYS * 86_400:
                shutil.rmtree(mark.parent, ignore_errors=True)
                (root / f"{mark.parent.name}.lock").unlink(missing_ok=True)


def _map(folder: Path, width: int, space: Space) -> AnswerIndex:
    keys, begins, counts = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("keys", "begins", "counts")
    )
    return AnswerIndex(keys, begins, counts, _map_numbers(folder, width), space)


def _map_numbers(folder: Path, width: int) -> NDArray[np.float32]:
    numbers = folder / "logits.bin"
    logits = np.memmap(numbers, dtype="<f4", mode="r") if numbers.stat().st_size else np.zeros(0, "<f4")
    return logits.reshape(-1, width)


def _build(
    folder: Path, width: int, space: Space, read: Callable[[], Iterator[AnsweredRows]], who: str
) -> None:
    """Write the arrays of all rows that have an answer; the mark of a whole folder comes last."""
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in _ARRAYS}
    files: list[str] = []
    units = 0
    with (folder / "logits.bin").open("wb") as numbers:
        for rows in read():
            if not files or files[-1] != rows.file:
                files.append(rows.file)
            counts_B = rows.counts_B
            there = np.flatnonzero(counts_B > 0)
            begins = units + np.cumsum(counts_B) - counts_B
            place = (len(files) - 1 << 40) + rows.first + there
            parts["keys"].append(_read_keys([rows.keys[i] for i in there.tolist()]))
            parts["begins"].append(begins[there])
            parts["counts"].append(counts_B[there].astype(np.int32))
            parts["places"].append(place)
            numbers.write(np.ascontiguousarray(rows.logits_NC, dtype="<f4").tobytes())
            units += len(rows.logits_NC)
    empty: dict[str, NDArray[Any]] = {"keys": np.zeros((0, 2), np.uint64), "counts": np.zeros(0, np.int32)}
    joined = {}
    for name in _ARRAYS:  # one after the other, so that each part is held once
        joined[name] = np.concatenate(parts.pop(name) or [empty.get(name, np.zeros(0, np.int64))])
    order = np.lexsort((joined["places"], joined["keys"][:, 1], joined["keys"][:, 0]))
    for name in _ARRAYS:
        joined[name] = joined[name][order]
    del order
    repeated = np.zeros(len(joined["keys"]), dtype=np.bool_)
    repeated[1:] = (joined["keys"][1:] == joined["keys"][:-1]).all(axis=1)
    logits_NC = _map_numbers(folder, width)
    index = AnswerIndex(joined["keys"], joined["begins"], joined["counts"], logits_NC, space)
    _refuse_conflicts(index, joined["places"], repeated, files, who)
    for name in ("keys", "begins", "counts"):
        np.save(folder / f"{name}.npy", joined[name][~repeated])
    (folder / _WHOLE).touch()


def _refuse_conflicts(
    index: AnswerIndex,
    places: NDArray[np.int64],
    repeated: NDArray[np.bool_],
    files: Sequence[str],
    who: str,
) -> None:
    """Refuse rows whose key stands before them, with another answer."""
    again = np.flatnonzero(repeated)
    firsts = np.maximum.accumulate(np.where(repeated, 0, np.arange(len(repeated))))[again]
    for begin in range(0, len(again), _AT_ONCE):
        pair = firsts[begin : begin + _AT_ONCE], again[begin : begin + _AT_ONCE]
        bad = find_conflicts(index, *pair)
        if bad.any():
            one, other = (_name_place(int(places[at[bad][0]]), files) for at in pair)
            raise ModelError(
                f"{who}: a text or id stands twice, with different answers",
                got=f"{one} and {other}",
                wanted="one answer to each",
                next_step="drop one of them (df.drop_duplicates('text')), or make the ids unique",
            )


def find_conflicts(index: AnswerIndex, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which pairs of rows have answers that differ by more than a test of a teacher allows.

    Args:
        index: The answers.
        one: Positions of rows.
        other: As many.
    """
    counts = index.counts[one]
    bad: NDArray[np.bool_] = counts != index.counts[other]
    same = np.flatnonzero(~bad)
    p, q = (_spread(index.read(at[same]), index.space) for at in (one, other))
    gaps = np.where(np.isnan(p) & np.isnan(q), 0.0, np.abs(p - q)).max(axis=1, initial=0.0)
    units = counts[same].astype(np.int64)
    rows = np.repeat(np.arange(len(same)), units)
    bad[same[rows[~(gaps <= LARGEST)]]] = True
    return bad


def _spread(logits_NC: NDArray[np.float32], space: Space) -> NDArray[np.floating]:
    """Return numbers as what answers are compared by."""
    if space == "value":
        return logits_NC
    return np.exp(log_softmax(logits_NC)) if space == "choice" else 1.0 / (1.0 + np.exp(-logits_NC))


def _name_place(place: int, files: Sequence[str]) -> str:
    return f"{files[place >> 40]}, row {place & (1 << 40) - 1}"
