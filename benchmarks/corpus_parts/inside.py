"""What is measured in one process: how fast rows become tokens, and a step over many rows beside one over few.

python -m benchmarks.corpus_parts.inside FEW.yaml MANY.yaml
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import alternate, timed
from raykd.config.loading import load_run
from raykd.driver.jobs import load_rows
from raykd.driver.loop import make_task_model
from raykd.driver.pool import make_teacher_spec
from raykd.student.loop import TrainingLoop
from raykd.student.prefetch import StepWork
from raykd.student.prepare import fit_tokenizer, prepare_rows
from raykd.student.tokens.cache import TokenJob, make_unnamed
from raykd.teachers.source import LocalSource
from raykd.teachers.teacher import Teacher

ROWS, ROUNDS, STEPS, BLOCKS = 40_000, 5, 40, 15


class World:
    """A run, ready to step: its rows, tokenizer, and loop with teachers in this process."""

    def __init__(self, file: Path) -> None:
        self.config = load_run(file)
        self.data = load_rows(self.config)[""]
        self.tokenizer: Any = fit_tokenizer(self.config.student, [(self.config.task, self.data.train)])
        prepared = prepare_rows(self.config, self.data.train, self.data.validation, self.tokenizer)
        specs = [make_teacher_spec(self.config, teacher, {}) for teacher in self.config.teachers]
        source = LocalSource([Teacher(replace(spec, store=None)) for spec in specs])
        model = make_task_model(self.config, self.tokenizer)
        self.loop, self.step = TrainingLoop(self.config, prepared, model, source), 0

    def run_step(self) -> None:
        """Take one step, as the loop does it; after the last one the schedule stays where it is."""
        pending = self.loop.ask(self.step)
        answers = [batch.result() for batch in pending.batches or ()]
        self.loop.step(StepWork(self.step, pending.rows, answers, 0.0))
        self.step = (self.step + 1) % (self.loop.total_steps - 1)


def time_tokens(world: World) -> tuple[float, float]:
    """Return texts a second: of raykd, and of the tokenizer's own call with as many threads (`encode_batch`)."""
    rows, threads = world.data.train.select(np.arange(min(ROWS, len(world.data.train)))), os.cpu_count() or 1
    job = TokenJob(world.config.task, world.tokenizer, rows, {}, threads)
    texts = list(rows.texts)
    seconds: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        seconds[1].append(_time(lambda: world.tokenizer.backend_tokenizer.encode_batch(texts)))
        seconds[0].append(_time(lambda: make_unnamed(job, lambda done, rows: None)))
    return len(rows) / min(seconds[0]), len(rows) / min(seconds[1])


def time_steps(few: World, many: World) -> float:
    """Return how many steps a run over many rows takes while one over few takes one: the median over blocks."""
    arms = {
        "few": lambda: timed(few.run_step, STEPS),
        "many": lambda: timed(many.run_step, STEPS),
    }
    return alternate(arms, BLOCKS).ratio("few", "many")[0]


def _time(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def main() -> None:
    """Print texts a second, raykd's and the tokenizer's, and the ratio of steps."""
    torch.set_num_threads(1)
    few, many = (World(Path(file)) for file in sys.argv[1:3])
    print(json.dumps([*time_tokens(many), time_steps(few, many)]))


if __name__ == "__main__":
    main()
