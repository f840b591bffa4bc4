"""What a distillation step costs: student alone, teachers in its own process, teachers in actors as raykd serves them.

Usage: python -m benchmarks.step [--data DIR] [--rounds 9] [--only stored]

DIR holds sentiment/{zh,en,fr}/train.jsonl with text, label and lang; without it the embedded corpus is used.
Teachers: three of 6 layers x 384, all asked for every row. Student: 2 layers x 128. Batch 32. All random weights.
``--only stored`` compares single steps in turn over the same batches, by CPU seconds: with stored answers, bare (gold
labels alone), and a plain torch loop; it starts no Ray and no teacher.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from benchmarks.measure import Rounds, alternate, show, timed
from benchmarks.step_parts.stored import report_stored, run_stored_steps
from raykd import models
from raykd.answers.answer import DenseAnswer
from raykd.answers.codec import encode_rows
from raykd.answers.source import AnswerSlots
from raykd.config import ActorConfig, ModelTeacher, RunConfig, ServingConfig
from raykd.data.load import load_data
from raykd.student.loop import TrainingLoop
from raykd.student.prefetch import Prefetcher, StepWork
from raykd.student.prepare import prepare_rows
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.source import ReadyBatch
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.wire import GroupRequest
from raykd.text.batch import TextBatch

LABELS = ("negative", "positive")
MAX_LENGTH = 128
STEPS, SKIPPED = 8, 3
TEACHERS = 3


def config_of(data: Path | None) -> RunConfig:
    """Student and data of the benchmark."""
    source: Any = {"kind": "embedded", "rows_per_language": 1500}
    validation: Any = {"kind": "embedded", "split": "validation", "rows_per_language": 20}
    if data is not None:
        files = [str(data / "sentiment" / lang / "train.jsonl") for lang in ("zh", "en", "fr")]
        source = {"kind": "files", "paths": files}
        validation = {"kind": "files", "paths": [f.replace("train", "validation") for f in files]}
    return RunConfig.model_validate(
        {
            "data": {"train": source, "validation": validation, "labels": LABELS, "languages": ["zh", "en", "fr"]},
            "task": {"kind": "classification", "max_length": MAX_LENGTH},
            "student": {"kind": "transformer", "layers": 2, "hidden": 128, "heads": 2, "vocab_size": 8000},
            "teachers": [{"name": f"t{i}", "languages": "all", "path": "none"} for i in range(TEACHERS)],
            "objective": {"alpha": 0.5, "weighting": {"kind": "uniform"}},
            "train": {"steps": 1_000_000, "batch_size": 32, "evaluations": 1},
        }
    )  # fmt: skip


class PlainTeachers:
    """What a plain loop does: every teacher in this process, fp32, every text padded to the maximum."""

    def __init__(self, directories: list[Path]) -> None:
        self._models = [models.load_model(d) for d in directories]
        self.teachers = tuple(f"t{i}" for i in range(len(directories)))
        self.teacher_languages = (None,) * len(directories)
        for each in self._models:
            each.model.eval()

    def submit(self, batch: TextBatch) -> ReadyBatch:
        """Runs all teachers, one after the other."""
        answers = []
        for name, each in zip(self.teachers, self._models, strict=True):
            encoded: Any = each.tokenizer(
                list(batch.texts),
                truncation=True,
                max_length=MAX_LENGTH,
                padding="max_length",
                return_tensors="pt",
            )  # type: ignore[call-arg]
            with torch.no_grad():
                logits_NC = each.model(**encoded).logits.numpy()
            answer = DenseAnswer(logits_NC=logits_NC, covered_N=np.ones(len(batch), dtype=bool))
            bodies = encode_rows(answer, np.ones(len(batch), dtype=np.int64), answer.covered_N)
            answers.append(AnswerSlots(name, bodies))
        return ReadyBatch(answers)


class Arm:
    """One way to run the loop; a block of steps on each call, the first of them not counted."""

    def __init__(self, loop: TrainingLoop, source: Any, threads: int, padded: bool = False) -> None:
        self.loop, self.threads, self.source = loop, threads, source
        self.served_cpu: list[float] = []
        loop.trainer.source = source
        self._encoded = loop.trainer.tokens
        self._work: Iterator[StepWork] = Prefetcher(
            loop.ask, loop.config.serving.prefetch if not padded else 1
        ).steps(0, loop.total_steps)
        self.cpu: list[float] = []
        self.busy: list[float] = []
        if padded:
            loop.trainer.make_micro_batch = self._padded(loop.trainer.make_micro_batch)  # type: ignore[method-assign]

    @staticmethod
    def _padded(micro: Any) -> Any:
        def make(rows: Any, answers: Any) -> Any:
            made = micro(rows, answers)
            for name, value in made.encoded.inputs.items():
                wide = torch.zeros(len(value), MAX_LENGTH, dtype=value.dtype)
                wide[:, : value.shape[1]] = value
                made.encoded.inputs[name] = wide
            return replace(made, encoded=replace(made.encoded, padded=True))

        return make

    def __call__(self) -> float:
        torch.set_num_threads(self.threads)
        for _ in range(SKIPPED):
            self.loop.step(next(self._work))
        cpu, served_cpu = time.process_time(), self._served_cpu()
        teacher_s = 0.0
        begun = time.perf_counter()
        for _ in range(STEPS):
            work = next(self._work)
            if work.answers is not None:
                teacher_s += sum(signal.latency_s for signal in work.answers[0])
            self.loop.step(work)
        elapsed = time.perf_counter() - begun
        self.busy.append(teacher_s / elapsed)
        self.cpu.append((time.process_time() - cpu) / elapsed)
        self.served_cpu.append((self._served_cpu() - served_cpu) / elapsed)
        return elapsed / STEPS

    def _served_cpu(self) -> float:
        handle = getattr(self.source, "handle", None)
        if handle is None:
            return 0.0
        return sum(
            seconds for seconds, _ in ray.get([a.usage.remote() for group in handle.replicas for a in group])
        )


def make_loop(config: RunConfig, data: Any, teachers: bool) -> TrainingLoop:
    """A fresh student on the benchmark's rows."""
    if not teachers:
        config = config.model_copy(
            update={"objective": config.objective.model_copy(update={"alpha": _one()})}
        )
    tokenizer = config.student.fit_tokenizer(data.train.texts)
    student = models.TextModel(
        config.student.build(tokenizer, LABELS, 0), tokenizer, LABELS, max_length=MAX_LENGTH
    )
    prepared = prepare_rows(config, data.train, data.validation, tokenizer)
    return TrainingLoop(config, prepared, student, _Never() if teachers else None)


