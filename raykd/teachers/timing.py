"""Measure how long a model takes per text, so that the times of two models can be compared.

Decision record: serving records passes of any size, beside whatever else the machine does, so a ratio of such times
says little. Here the same few texts go through a model again and again in one forward pass's worth of rows, and the
least time counts: other work on the machine only ever adds to one. The machine's load is kept beside it, because
where it is high even the least time is too long. A teacher is timed where it serves, and the student beside it in the
same process, on the same texts, threads and device, so their ratio compares like with like. A teacher whose answers
were all stored has no weights in memory and is not loaded for this; the time of an earlier run counts if it was taken
on the same machine, threads and device, and on texts about as long, and is marked.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

TIMED_TEXTS = 32
"""Texts of one pass."""
PASSES = 25
"""Most passes, after one that does not count: enough that one of them is likely to meet no other work."""
LENGTHS_DIFFER = 1.25
"""Ratio of mean lengths from which two sets of texts are not timed alike."""
BUSY = 1.0
"""Processes a CPU beyond which a time is surely longer than on a free machine."""
LIMIT_S = 0.3
"""No further pass begins after this time; a model whose first pass takes longer has that one alone."""


@dataclass(frozen=True)
class Timing:
    """What a text took a model. Written by `Teacher.measure_time`, read by the results.

    Attributes:
        ms: Milliseconds per text, tokenisation included; the least of the passes.
        rows: Texts of a pass.
        texts: Hash of the texts.
        threads: Intra-op threads.
        device: Name of torch's.
        dtype: The model's precision.
        host: The machine.
        load: Processes that want a CPU per CPU, as the machine's load average of the last minute says when the passes
            begin: below 1 there were free CPUs. None where the machine does not tell.
        kept: Whether an earlier run measured it.
        taken: The day, as 2026-01-31; empty is not known.
        characters: Mean length of the texts; None is not known.
    """

    ms: float
    rows: int
    texts: str
    threads: int
    device: str
    dtype: str
    host: str
    load: float | None
    kept: bool = False
    taken: str = ""
    characters: float | None = None

    def is_like(self, other: Timing) -> bool:
        """Return whether a time taken so stands for one taken otherwise: the same texts, or others about as long."""
        mine, theirs = (
            (own.rows, own.threads, own.device.partition(":")[0], own.host) for own in (self, other)
        )
        if mine != theirs or self.texts == other.texts:
            return mine == theirs
        if not self.characters or not other.characters:
            return False
        short, long = sorted((self.characters, other.characters))
        return long / short < LENGTHS_DIFFER

    @property
    def place(self) -> str:
        """Threads and device, in words: times of different places are no ratio."""
        return f"{self.threads} thread{'' if self.threads == 1 else 's'}, {self.device}"

    def dump(self) -> str:
        """Return the time as JSON, to be kept beside a teacher's answers."""
        return json.dumps(asdict(self))


def read_timing(text: str) -> Timing | None:
    """Return a kept time; None where the text does not hold one."""
    try:
        found = Timing(**{**json.loads(text), "kept": True})
        return found if isinstance(found.ms, float) and 0.0 < found.ms < float("inf") else None
    except (ValueError, TypeError):
        return None


def measure_time(once: Callable[[], object], conditions: Timing) -> Timing:
    """Time a model.

    Args:
        once: Lets it answer the texts of the conditions.
        conditions: From `describe_conditions`.
    """
    conditions = replace(conditions, load=measure_load())
    begun = time.perf_counter()
    once()  # the first pass of a process, or of a shape, is slow, which no longer matters where it takes so long
    first = time.perf_counter() - begun
    spans = [first] if first > LIMIT_S else []
    while not spans or (len(spans) < PASSES and sum(spans) < LIMIT_S):
        begun = time.perf_counter()
        once()
        spans.append(time.perf_counter() - begun)
    ms = 1e3 * min(spans) / max(1, conditions.rows)
    return replace(conditions, ms=ms, taken=time.strftime("%Y-%m-%d"))


def describe_conditions(texts: Sequence[str], threads: int, device: str, dtype: str) -> Timing:
    """Return a `Timing` of these texts without a time yet."""
    key = hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    characters = sum(map(len, texts)) / max(1, len(texts))
    return Timing(
        0.0, len(texts), key, threads, device, dtype, platform.node(), load=None, characters=characters
    )


def measure_load() -> float | None:
    """Return the machine's load average of the last minute per CPU; None where it does not tell."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return None


def describe_load(loads: Sequence[float]) -> str:
    """Return how busy the machine was while models were timed, in words.

    Args:
        loads: Of each time, processes a CPU.
    """
    if not loads:
        return "the load of the machine is not known"
    low, high = f"{min(loads):.1f}", f"{max(loads):.1f}"
    between = low if low == high else f"{low} to {high}"
    busy = "; other work made the times longer" if max(loads) > BUSY else ""
    return f"load of the machine while they were taken: {between} processes a CPU{busy}"
