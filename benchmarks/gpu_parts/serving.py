"""Sections of teachers: how busy a GPU is while they answer, and what they make of its rate; and pools for students."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.gpu_parts.context import Context
from benchmarks.gpu_parts.table import Figure
from benchmarks.gpu_parts.tracing import measure_busy, measure_dense_rate
from benchmarks.gpu_parts.worlds import (
    Answers,
    Shape,
    build_language_world,
    build_texts_world,
    make_language_texts,
    make_rows,
    make_texts,
)
from raykd.answers.source import SignalSource
from raykd.config import ActorConfig, RayConfig, ServingConfig
from raykd.teachers.actor import STAGES
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.teacher import Teacher
from raykd.text.batch import TextBatch

PASSES = 8
"""Batches of one timed piece of work; each is answered once, so nothing kept by content helps."""


def open_pool(context: Context, specs: Sequence[TeacherSpec]) -> SignalSource:
    """Return teachers in actors as a run has them, on a share of the GPU where there is one."""
    from raykd.cluster.connection import connect_ray
    from raykd.teachers.pool_source import PoolSource
    from raykd.teachers.pools.own_pool import OwnPool, Placement

    connect_ray(RayConfig())
    share = round(0.5 / len(specs), 4) if context.on_gpu else 0.0
    actor = ActorConfig(num_cpus=1.0, num_gpus=share)
    pool = OwnPool([Placement(spec, actor) for spec in specs], ServingConfig())
    context.closing(pool.stop)
    pool.open()
    return PoolSource(pool.handle)


def close_ray() -> None:
    """End the Ray session that `open_pool` began, if it did."""
    import ray

    if ray.is_initialized():
        ray.shutdown()


def measure_teachers(context: Context) -> list[Figure]:
    """GPU busy / wall while answering: reviews, long texts, a language model's top-k and hidden states."""
    found = []
    for name, even in (("reviews", False), ("128 tokens", True)):
        teacher, batches = _build_text_teacher(context, even)
        found.append(_busy(context, f"BERT base, {context.size.texts} x {name}", teacher, batches))
    kinds: tuple[Answers, ...] = ("top_k", "hidden")
    for answers in kinds:
        teacher, batches = _build_language_teacher(context, answers)
        found.append(_busy(context, f"LM {answers.replace('_', '-')}", teacher, batches))
    return found


def measure_utilisation(context: Context) -> list[Figure]:
    """Floating-point operations of labelling against the rate that this card multiplies at."""
    peak = measure_dense_rate(context.device, 8192 if context.is_full else 512)
    size, found = context.size, []
    cases: list[tuple[str, Shape, int, str, Any]] = [
        (
            "128 tokens, base size",
            size.base,
            0,
            ">= 45",
            lambda: _build_text_teacher(context, True, first=5000),
        ),
        (
            "1B LM",
            size.teacher,
            size.vocabulary,
            ">= 50",
            lambda: _build_language_teacher(context, "top_k", first=5000),
        ),
    ]
    for name, shape, vocabulary, goal, build in cases:
        teacher, made = build()
        batches = iter(list(itertools.islice(made, 1 + 5 * PASSES)))
        before = teacher.counters()["real_tokens"]
        rows = next(batches)
        teacher.answer(rows)
        tokens = teacher.counters()["real_tokens"] - before
        operations = tokens * count_operations(shape, vocabulary, tokens / len(rows))
        _, wall = measure_busy(
            lambda teacher=teacher, batches=batches: _answer(teacher, batches), context.device
        )
        rate = PASSES * operations / wall
        detail = f"{rate / 1e12:.3g} of {peak / 1e12:.3g} Tflop/s; {PASSES * tokens / wall:.0f} tokens/s"
        found.append(Figure(f"teacher MFU while labelling: {name}, %", 100 * rate / peak, goal, detail))
    return found


def count_operations(shape: Shape, vocabulary: int, length: float) -> float:
    """Return floating-point operations of a forward pass per token: matrices, attention over a row, output head."""
    layers = shape.layers * (24 * shape.hidden**2 + 4 * length * shape.hidden)
    return float(layers + 2 * vocabulary * shape.hidden)


def _build_text_teacher(
    context: Context, even: bool, first: int = 1000
) -> tuple[Teacher, Iterator[TextBatch]]:
    world = build_texts_world(context.size, teachers=1, count=512)
    teacher = Teacher(context.get_teacher(world, context.size.base, "text-teacher"))
    longest = 126 if context.is_full else 30
    mean = float(longest) if even else 16.0

    def batches() -> Iterator[TextBatch]:
        for seed in itertools.count(first + even):
            texts = make_texts(context.size.texts, mean=mean, longest=longest, seed=seed, even=even)
            yield make_rows(texts).without_labels()

    return teacher, batches()


def _build_language_teacher(
    context: Context, answers: Answers, first: int = 2
) -> tuple[Teacher, Iterator[TextBatch]]:
    world = build_language_world(context.size, answers, count=context.size.rows)
    teacher = Teacher(context.get_teacher(world, context.size.teacher, "lm-teacher"))

    def batches() -> Iterator[TextBatch]:
        for seed in itertools.count(first):
            texts = make_language_texts(context.size, context.size.rows, seed)
            yield make_rows(texts, targets=True).without_labels()

    return teacher, batches()


def _answer(teacher: Teacher, batches: Iterator[TextBatch]) -> None:
    """Answer some batches, as many at once as a replica on a GPU does."""
    with ThreadPoolExecutor(STAGES) as threads:
        list(threads.map(teacher.answer, itertools.islice(batches, PASSES)))


def _busy(context: Context, name: str, teacher: Teacher, batches: Iterator[TextBatch]) -> Figure:
    # Drawn before, so that making texts is not timed: a warm pass, three timed ones and a traced one.
    drawn = iter(list(itertools.islice(batches, 5 * PASSES)))
    share, wall = measure_busy(lambda: _answer(teacher, drawn), context.device)
    rows = context.size.rows if name.startswith("LM") else context.size.texts
    detail = f"{1e3 * wall / PASSES:.1f} ms a batch, {PASSES * rows / wall:.0f} rows/s"
    return Figure(f"teacher GPU busy / wall: {name}", share, ">= 0.8", detail)
