"""Sections of a student of texts: kernels and waits of a step, slow steps, shapes."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence

from benchmarks.gpu_parts.context import Context
from benchmarks.gpu_parts.counting import Operators, Syncs, recording_shapes
from benchmarks.gpu_parts.steps import (
    Plain,
    Stepper,
    build_stepper,
    collect_batches,
    compute_class_loss,
    wait_for,
)
from benchmarks.gpu_parts.table import Figure
from benchmarks.gpu_parts.tracing import trace
from benchmarks.gpu_parts.worlds import build_texts_world, make_rows, make_texts
from benchmarks.measure import alternate
from raykd.teachers.teacher import Teacher

TRACED = 5
"""Steps that are traced, of which a step's numbers are the mean."""


def measure_kernels(context: Context) -> list[Figure]:
    """A bfloat16 step of a classifier against plain autocast: kernels, waits, time. Operators where there is no GPU."""
    world = build_texts_world(context.size, teachers=0, count=1024, precision="bfloat16")
    syncs = Syncs()
    if context.on_gpu:
        stepper = build_stepper(world, None, context.device)
    else:
        with syncs:
            stepper = build_stepper(world, None, context.device)
            stepper.run(2)
            syncs.counts.clear()
            stepper.run(1)
    context.closing(stepper.close)
    batches = collect_batches(world, 16, context.device)
    plain = Plain(world.build_student().model, batches, compute_class_loss, context.device)
    rounds = alternate(
        {
            "raykd": lambda: stepper.time_block(context.steps),
            "plain": lambda: plain.time_block(context.steps),
        },
        context.rounds,
    )
    if context.on_gpu:
        ours = trace(lambda: stepper.run(TRACED), context.device)
        theirs = trace(lambda: [plain.step() for _ in range(TRACED)], context.device)
        kernels = ours.kernels / TRACED, theirs.kernels / TRACED
        waits, which = ours.waits / TRACED, f"plain {theirs.waits / TRACED:.1f}"
    else:
        kernels = _count_operators(stepper, plain)
        waits, which = float(syncs.total), syncs.describe()
    middle, low, high = rounds.ratio("raykd", "plain")
    times = f"raykd {rounds.median_ms('raykd'):.1f} ms, plain {rounds.median_ms('plain'):.1f} ms"
    named = "kernels" if context.on_gpu else "operators"
    return [
        Figure(f"{named} of a bf16 step / plain autocast", kernels[0] / kernels[1], "<= 1.1",
               f"{kernels[0]:.0f} / {kernels[1]:.0f} a step"),
        Figure("host syncs of a bf16 step", waits, "<= 1", which),
        Figure("bf16 step of a classifier / plain autocast", middle, "", f"{low:.2f}-{high:.2f}; {times}"),
    ]  # fmt: skip


def _count_operators(stepper: Stepper, plain: Plain) -> tuple[float, float]:
    ours, theirs = Operators(), Operators()
    with ours:
        stepper.run(1)
    with theirs:
        plain.step()
    return float(ours.kernels), float(theirs.kernels)


def measure_steadiness(context: Context) -> list[Figure]:
    """Steps of a student and batches of a teacher that are much slower than the median, and the shapes they meet."""
    steps, batches = (150, 60) if context.is_full else (40, 15)
    world = build_texts_world(context.size, teachers=0, count=32 * steps, precision="bfloat16")
    vocabulary = len(world.tokenizer)
    stepper = build_stepper(world, None, context.device)
    context.closing(stepper.close)
    ends: list[float] = []

    def note(left: int) -> None:
        wait_for(context.device)
        ends.append(time.perf_counter())

    with recording_shapes(vocabulary) as student:
        stepper.run(steps, note)
    taught = build_texts_world(context.size, teachers=1, count=512)
    teacher = Teacher(context.get_teacher(taught, context.size.base, "text-teacher"))
    spans = []
    with recording_shapes(len(taught.tokenizer)) as served:
        for number in range(batches):
            batch = make_rows(
                make_texts(context.size.texts, mean=16, longest=60, seed=number)
            ).without_labels()
            begun = time.perf_counter()
            teacher.answer(batch)
            spans.append(time.perf_counter() - begun)
    return [
        _slow(
            "steps over 3 x the median after the first ten",
            [b - a for a, b in itertools.pairwise(ends)],
        ),
        _slow("teacher batches over 3 x the median after the first ten", spans),
        Figure("shapes met by the student", len(student), "<= 16", f"{steps} steps of reviews"),
        Figure("shapes met by the teacher", len(served), "<= 16", f"{batches} batches of reviews"),
    ]


def _slow(what: str, spans: Sequence[float]) -> Figure:
    middle = statistics.median(spans[10:])
    slow = sum(span > 3 * middle for span in spans[10:])
    detail = f"of {len(spans) - 10}; median {1e3 * middle:.1f} ms, most {1e3 * max(spans[10:]):.1f} ms"
    return Figure(what, slow, "<= 0", detail)