class _Never:
    teachers = tuple(f"t{i}" for i in range(TEACHERS))
    teacher_languages = (None,) * TEACHERS

    def submit(self, batch: TextBatch) -> Any:
        raise AssertionError("replaced by an arm")


def _one() -> Any:
    from raykd.distill.schedules import Constant

    return Constant(value=1.0)


def make_teachers(root: Path, texts: tuple[str, ...]) -> list[Path]:
    """Three teachers of 6 layers x 384 with random weights, saved as a user would have them."""
    directories = []
    for i in range(TEACHERS):
        spec = models.TransformerStudent(layers=6, hidden=384, heads=6, vocab_size=20000)
        tokenizer = spec.fit_tokenizer(texts)
        models.save_model(
            models.TextModel(spec.build(tokenizer, LABELS, i), tokenizer, LABELS, max_length=MAX_LENGTH),
            root / f"t{i}",
        )
        directories.append(root / f"t{i}")
    return directories


def hop_ms(handle: Any, data: Any, calls: int = 100) -> float:
    """A whole round trip with 32 texts that no teacher has to compute, milliseconds, median."""
    batch = data.train.take(range(32))
    request = GroupRequest(batch, np.zeros((TEACHERS, 32), dtype=bool))
    return 1e3 * float(
        np.median([timed(lambda: ray.get(handle.answer.remote(request)), 1) for _ in range(calls)])
    )


