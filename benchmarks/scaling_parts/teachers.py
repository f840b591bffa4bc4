"""Teachers of a fixed latency, and students that ask them: what is measured is raykd's own path between them.

A teacher sleeps instead of computing, so eight of them fit on two cores; queue, wire, choice of a replica and
prefetching are those of a run.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from raykd.config import ActorConfig, ServingConfig
from raykd.distill.signals import TextBatch
from raykd.student.prefetch import Asked, Prefetcher
from raykd.tasks import Classification
from raykd.teachers.actor import TeacherActor
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pool import Placement, TeacherPool
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.wire import GroupAnswer, GroupRequest

LABELS = ("negative", "positive")
ROWS = 32


class SlowTeacher(TeacherActor):
    """A teacher's process that needs ``latency_s`` for any request, and no model."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self._threads = 1
        super().__init__([], 1)

    def _answer_group(self, request: GroupRequest) -> GroupAnswer:
        time.sleep(self.latency_s)
        rows = len(request.batch)
        logits_MNC = np.ones((1, rows, len(LABELS)), dtype=np.float32)
        return GroupAnswer(logits_MNC, np.ones((1, rows), dtype=bool), (self.latency_s,), (rows,))

    def open(self) -> tuple[str, list[Any]]:
        """Its node."""
        return ray.get_runtime_context().get_node_id(), []


class SlowPool(TeacherPool):
    """One slow teacher with so many replicas."""

    def __init__(self, replicas: int, latency_s: float) -> None:
        self.latency_s = latency_s
        spec = TeacherSpec("slow", "", LABELS, Classification())
        super().__init__([Placement(spec, ActorConfig(num_cpus=1, replicas=replicas))], ServingConfig())

    def _start(self, g: Any, replica: int) -> Any:
        return self._options(SlowTeacher, num_cpus=1, num_gpus=0, resources={}).remote(self.latency_s)

    def ready(self) -> PoolHandle:
        """The handle, once every replica is there."""
        nodes = ray.get([actor.open.remote() for actor in self.handle.replicas[0]])
        self.handle = replace(self.handle, nodes=(tuple(node for node, _ in nodes),), answers=())
        return self.handle


def batch() -> TextBatch:
    """Rows of which nothing is stored."""
    texts = tuple(f"text number {i} of a batch that a student asks about" for i in range(ROWS))
    labels_B = np.full(ROWS, -100, dtype=np.int64)
    return TextBatch(tuple(map(str, range(ROWS))), texts, ("en",) * ROWS, labels_B)


def steps_per_second(handle: PoolHandle, *, rank: int, prefetch: int, step_s: float, seconds: float) -> float:
    """Optimizer steps a second of a student whose own step takes ``step_s``, after a second to warm up."""
    source = handle.source(rank=rank, direct=False)
    rows, texts = [np.arange(ROWS)], batch()
    works = Prefetcher(lambda step: Asked(rows, [source.submit(texts)]), prefetch).steps(0, 1 << 30)
    done, begun = 0, time.perf_counter()
    warm = False
    for _ in works:
        time.sleep(step_s)
        done += 1
        elapsed = time.perf_counter() - begun
        if not warm and elapsed > 1.0:
            done, begun, warm = 0, time.perf_counter(), True
        elif warm and elapsed > seconds:
            return done / elapsed
    raise AssertionError("the stream of steps has no end")


@ray.remote(num_cpus=0)
class Student:
    """A student in a process of its own."""

    def ready(self) -> None:
        """Once it is there."""

    def run(self, handle: PoolHandle, rank: int, prefetch: int, step_s: float, seconds: float) -> float:
        """`steps_per_second`."""
        return steps_per_second(handle, rank=rank, prefetch=prefetch, step_s=step_s, seconds=seconds)
