"""Sections of a language model's student: alone, taught by a served teacher, by stored answers, by hidden states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from benchmarks.gpu_parts.context import Context
from benchmarks.gpu_parts.serving import open_pool
from benchmarks.gpu_parts.steps import (
    Plain,
    Stepper,
    build_stepper,
    collect_batches,
    compute_language_loss,
    make_dense_loss,
)
from benchmarks.gpu_parts.table import Figure
from benchmarks.gpu_parts.worlds import Answers, World, build_language_world
from benchmarks.measure import Rounds, alternate
from raykd import models
from raykd.answers.source import SignalSource
from raykd.teachers.source import LocalSource
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.teacher import Teacher

BATCHES = 8


def measure_student(context: Context) -> list[Figure]:
    """A student of gold labels alone against the same step in torch."""
    world = _build_world(context, "none")
    arms = {
        "raykd": _time(context, _step(context, world, None)),
        "plain": _time(context, _build_plain(context, world)),
    }
    rounds = alternate(arms, context.rounds)
    return [_compare("LM student alone / plain torch step", rounds, "raykd", "plain", "<= 1.05")]


def measure_top_k(context: Context) -> list[Figure]:
    """A student that a served teacher answers with top-k, and one whose answers are stored, against dense KL."""
    world = _build_world(context, "top_k")
    spec = context.get_teacher(world, context.size.teacher, "lm-teacher")
    stored = LocalSource(
        [Teacher(context.get_teacher(world, context.size.teacher, "lm-teacher", store="top-k"))]
    )
    _fill(stored, world)
    arms = {
        "served": _time(context, _step(context, world, open_pool(context, [spec]))),
        "stored": _time(context, _step(context, world, stored)),
        "plain": _time(context, _build_dense(context, world, spec)),
    }
    rounds = alternate(arms, context.rounds)
    tokens = context.size.rows * context.size.tokens
    return [
        _compare("LM served top-k, tokens/s / plain dense KL", rounds, "plain", "served", ">= 1.0", tokens),
        _compare("LM stored top-k, tokens/s / plain dense KL", rounds, "plain", "stored", ">= 2.2", tokens),
    ]


def measure_hidden(context: Context) -> list[Figure]:
    """A student that a served teacher answers with hidden states against dense KL."""
    world = _build_world(context, "hidden")
    spec = context.get_teacher(world, context.size.teacher, "lm-teacher")
    arms = {
        "served": _time(context, _step(context, world, open_pool(context, [spec]))),
        "plain": _time(context, _build_dense(context, world, spec)),
    }
    rounds = alternate(arms, context.rounds)
    tokens = context.size.rows * context.size.tokens
    return [
        _compare("LM served hidden, tokens/s / plain dense KL", rounds, "plain", "served", ">= 1.0", tokens)
    ]


def measure_memory(context: Context) -> list[Figure]:
    """Peak of a student with stored top-k answers against a plain loop, whose teacher's weights are taken off."""
    world = _build_world(context, "top_k")
    spec = context.get_teacher(world, context.size.teacher, "lm-teacher", store="top-k")
    source = LocalSource([Teacher(spec)])
    _fill(source, world)
    source = LocalSource([Teacher(spec)])  # reads the store, holds no weights
    with context.peak() as own:
        stepper = build_stepper(world, source, context.device)
        stepper.run(3)
        stepper.close()
        del stepper
    with context.peak() as plain:
        teacher = _load_teacher(context, spec)
        weights = sum(p.numel() * p.element_size() for p in teacher.parameters())
        arm = Plain(_build_model(world), _batches(context, world), make_dense_loss(teacher), context.device)
        for _ in range(3):
            arm.step()
        del arm, teacher
    if not own or not plain:
        return [Figure("peak memory of the student's side / plain", None, "<= 0.6")]
    beside = plain[0] - weights
    detail = f"{own[0] / 2**30:.2f} / {beside / 2**30:.2f} GiB; plain with its teacher {plain[0] / 2**30:.2f}"
    return [Figure("peak memory of the student's side / plain", own[0] / beside, "<= 0.6", detail)]


def measure_idle(context: Context) -> list[Figure]:
    """Share of an online student's time in which it waits for answers, with a teacher as large as itself."""
    world = _build_world(context, "top_k")
    spec = context.get_teacher(world, context.size.student, "lm-small-teacher")
    stepper = _step(context, world, open_pool(context, [spec]))
    seconds = stepper.time_block(4 * context.steps, skipped=4)
    idle = stepper.waited_s / (4 * context.steps)
    detail = f"waits {1e3 * idle:.1f} of {1e3 * seconds:.1f} ms a step"
    return [Figure("student idle, online, teacher as large as it, %", 100 * idle / seconds, "<= 5", detail)]


def _build_world(context: Context, answers: Answers) -> World:
    return build_language_world(
        context.size, answers, count=BATCHES * context.size.rows, precision="bfloat16"
    )


def _step(context: Context, world: World, source: SignalSource | None) -> Stepper:
    stepper = build_stepper(world, source, context.device)
    context.closing(stepper.close)
    return stepper


def _time(context: Context, arm: Stepper | Plain) -> Callable[[], float]:
    return lambda: arm.time_block(context.steps)


def _batches(context: Context, world: World) -> list[dict[str, torch.Tensor]]:
    return collect_batches(world, BATCHES, context.device)


def _build_model(world: World) -> nn.Module:
    return cast("nn.Module", world.build_student().model)


def _build_plain(context: Context, world: World) -> Plain:
    return Plain(_build_model(world), _batches(context, world), compute_language_loss, context.device)


def _load_teacher(context: Context, spec: TeacherSpec) -> nn.Module:
    path: Any = spec.teacher.model_path
    model = cast("nn.Module", models.load_model(path, head=spec.task.head).model)
    return model.to(device=context.device, dtype=torch.bfloat16).eval().requires_grad_(False)


def _build_dense(context: Context, world: World, spec: TeacherSpec) -> Plain:
    loss = make_dense_loss(_load_teacher(context, spec))
    return Plain(_build_model(world), _batches(context, world), loss, context.device)


def _fill(source: LocalSource, world: World) -> None:
    """Let a teacher answer all rows, so that its store has them."""
    rows, size = world.prepared.train, world.config.train.batch_size
    for begin in range(0, len(rows), size):
        source.submit(rows.take(range(begin, begin + size))).result()


def _compare(what: str, rounds: Rounds, above: str, below: str, goal: str, tokens: int = 0) -> Figure:
    middle, low, high = rounds.ratio(above, below)
    times = f"{above} {rounds.median_ms(above):.1f} ms, {below} {rounds.median_ms(below):.1f} ms a step"
    rate = f"; {tokens / rounds.median_ms(below):.0f} thousand tokens/s" if tokens else ""
    return Figure(what, middle, goal, f"{low:.2f}-{high:.2f}; {times}{rate}")
