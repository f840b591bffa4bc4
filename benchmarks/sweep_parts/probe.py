"""A trial's own process, seen from inside: `TrialRank`, which trials run in, with a few questions added.

Decision record: what is compared differs in one thing only. The bare student is the same loop over the same batches
with `objective.alpha: 1`, which asks no teacher; blocks of both alternate in one process, or two processes run the
same arm at once as a sweep's trials do.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raykd.config import RunConfig, overlay
from raykd.driver.loop import make_loop
from raykd.student.loop import TrainingLoop
from raykd.student.prefetch import Prefetcher
from raykd.tuning.trial_rank import TrialRank

BARE, DISTILLED = {"alpha": 1.0}, {"alpha": 0.5}
LONG = 1_000_000
"""Steps of a run that is only stepped through."""


@dataclass(frozen=True)
class Objectives:
    """Runs that differ from the base in the objective's keys alone."""

    base: RunConfig

    def build_run(self, sample: Mapping[str, Any]) -> RunConfig:
        """The base with these keys of its objective."""
        tree = self.base.model_dump(mode="json")
        return RunConfig.model_validate(overlay(tree, {"objective": dict(sample)}))


class Probe(TrialRank):
    """A trial's process."""

    def run(self, sample: Mapping[str, Any]) -> dict[str, float]:
        """A whole trial in a loop that is ready: seconds of wall, of CPU, and of them in evaluations."""
        self.begin(sample, None)
        return self.go()

    def go(self) -> dict[str, float]:
        """The trial that `begin` made ready."""
        loop = self.loop
        assert loop is not None
        evaluate, spent = loop.evaluate, [0.0]

        def timed() -> dict[str, float]:
            begun = time.perf_counter()
            values = evaluate()
            spent[0] += time.perf_counter() - begun
            return values

        loop.evaluate = timed  # type: ignore[method-assign]
        begun, cpu = time.perf_counter(), time.process_time()
        while loop.advance():
            pass
        return {
            "wall": time.perf_counter() - begun,
            "cpu": time.process_time() - cpu,
            "evaluations": spent[0],
            "steps": float(loop.state.step),
        }

    def threads(self) -> int:
        """Intra-op threads of this process."""
        import torch

        return torch.get_num_threads()

    def memory(self) -> dict[str, float]:
        """MiB of this process, and parameters of its modules that are not the student's."""
        from torch import nn

        assert self.loop is not None
        gc.collect()
        own = {id(p) for p in self.loop.student.model.parameters()}
        strange: dict[int, int] = {}
        modules = 0
        for thing in gc.get_objects():
            if isinstance(thing, nn.Module):
                modules += 1
                strange |= {id(p): p.numel() for p in thing.parameters(recurse=False) if id(p) not in own}
        sizes = {}
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
            name, _, size = line.partition(":")
            sizes[name] = int(size.split()[0]) / 1024
        private = sizes["Private_Clean"] + sizes["Private_Dirty"]
        return {
            "pss": sizes["Pss"],
            "private": private,
            "rss": sizes["Rss"],
            "modules": float(modules),
            "student_parameters": float(sum(p.numel() for p in self.loop.student.model.parameters())),
            "other_parameters": float(sum(strange.values())),
        }

    def alternate(self, rounds: int, steps: int) -> dict[str, Any]:
        """Seconds a step with stored answers and without, in alternating blocks over the same batches."""
        arms = {"stored": self._stepping(DISTILLED), "bare": self._stepping(BARE)}
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        cpu: dict[str, list[float]] = {name: [] for name in arms}
        fetching = []
        for number in range(rounds + 1):
            # The order turns from round to round, so that neither arm always runs on the other's caches.
            for name in list(arms)[:: 1 if number % 2 else -1]:
                loop, works = arms[name]
                wall, used, fetch = _block(loop, works, steps)
                if number:  # the first round warms up
                    seconds[name].append(wall / steps)
                    cpu[name].append(used / steps)
                    if name == "stored":
                        fetching.append(fetch / steps)
        return {
            "seconds": seconds,
            "cpu": cpu,
            "fetching": fetching,
            "calls": arms["stored"][0].trainer.source.replicas.calls,
        }

    def _stepping(self, sample: Mapping[str, Any]) -> tuple[Any, Iterator[Any]]:
        config = self.context.run_factory.build_run(sample)
        config = config.model_copy(update={"train": config.train.model_copy(update={"steps": LONG})})
        prepared, tokenizer = self._rows(config)
        loop: TrainingLoop = make_loop(
            config, prepared, tokenizer, self.context.pools,
            rank=0, world=1, device="cpu", publish=lambda point: None,
        )  # fmt: skip
        loop.engine.train()
        ahead = Prefetcher(loop.ask, config.serving.prefetch)
        return loop, ahead.steps(0, loop.total_steps)


def _block(loop: Any, works: Iterator[Any], steps: int) -> tuple[float, float, float]:
    """Seconds of wall, of CPU and of them in fetching answers."""
    fetch = 0.0
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        asked = time.perf_counter()
        work = next(works)
        fetch += time.perf_counter() - asked
        loop.step(work)
    return time.perf_counter() - begun, time.process_time() - cpu, fetch


class Alone:
    """A teacher in a process of its own that nobody serves: what its forward passes cost."""

    def __init__(self, spec: Any) -> None:
        import torch

        from raykd.teachers.teacher import Teacher

        torch.set_num_threads(1)
        self.teacher = Teacher(spec)

    def seconds(self, batch: Any) -> float:
        """To answer all texts at once; the teacher sorts them by length itself."""
        begun = time.perf_counter()
        self.teacher.answer(batch)
        return time.perf_counter() - begun


def median(values: Any) -> float:
    """As a plain number."""
    return float(np.median(list(values)))
