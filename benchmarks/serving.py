"""What a run's first epoch costs at the teachers: requests of training batches, answered while the student trains.

    python -m benchmarks.serving [--texts 320] [--rounds 5] [--dtype float32]

Three teachers of 6 layers x 384 share one process of one thread and answer every text. The student is a product of
matrices that takes about 45 ms of one thread a step. Batches hold 32 texts of like length, two steps are asked ahead,
nothing is stored. Arms of a round run in turn:

  plain forward     the same batches through the same models in this process, one thread, no server: the floor
  served            one teacher thread beside the student's, as before threads were lent
  served, lent      the student's process lends its thread while it waits

CPU seconds are those of the process that computes. Weights are random.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import deque
from typing import Any

import numpy as np
import ray
import torch

from benchmarks.measure import show
from benchmarks.peer_parts.setting import BATCH, LABELS, MAX_LENGTH, Setting, make_files
from benchmarks.sweep_parts.setting import read_lines
from raykd import models
from raykd.cluster.connection import connect_ray
from raykd.config import ActorConfig, ModelTeacher, RayConfig, ServingConfig
from raykd.tasks import Classification
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.own_pool import OwnPool, Placement
from raykd.teachers.spec import TeacherSpec
from raykd.text.batch import TextBatch

STUDENT_S = 0.045
AHEAD = 2


def make_batches(setting: Setting) -> list[TextBatch]:
    """Return the texts of an epoch in batches of like length, in random order."""
    texts = sorted({row["text"] for row in read_lines(setting.folder / "train.jsonl")}, key=len)
    parts = [texts[at : at + BATCH] for at in range(0, len(texts) - BATCH + 1, BATCH)]
    np.random.default_rng(0).shuffle(parts)  # type: ignore[arg-type]
    return [
        TextBatch(tuple(part), tuple(part), ("en",) * len(part), np.zeros(len(part), np.int64))
        for part in parts
    ]


def make_specs(setting: Setting, dtype: str) -> list[TeacherSpec]:
    """Return the teachers, which store nothing."""
    task = Classification(max_length=MAX_LENGTH)
    return [
        TeacherSpec(
            ModelTeacher(name=folder.name, languages="all", path=str(folder.resolve())),
            LABELS,
            task,
            dtype=dtype,
        )
        for folder in setting.teachers
    ]


def train_student() -> None:
    """Compute for as long as a step of the student takes."""
    square = torch.ones(256, 256)
    until = time.perf_counter() + STUDENT_S
    while time.perf_counter() < until:
        torch.mm(square, square)


def run_epoch(source: PoolSource, batches: list[TextBatch]) -> None:
    """Ask ahead as a run does, wait, train."""
    ahead: deque[Any] = deque()
    sent = 0
    for step in range(len(batches)):
        while sent < len(batches) and sent <= step + AHEAD:
            ahead.append(source.submit(batches[sent]))
            sent += 1
        ahead.popleft().result()
        train_student()


def make_plain_arm(setting: Setting, dtype: str, batches: list[TextBatch]) -> Any:
    """Return a function that runs the batches through the models in this process."""
    loaded = [models.load_model(folder) for folder in setting.teachers]
    for each in loaded:
        each.model.to(dtype=getattr(torch, dtype)).eval()  # type: ignore[call-arg, arg-type]

    def run() -> None:
        with torch.inference_mode():
            for each in loaded:
                for batch in batches:
                    inputs: Any = each.tokenizer(  # type: ignore[call-arg]
                        list(batch.texts),
                        truncation=True,
                        max_length=MAX_LENGTH,
                        padding=True,
                        return_tensors="pt",
                    )
                    each.model(**inputs).logits.float().numpy()

    return run


def measure(setting: Setting, dtype: str, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return wall and CPU seconds of each arm in each round; the first round warms up and is left out."""
    batches = make_batches(setting)
    plain = make_plain_arm(setting, dtype, batches)
    placements = [
        Placement(spec, ActorConfig(num_cpus=round(1 / 3, 4), group="teachers"))
        for spec in make_specs(setting, dtype)
    ]
    pool = OwnPool(placements, ServingConfig(store=None))
    pool.open()
    pool.load()
    actor = pool.handle.replicas[0][0]
    sources = {"served": PoolSource(pool.handle), "served, lent": PoolSource(pool.handle, idle_threads=1)}
    found: dict[str, list[tuple[float, float]]] = {"plain forward": [], **{name: [] for name in sources}}
    for number in range(rounds + 1):
        for name, results in found.items():
            own, others = time.process_time(), ray.get(actor.usage.remote())[0]
            begun = time.perf_counter()
            plain() if name == "plain forward" else run_epoch(sources[name], batches)
            wall = time.perf_counter() - begun
            cpu = ray.get(actor.usage.remote())[0] - others
            if name == "plain forward":
                cpu = time.process_time() - own
            if number:
                results.append((wall, cpu))
    pool.stop()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--work", default="runs/benchmark-serving")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(options.work, texts=options.texts, cores=os.cpu_count() or 1)
    make_files(setting)
    connect_ray(RayConfig(num_cpus=2))
    found = measure(setting, options.dtype, options.rounds)
    floor = found["plain forward"]
    lines = []
    for name, results in found.items():
        wall, cpu = np.median(results, axis=0)
        ratios = np.asarray(results) / np.asarray(floor)
        lines.append(
            [name, f"{wall:.2f}", f"{cpu:.2f}", *(f"{ratio:.2f}" for ratio in np.median(ratios, axis=0))]
        )
    heads = ["arm", "wall s", "CPU s of the teachers", "wall / plain", "CPU / plain"]
    show(f"{options.texts} texts x 3 teachers, {options.dtype}", heads, lines)


if __name__ == "__main__":
    main()
