"""What the host does for a teacher's answers beside the forward passes: microseconds of one thread, no Ray.

    python -m benchmarks.serving_host

A request of 32 texts as it travels; answers of 256 rows of 3 classes as bytes; hidden states of 16 rows x 512 tokens
x 1,024 as bytes. Medians.
"""

from __future__ import annotations

import pickle
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.measure import show
from raykd.answers.answer import DenseAnswer, HiddenAnswer
from raykd.answers.codec import encode_rows
from raykd.teachers.wire import GroupRequest
from raykd.text.batch import TextBatch

ROUNDS = 30


def measure(run: Callable[[], object], repeats: int = 1) -> float:
    """Return the median time of a call in microseconds."""
    spans = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for _ in range(repeats):
            run()
        spans.append((time.perf_counter() - begun) / repeats)
    return 1e6 * statistics.median(spans)


def measure_host() -> list[list[str]]:
    """Time a request's way over the wire, and answers' way into bytes."""
    texts = tuple(f"a text of some words, number {i}" for i in range(32))
    request = GroupRequest(
        TextBatch(texts, texts, ("en",) * 32, np.zeros(32, np.int64)), np.ones((3, 32), dtype=bool)
    )
    logits = np.random.default_rng(0).normal(size=(256, 3)).astype(np.float32)
    dense = DenseAnswer(logits_NC=logits, covered_N=np.ones(256, dtype=bool))
    states = np.random.default_rng(0).normal(size=(8192, 1024)).astype(np.float16)
    hidden = HiddenAnswer(states_NH=states, covered_N=np.ones(8192, dtype=bool))
    ones, rows = np.ones(256, dtype=np.int64), np.full(16, 512)
    return [
        ["request of 32 texts, there", f"{measure(lambda: pickle.loads(pickle.dumps(request)), 100):.1f} us"],
        ["256 rows of 3 classes as bytes", f"{measure(lambda: encode_rows(dense, ones, ones > 0)):.0f} us"],
        [
            "hidden states of 16 x 512 x 1,024 as bytes",
            f"{measure(lambda: encode_rows(hidden, rows, np.ones(8192, dtype=bool))) / 1e3:.1f} ms",
        ],
    ]


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    show("the host's part", ["what", "median"], measure_host())


if __name__ == "__main__":
    main()
