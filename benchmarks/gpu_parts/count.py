"""What `benchmarks.gpu --count` counts for a step on a CPU, beside the goals of an accelerator.

Decision record: what raykd chooses by the device is counted as it chooses on a GPU: chunks of the size that a GPU with
free memory takes, and batches of a student and passes of a teacher of few shapes.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from unittest.mock import patch

import torch

from benchmarks.gpu_parts.counting import VIEWS, Operators, Syncs, recording_shapes
from benchmarks.gpu_parts.steps import (
    Plain,
    StoredSource,
    build_stepper,
    collect_batches,
    compute_class_loss,
    compute_language_loss,
)
from benchmarks.gpu_parts.worlds import (
    FULL,
    Answers,
    Shape,
    World,
    build_language_world,
    build_texts_world,
    make_rows,
    make_texts,
    save_teacher,
)
from raykd.answers.source import SignalSource
from raykd.distill import chunk_size
from raykd.teachers.backends.model import ModelBackend
from raykd.teachers.source import LocalSource
from raykd.teachers.teacher import Teacher

CPU = torch.device("cpu")
NARROW = replace(
    FULL,
    name="narrow",
    base=Shape(12, 48, 2),
    classifier=Shape(6, 48, 2),
    wordpieces=2000,
    teacher=Shape(1, 64, 2),
    student=Shape(10, 64, 2),
)
"""As deep, long and rich in words as in the table, but narrow: what is counted does not depend on the width."""
SHAPES, SYNCS, CHUNKS, OPERATORS = 16, 1, 8, 1.1


@dataclass(frozen=True)
class Counted:
    """One line: what was counted, and its goal. detail is for people."""

    what: str
    value: float
    goal: float
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.value <= self.goal


def count_step(world: World, source: SignalSource | None) -> tuple[Operators, Syncs]:
    """Count one step of the world's loop, from the end of the step before it.

    The first steps, which make buffers, are not counted. Operators and waits are counted in two steps, since the
    counters would count each other's work; what lies on the device is followed from the loop's beginning.
    """
    syncs = Syncs()
    with syncs:
        stepper = build_stepper(world, source, CPU)
        stepper.run(2)
        syncs.counts.clear()
        stepper.run(1)
    operators = Operators()
    with operators:
        stepper.run(1)
    stepper.close()
    return operators, syncs


def count_plain(plain: Plain) -> Operators:
    """Count one step of plain torch."""
    plain.step()
    plain.step()
    operators = Operators()
    with operators:
        plain.step()
    return operators


def _count_texts() -> list[Counted]:
    world = build_texts_world(NARROW, teachers=0, count=256, precision="bfloat16")
    operators, syncs = count_step(world, None)
    plain = Plain(world.build_student().model, collect_batches(world, 4, CPU), compute_class_loss, CPU)
    beside = count_plain(plain)
    name = "classifier 6 layers, bf16, gold labels"
    return [_compare(name, operators, beside), _waits(name, syncs)]


def _count_taught_texts(folder: Path) -> list[Counted]:
    world = build_texts_world(NARROW, teachers=3, count=96, precision="bfloat16")
    teachers = [Teacher(save_teacher(world, Shape(1, 32, 2), NARROW, folder / f"t{i}", i)) for i in range(3)]
    source = StoredSource(LocalSource(teachers))
    source.fill(world.prepared.train)
    _, syncs = count_step(world, source)
    return [_waits("classifier, bf16, stored answers of 3 teachers", syncs)]


def _count_language(answers: Answers, folder: Path) -> list[Counted]:
    size = NARROW
    world = build_language_world(size, answers, count=size.rows, precision="bfloat16")
    source = None
    if answers != "none":
        spec = replace(save_teacher(world, size.teacher, size, folder / answers), dtype="float32")
        source = StoredSource(LocalSource([Teacher(spec)]))
        source.fill(world.prepared.train)
    with patch.object(chunk_size, "CPU_BYTES", chunk_size.CUDA_BYTES):
        operators, syncs = count_step(world, source)
    title = {"none": "gold labels", "top_k": "top-64", "hidden": "hidden states"}[answers]
    name = f"LM {size.rows} x {size.tokens} x {size.vocabulary}, bf16, {title}"
    found = [_waits(name, syncs)]
    # A teacher's head has as many rows: hidden states are multiplied by both.
    heads = 2 if answers == "hidden" else 1
    chunks = math.ceil(operators.count_chunks(size.vocabulary) / heads)
    found.append(Counted(f"chunks: {name}", chunks, CHUNKS, f"{size.rows * (size.tokens - 1)} units"))
    if answers == "none":
        small = build_language_world(replace(size, rows=2, tokens=64), answers, count=4)
        plain = Plain(small.build_student().model, collect_batches(small, 2, CPU), compute_language_loss, CPU)
        found.append(_compare(name, operators, count_plain(plain)))
    return found


def _count_shapes(folder: Path, steps: int = 100, batches: int = 12) -> list[Counted]:
    size = replace(NARROW, classifier=Shape(1, 16, 2), base=Shape(1, 16, 2))
    world = build_texts_world(size, teachers=1, count=32 * steps, precision="float32")
    vocabulary = len(world.tokenizer)
    teacher = Teacher(save_teacher(world, size.base, size, folder / "shapes"))
    source = StoredSource(LocalSource([teacher]))
    source.fill(world.prepared.train, at_once=size.texts)
    stepper = build_stepper(world, source, CPU)
    stepper.loop.trainer.has_few_shapes = True
    with recording_shapes(vocabulary) as student:
        stepper.run(steps)
        stepper.loop.evaluate()
    stepper.close()
    backend = cast("ModelBackend", teacher.backend)
    backend.has_few_shapes = True
    with recording_shapes(vocabulary) as served:
        for number in range(batches):
            texts = make_texts(size.texts, mean=16, longest=60, seed=100 + number)
            backend.compute(make_rows(texts).without_labels())
    return [
        _shapes(f"student, {steps} steps of 32 reviews and scoring", student),
        _shapes(f"teacher, {batches} batches of {size.texts} reviews", served),
    ]


def _compare(name: str, ours: Operators, plain: Operators) -> Counted:
    more = Counter({key: ours.counts[key] - plain.counts[key] for key in ours.counts if key not in VIEWS})
    most = ", ".join(f"{key} {count:+d}" for key, count in more.most_common(4) if count > 0)
    detail = f"{ours.kernels} / {plain.kernels}" + (f"; {most}" if most else "")
    return Counted(f"operators / plain autocast: {name}", ours.kernels / plain.kernels, OPERATORS, detail)


def _waits(name: str, syncs: Syncs) -> Counted:
    return Counted(f"host syncs: {name}", syncs.total, SYNCS, syncs.describe().partition(": ")[2])


def _shapes(name: str, shapes: Counter[tuple[int, ...]]) -> Counted:
    rows = len({shape[0] for shape in shapes})
    lengths = len({shape[1] for shape in shapes})
    return Counted(f"shapes: {name}", len(shapes), SHAPES, f"{rows} numbers of rows, {lengths} lengths")


def count_parts(only: str | None = None) -> Iterator[Counted]:
    """Count part by part.

    Args:
        only: Names of parts with commas between; None is all.

    Raises:
        ValueError: There is no such part.
    """
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        parts: dict[str, Callable[[], list[Counted]]] = {
            "texts": _count_texts,
            "taught": lambda: _count_taught_texts(place),
            "none": lambda: _count_language("none", place),
            "top_k": lambda: _count_language("top_k", place),
            "hidden": lambda: _count_language("hidden", place),
            "shapes": lambda: _count_shapes(place),
        }
        chosen = list(parts) if only is None else only.split(",")
        if unknown := set(chosen) - parts.keys():
            raise ValueError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
        for name in chosen:
            yield from parts[name]()