def deepspeed_ratio(config: RunConfig, data: Any, rounds: int) -> Rounds:
    """An optimizer step of the engine against the same step in plain torch, student alone, one thread."""
    torch.set_num_threads(1)
    loop = make_loop(config, data, teachers=False)
    plain = config.student.build(loop.student.tokenizer, LABELS, 0)
    plain.train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    state = {"step": 0}
    encoded = [
        loop.trainer.task.collate(loop.trainer.tokens, loop.trainer.stream.batch(i).tolist())
        for i in range(64)
    ]

    def engine_step() -> None:
        batch = encoded[state["step"] % 64]
        state["step"] += 1
        loss = torch.nn.functional.cross_entropy(loop.engine.forward(**batch.inputs), batch.labels_N)
        loop.engine.backward(loss)
        loop.engine.step()

    def plain_step() -> None:
        batch = encoded[state["step"] % 64]
        state["step"] += 1
        loss = torch.nn.functional.cross_entropy(plain(**batch.inputs).logits, batch.labels_N)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def block(step: Any) -> Any:
        def run() -> float:
            state["step"] = 0
            return timed(step, 16)

        return run

    return alternate({"deepspeed": block(engine_step), "plain torch": block(plain_step)}, rounds)


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("stored",), default=None)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    config = config_of(options.data)
    data = load_data(config.data, Path.cwd(), config.form)
    torch.set_num_threads(1)
    loops = (make_loop(config, data, teachers) for teachers in (True, False))
    report_stored(run_stored_steps(*loops, options.rounds))
    if options.only == "stored":
        return

    from raykd.cluster.connection import connect_ray
    from raykd.teachers.pools.own_pool import OwnPool, Placement

    with tempfile.TemporaryDirectory() as folder:
        directories = make_teachers(Path(folder), data.train.texts)
        connect_ray(config.ray)
        specs = [
            TeacherSpec(ModelTeacher(name=f"t{i}", languages="all", path=str(d)), LABELS, config.task)
            for i, d in enumerate(directories)
        ]
        share = round(1 / TEACHERS, 4)
        actor = ActorConfig(num_cpus=share, group="teachers")
        pool = OwnPool([Placement(s, actor) for s in specs], ServingConfig())
        infos = pool.open()
        served = PoolSource(pool.handle)
        languages = tuple(frozenset({lang}) for lang in config.data.languages)
        routed = PoolSource(replace(pool.handle, teacher_languages=languages))
        arms = {
            "student only, 1 thread": Arm(make_loop(config, data, teachers=False), None, 1),
            "student only, 2 threads": Arm(make_loop(config, data, teachers=False), None, 2),
            "in process, fp32, padded, 2 threads": Arm(
                make_loop(config, data, teachers=True), PlainTeachers(directories), 2, padded=True
            ),
            "served by an actor, 1 + 1 threads": Arm(make_loop(config, data, teachers=True), served, 1),
            "served and routed by language": Arm(make_loop(config, data, teachers=True), routed, 1),
        }
        rounds = alternate(arms, options.rounds)
        counters = pool.counters()
        torch.set_num_threads(1)
        calls = served.replicas.calls / ((options.rounds + 1) * (STEPS + SKIPPED) + config.serving.prefetch)
        hop = hop_ms(pool.handle.replicas[0][0], data)
        ds = deepspeed_ratio(config, data, options.rounds)
        report(
            rounds,
            ds,
            arms,
            hop,
            counters,
            infos,
            calls,
            ray.get(pool.handle.replicas[0][0].usage.remote())[1],
        )
        pool.stop()


def report(
    rounds: Rounds,
    ds: Rounds,
    arms: dict[str, Arm],
    hop: float,
    counters: Any,
    infos: Any,
    calls: float,
    threads: int,
) -> None:
    """The table."""
    one, _, plain, served, routed = arms
    lines = []
    for name in arms:
        middle, low, high = rounds.ratio(name, one)
        lines.append(
            [name, f"{rounds.median_ms(name):.1f} ms", f"{middle:.2f}", f"{low:.2f}-{high:.2f}",
             f"{np.median(arms[name].cpu):.2f} + {np.median(arms[name].served_cpu):.2f}"]
        )  # fmt: skip
    show("one step of 32 texts, 3 teachers of 6 x 384, student 2 x 128",
         ["arm", "median step", "x student only", "quartiles", "CPU / wall, student + teachers"], lines)  # fmt: skip
    gain, low, high = rounds.ratio(plain, served)
    routed_gain, routed_low, routed_high = rounds.ratio(plain, routed)
    student_ms, step_ms = rounds.median_ms(one), rounds.median_ms(served)
    busy = float(np.median(arms[served].busy))
    ratio, ds_low, ds_high = ds.ratio("deepspeed", "plain torch")
    real = sum(c["real_tokens"] for c in counters.values()) / sum(
        c["computed_tokens"] for c in counters.values()
    )
    bound = max(busy, student_ms / step_ms)
    overlap = f"max({busy * step_ms:.0f}, {student_ms:.0f}) / {step_ms:.0f} ms = {bound:.2f}"
    show("figures", ["figure", "value", "goal"], [
        ["in process / served, every teacher answers every row", f"{gain:.2f} x ({low:.2f}-{high:.2f})", "at least 3"],
        ["in process / served and routed by language", f"{routed_gain:.2f} x ({routed_low:.2f}-{routed_high:.2f})", "at least 3"],
        ["max(teacher, student) / step", overlap, "at least 0.9"],
        ["Ray hop (round trip, nothing to compute)", f"{hop:.2f} ms", "at most 2 ms"],
        ["calls a batch and teacher group", f"{calls:.2f}", "1"],
        ["teacher precision", f"{infos[0].dtype} ({infos[0].dtype_reason})", ""],
        ["real / computed tokens in teachers", f"{real:.2f}", "at least 0.85"],
        ["intra-op threads, student + teachers", f"{arms[served].threads} + {threads} of {os.cpu_count()} cores", "at most the cores"],
        ["DeepSpeed / plain torch step", f"{ratio:.3f} ({ds_low:.3f}-{ds_high:.3f})", "at most 1.10"],
    ])  # fmt: skip


if __name__ == "__main__":
    main()
