"""The section of a sweep: `raykd sweep` from its start to its end, against plain loops one after the other.

Decision record: the plain arm is measured for one and for two trials, and follows its line to as many as raykd runs:
its trials share nothing but loaded teachers, and the table has minutes. Both arms are processes, start-up included.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.gpu_parts.context import Context
from benchmarks.gpu_parts.serving import close_ray
from benchmarks.gpu_parts.table import Figure
from benchmarks.gpu_parts.worlds import LABELS, build_texts_world
from raykd import models

TEACHERS = 3


def measure_sweep(context: Context) -> list[Figure]:
    """A sweep of 8 trials on one GPU in shares; 2 short ones at the toy size."""
    trials, steps = (8, 400) if context.is_full else (2, 12)
    folder = context.folder / "sweep"
    close_ray()  # the commands begin their own
    _prepare(context, folder, steps)
    left = context.left_s
    plain = [
        _run(["benchmarks.gpu_parts.plain_sweep", str(folder), str(n), str(steps), context.device.type], left)
        for n in (1, 2)
    ]
    line = plain[0] + (trials - 1) * (plain[1] - plain[0])
    space = folder / "space.yaml"
    space.write_text(yaml.safe_dump(_build_sweep(context, folder, trials, steps)), encoding="utf-8")
    taken = _run(["raykd.cli", "sweep", str(space)], left - sum(plain))
    detail = (
        f"plain {line:.0f} s on its line (1 trial {plain[0]:.0f} s, 2 trials {plain[1]:.0f} s), raykd {taken:.0f} s; "
        f"{trials} trials of {steps} steps"
    )
    return [Figure(f"sweep of {trials} trials, plain loops / raykd", line / taken, ">= 6", detail)]


def _run(arguments: list[str], limit_s: float) -> float:
    """Run a module to its end and return its wall time.

    Raises:
        RuntimeError: It failed; with the end of its output.
        TimeoutExpired: It took longer than is left; it was ended.
    """
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        timeout=max(1.0, limit_s),
        check=False,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise RuntimeError(f"{arguments[0]} ended with {done.returncode}: {tail}")
    return time.perf_counter() - begun


def _prepare(context: Context, folder: Path, steps: int) -> None:
    """Write rows, teachers and the plain arm's student."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    world = build_texts_world(context.size, teachers=TEACHERS, count=16 * steps)
    for name, rows in (("train", world.prepared.train), ("validation", world.prepared.validation)):
        lines = [
            {"text": text, "label": LABELS[label], "lang": "en"}
            for text, label in zip(rows.texts, rows.labels_B.tolist(), strict=True)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    student = world.build_student()
    models.save_model(student, folder / "student")
    for number in range(TEACHERS):
        spec = context.get_teacher(world, context.size.base, f"sweep-teacher-{number}")
        (folder / f"teacher-{number}").symlink_to(Path(str(spec.teacher.model_path)).resolve())


def _build_sweep(context: Context, folder: Path, trials: int, steps: int) -> dict[str, Any]:
    """Return a sweep over alpha and temperature, with shares of the GPU where there is one."""
    on_gpu = context.on_gpu
    actor = {"num_cpus": 0.3, "num_gpus": 0.1 if on_gpu else 0.0, "group": "teachers"}
    base = {
        "output": str(folder / "runs"),
        "data": {
            "train": {"kind": "files", "paths": [str(folder / "train.jsonl")]},
            "validation": {"kind": "files", "paths": [str(folder / "validation.jsonl")]},
            "labels": list(LABELS),
            "languages": ["en"],
        },
        "task": {"kind": "classification", "max_length": 128},
        "student": {
            "kind": "transformer",
            **context.size.classifier.as_settings(),
            "vocab_size": context.size.wordpieces,
        },
        "teachers": [
            {
                "name": f"t{i}",
                "languages": "all",
                "path": str(folder / f"teacher-{i}"),
                "on_poor": "warn",
                "actor": dict(actor),
            }
            for i in range(TEACHERS)
        ],
        "objective": {"alpha": 0.5, "temperature": 2.0, "weighting": {"kind": "uniform"}},
        "train": {"steps": steps, "batch_size": 32, "evaluations": 2, "precision": "bfloat16"},
        "workers": {"num_workers": 1, "num_cpus": 1, "num_gpus": 0.2 if on_gpu else 0.0},
    }
    return {
        "name": "gpu-sweep",
        "base": base,
        "space": {"objective": {"alpha": {"uniform": [0.1, 0.9]}, "temperature": {"uniform": [1.0, 4.0]}}},
        "search": {"kind": "random", "seed": 0},
        "scheduler": {"kind": "fifo"},
        "num_samples": trials,
    }
