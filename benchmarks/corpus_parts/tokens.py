"""Time raykd's tokenising of a run's first rows against what its tokenizer alone encodes with the same threads.

python -m benchmarks.corpus_parts.tokens RUN.yaml
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROWS, ROUNDS = 40_000, 3


def main() -> None:
    """Print texts a second: raykd's, and the tokenizer's."""
    from raykd.config.loading import load_run
    from raykd.driver.jobs import load_rows
    from raykd.student.prepare import _encode, fit_tokenizer

    config: Any = load_run(Path(sys.argv[1]))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    data = load_rows(config)[""]
    rows = data.train.select(range(min(ROWS, len(data.train))))
    tokenizer: Any = fit_tokenizer(config.student, [(config.task, rows)])
    texts = list(rows.texts)
    ours, alone = [], []
    for _ in range(ROUNDS):
        alone.append(_time(lambda: tokenizer.backend_tokenizer.encode_batch(texts)))
        ours.append(_time(lambda: _encode(config, rows, tokenizer)))
    print(json.dumps([len(rows) / min(ours), len(rows) / min(alone)]))


def _time(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
