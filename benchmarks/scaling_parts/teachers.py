"""Teachers of a fixed latency, and students that ask them: what is measured is raykd's own path between them.

A teacher sleeps instead of computing, so eight of them fit on two cores; queue, wire, choice of a replica and
prefetching are those of a run.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.class_answers import encode_logits
from raykd.answers.source import AnswerSlots
from raykd.config import ActorConfig, ModelTeacher, ServingConfig
from raykd.student.prefetch import PendingStep, Prefetcher
from raykd.tasks import Classification
from raykd.teachers.actor import TeacherActor
from raykd.teachers.handle import PoolHandle
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.own_pool import OwnPool, Placement
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.store import SignalStore, make_text_keys
from raykd.teachers.wire import GroupRequest
from raykd.text.batch import TextBatch

LABELS = ("negative", "positive")
ROWS = 32


class SlowTeacher(TeacherActor):
    """A teacher's process that needs ``latency_s`` for any request, and no model."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self._threads = 1
        super().__init__([], 1)

    def _answer_group(self, request: GroupRequest) -> list[AnswerSlots]:
        time.sleep(self.latency_s)
        rows = len(request.batch)
        return [
            AnswerSlots(
                "slow", encode_logits(np.ones((rows, len(LABELS)), dtype=np.float32)), self.latency_s, rows
            )
        ]

    def open(self) -> tuple[str, list[Any]]:
        """Its node."""
        return ray.get_runtime_context().get_node_id(), []


class SlowPool(OwnPool):
    """Slow teachers, each in processes of its own, with so many replicas."""

    def __init__(self, replicas: int, latency_s: float, teachers: int = 1) -> None:
        self.latency_s = latency_s
        actor = ActorConfig(num_cpus=1, replicas=replicas)
        specs = [
            TeacherSpec(ModelTeacher(name=f"slow{m}", languages="all", path=""), LABELS, Classification())
            for m in range(teachers)
        ]
        super().__init__([Placement(spec, actor) for spec in specs], ServingConfig())

    def _start(self, g: Any, replica: int) -> Any:
        return self._options(SlowTeacher, num_cpus=1, num_gpus=0, resources={}).remote(self.latency_s)

    def ready(self) -> PoolHandle:
        """The handle, once every replica is there."""
        opened = [ray.get([actor.open.remote() for actor in actors]) for actors in self.handle.replicas]
        nodes = tuple(tuple(node for node, _ in replicas) for replicas in opened)
        self.handle = replace(self.handle, nodes=nodes, answers=())
        return self.handle


def batch() -> TextBatch:
    """Rows of which nothing is stored."""
    texts = tuple(f"text number {i} of a batch that a student asks about" for i in range(ROWS))
    labels_B = np.full(ROWS, -100, dtype=np.int64)
    return TextBatch(tuple(map(str, range(ROWS))), texts, ("en",) * ROWS, labels_B)


def steps_per_second(handle: PoolHandle, *, rank: int, prefetch: int, step_s: float, seconds: float) -> float:
    """Optimizer steps a second of a student whose own step takes ``step_s``, after a second to warm up."""
    source = PoolSource(handle, rank=rank, direct=False)
    rows, texts = [np.arange(ROWS)], batch()
    works = Prefetcher(lambda step: PendingStep(rows, [source.submit(texts)]), prefetch).steps(0, 1 << 30)
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


def asking(handle: PoolHandle, steps: int) -> float:
    """Seconds a batch that the worker spends on asking all teachers, which answer at once, and laying answers out."""
    source, texts = PoolSource(handle, direct=False), batch()
    source.submit(texts).result()
    begun = time.process_time()
    for _ in range(steps):
        source.submit(texts).result()
    return (time.process_time() - begun) / steps


def reading(folder: Path, teachers: int, steps: int, rows: int = 4096) -> float:
    """Seconds a random batch that reading the stored answers of so many teachers takes."""
    generator = np.random.default_rng(teachers)
    logits_NC = generator.normal(size=(rows, len(LABELS))).astype(np.float32)
    bodies = encode_logits(logits_NC)
    texts = [
        replace(batch(), texts=tuple(f"row {at + i}" for i in range(ROWS))) for at in range(0, rows, ROWS)
    ]
    keys = [key for part in texts for key in make_text_keys(part)]
    stores = []
    for m in range(teachers):
        fingerprint = hashlib.sha256(f"teacher {m}".encode()).hexdigest()
        SignalStore(folder, fingerprint).put(keys, bodies)
        stores.append(SignalStore(folder, fingerprint, read_only=True))
    begun = time.perf_counter()
    for _ in range(steps):
        wanted = [keys[i] for i in generator.integers(rows, size=ROWS).tolist()]
        assert all(None not in store.get(wanted) for store in stores)
    return (time.perf_counter() - begun) / steps
