"""What is measured inside of processes: bare student, step, memory, store, filling, reporting, tokens, threads.

Runs as a command of its own, so that the sweeps' timing has nothing of it in memory; writes each part as it comes.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import tune

from benchmarks.class_answers import encode_logits
from benchmarks.sweep_parts.probe import BARE, DISTILLED, Alone, Objectives, Probe, median
from benchmarks.sweep_parts.setting import LABELS, Setting, read_lines, run_tree
from raykd.cluster.connection import connect_ray
from raykd.cluster.mailbox import Mailbox
from raykd.config import RunConfig
from raykd.data.load import Dataset, load_data
from raykd.data.rows import Rows
from raykd.data.stream import BatchStream
from raykd.driver.pool import start_pool
from raykd.runs.labelling import label_rows
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.store import SignalStore
from raykd.tuning.trial import RESUMED_FROM, TrialHost
from raykd.tuning.trial_rank import TrialContext

FILE = "inside.json"
READ_ROWS, READS, BATCH = 100_000, 400, 32
FILL_ROWS = 384


class Inside:
    """The parts, over one cluster and one pool that has answered everything and is parked."""

    def __init__(self, setting: Setting, repeats: int, rounds: int) -> None:
        self.setting, self.repeats, self.rounds = setting, repeats, rounds
        self.output = setting.work / "output-inside"
        self.config = RunConfig.model_validate(run_tree(setting, self.output))
        self.data: Dataset = load_data(self.config.data, Path.cwd())
        self._pool: TeacherPool | None = None
        self.teacher_parameters = 0
        self.teacher_threads: dict[str, list[int]] = {}
        connect_ray(self.config.ray)

    def pool(self) -> TeacherPool:
        """Parked, every training text answered."""
        if self._pool is None:
            self._pool, infos = start_pool(self.config, {})
            self.teacher_parameters = sum(info.parameters for info in infos)
            self.teacher_threads["answering"] = self._threads(self._pool)
            label_rows(self._pool, self.data.train, self.config.objective.weighting, lambda done, total: None)
            self._pool.park()
            self.teacher_threads["parked"] = self._threads(self._pool)
        return self._pool

    @staticmethod
    def _threads(pool: TeacherPool) -> list[int]:
        return [ray.get(actor.usage.remote())[1] for group in pool.handle.replicas for actor in group]

    def shared(self) -> TrialContext:
        """What a sweep hands to its trials."""
        texts = self.data.train.texts
        tokenizer = self.config.student.fit_tokenizer(texts)
        return TrialContext(
            run_factory=Objectives(self.config),
            base=self.config,
            data={"": self.data},
            tokenizers={self.config.student.tokenizer_key(): tokenizer},
            pools={"": self.pool().handle},
            mailbox=ray.remote(Mailbox).options(num_cpus=0).remote(),
            folder=str(self.output / "checkpoints"),
            checkpoint_s=1e9,
        )

    def probe(self, shared: Any) -> Any:
        """A fresh process of one CPU."""
        return ray.remote(Probe).options(num_cpus=1).remote(shared, 0)

    # the parts ---------------------------------------------------------------------------------------------------

    def bare(self) -> dict[str, Any]:
        """As many bare students at once as a sweep has trials at once; and distilled ones in the same way."""
        shared = ray.put(self.shared())
        probes = [self.probe(shared) for _ in range(self.setting.cores)]
        found: dict[str, Any] = {"bare": [], "distilled": []}
        for number in range(self.repeats + 1):
            for name, sample in (("bare", BARE), ("distilled", DISTILLED)):
                ray.get([p.begin.remote(sample, None) for p in probes])
                runs = ray.get([p.go.remote() for p in probes])
                if number:
                    found[name] += runs
        found["threads"] = {**self.teacher_threads, "trials": ray.get([p.threads.remote() for p in probes])}
        for each in probes:
            ray.kill(each)
        return found

    def step(self) -> dict[str, Any]:
        """Step with stored answers against bare step, alternating in one process."""
        probe = self.probe(ray.put(self.shared()))
        found: dict[str, Any] = ray.get(probe.alternate.remote(self.rounds, 16))
        ray.kill(probe)
        return found

    def memory(self) -> dict[str, Any]:
        """Memory of a fresh process after a trial, with distillation and without, in turn."""
        shared = ray.put(self.shared())
        found: dict[str, list[Any]] = {"bare": [], "distilled": []}
        for _ in range(self.repeats):
            for name, sample in (("bare", BARE), ("distilled", DISTILLED)):
                probe = self.probe(shared)
                ray.get(probe.run.remote(sample))
                found[name].append(ray.get(probe.memory.remote()))
                ray.kill(probe)
                time.sleep(1.0)
        return {**found, "teacher_parameters": self.teacher_parameters}

    def store(self) -> dict[str, Any]:
        """Random rows of a store of many, and the bytes of one."""
        root = self.setting.work / "store-of-many"
        shutil.rmtree(root, ignore_errors=True)
        generator = np.random.default_rng(0)
        keys = [generator.bytes(32) for _ in range(READ_ROWS)]
        logits_NC = generator.normal(size=(READ_ROWS, len(LABELS))).astype(np.float32)
        bodies = encode_logits(logits_NC)
        store = SignalStore(root, "0" * 64)
        for begin in range(0, READ_ROWS, 96):
            store.put(keys[begin : begin + 96], bodies[begin : begin + 96])
        store.close()
        file = next(root.glob("*/answers.sqlite"))
        reader = SignalStore(root, "0" * 64, read_only=True)
        seconds = []
        for _ in range(READS):
            picked = generator.integers(READ_ROWS, size=BATCH)
            asked = [keys[i] for i in picked]
            begun = time.perf_counter()
            found = reader.get(asked)
            seconds.append(time.perf_counter() - begun)
            if found != [bodies[i] for i in picked]:
                raise SystemExit("the store does not hold what was put")
        size = file.stat().st_blocks * 512
        shutil.rmtree(root, ignore_errors=True)
        return {
            "rows": READ_ROWS,
            "read_ms": [1e3 * median(seconds), *(1e3 * float(q) for q in np.percentile(seconds, [25, 75]))],
            "file_bytes": size / READ_ROWS,
            "logical_bytes": len(bodies[0]),
            "sweep_reads_ms": self._reads_of_the_sweep(),
        }

    def _reads_of_the_sweep(self) -> float:
        """Milliseconds for the answers of all teachers to a batch of the sweep's texts, as a trial gets them."""
        source = PoolSource(self.pool().handle, self.config.objective.weighting)
        generator, seconds = np.random.default_rng(1), []
        for _ in range(READS):
            batch = self.data.train.take(generator.integers(len(self.data.train), size=BATCH).tolist())
            begun = time.perf_counter()
            source.submit(batch).result()
            seconds.append(time.perf_counter() - begun)
        if source.replicas.calls:
            raise SystemExit(f"{source.replicas.calls} calls to teachers whose answers are all stored")
        return 1e3 * median(seconds)

    def fill(self) -> dict[str, Any]:
        """Labelling by one teacher against its own forward passes, one thread each, over the same texts in turn."""
        shutil.rmtree(self.setting.work / "output-fill", ignore_errors=True)
        tree = run_tree(self.setting, self.setting.work / "output-fill")
        tree["teachers"] = tree["teachers"][:1]
        tree["teachers"][0]["actor"] = {"num_cpus": 1, "replicas": 1}
        config = RunConfig.model_validate(tree)
        parts = self._parts(self.repeats + 1)
        pool, _ = start_pool(config, {})
        spec = pool.handle.groups[0].specs[0]
        alone: Any = ray.remote(Alone).options(num_cpus=1).remote(_without_store(spec))
        label_s, own_s = [], []
        for number, rows in enumerate(parts):
            own = ray.get(alone.seconds.remote(rows.take(range(len(rows)))))
            labelled = label_rows(pool, rows, config.objective.weighting, lambda done, total: None)
            if labelled.forwarded != len(rows):
                raise SystemExit(f"{labelled.forwarded} of {len(rows)} texts were computed")
            if number:  # the first loads the weights
                label_s.append(labelled.seconds)
                own_s.append(own)
        pool.stop()
        ray.kill(alone)
        return {"rows": FILL_ROWS, "label_s": label_s, "own_s": own_s}

    def _parts(self, count: int) -> list[Rows]:
        """Texts that no sweep has seen, all languages in each part."""
        lines = read_lines(self.setting.work / "rest.jsonl")
        order = np.random.default_rng(0).permutation(len(lines))
        parts = []
        for at in range(count):
            picked = [lines[i] for i in order[at * FILL_ROWS : (at + 1) * FILL_ROWS]]
            if len(picked) < FILL_ROWS:
                raise SystemExit("too few texts are left to measure the filling: lower --steps or --repeats")
            labels = np.asarray([LABELS.index(r["label"]) for r in picked])
            ids = tuple(str(i) for i in range(len(picked)))
            parts.append(
                Rows(ids, tuple(r["text"] for r in picked), tuple(r["lang"] for r in picked), labels)
            )
        return parts

    def reporting(self) -> dict[str, Any]:
        """Trials in this process, without Tune: seconds in training, in logging and sending, in starting."""
        sample = {**DISTILLED, RESUMED_FROM: ""}
        shared = self.shared()
        begun = time.perf_counter()
        host = tune.with_parameters(TrialHost, context=shared)({**sample})
        found: dict[str, list[float]] = {
            "start_up": [time.perf_counter() - begun],
            "trained": [],
            "reported": [],
        }
        for _ in range(self.repeats + 1):
            spent = [0.0]
            host._send = _timed(host._send, spent)  # type: ignore[method-assign]
            host.loop._log = _timed(host.loop._log, spent)  # type: ignore[method-assign]
            begun, done, outside = time.perf_counter(), False, 0.0
            while not done:
                called = time.perf_counter()
                result = host.train()
                outside += time.perf_counter() - called - result["trained_s"]
                done = bool(result["done"])
            found["trained"].append(time.perf_counter() - begun)
            found["reported"].append(spent[0] + outside)
            begun = time.perf_counter()
            host.reset({**sample})
            found["start_up"].append(time.perf_counter() - begun)
        host.cleanup()
        return {name: values[1:] for name, values in found.items()}

    def tokens(self) -> dict[str, float]:
        """Real over computed tokens of student batches: of the sweep's texts, and of all there are."""
        rest = self._parts_as_one()
        everything = Rows.concat([self.data.train, rest])
        return {"sweep": self._efficiency(self.data.train), "all": self._efficiency(everything)}

    def _parts_as_one(self) -> Rows:
        lines = read_lines(self.setting.work / "rest.jsonl")
        labels = np.asarray([LABELS.index(r["label"]) for r in lines])
        ids = tuple(f"rest-{i}" for i in range(len(lines)))
        return Rows(ids, tuple(r["text"] for r in lines), tuple(r["lang"] for r in lines), labels)

    def _efficiency(self, rows: Rows) -> float:
        config = self.config
        tokenizer = config.student.fit_tokenizer(self.data.train.texts)
        lengths_B = config.task.encode(tokenizer, rows.take(range(len(rows)))).lengths_B
        stream = BatchStream(rows, lengths_B, global_batch=config.train.batch_size, seed=config.seed)
        batches = [stream.batch(step) for step in range(2 * stream.steps_per_epoch)]
        real = sum(int(lengths_B[b].sum()) for b in batches)
        return real / sum(len(b) * int(lengths_B[b].max()) for b in batches)

    def stop(self) -> None:
        """Ends the pool."""
        if self._pool is not None:
            self._pool.stop()


def _timed(call: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            spent[0] += time.perf_counter() - begun

    return timed


def _without_store(spec: TeacherSpec) -> TeacherSpec:
    from dataclasses import replace

    return replace(spec, store=None)


def main(setting: Setting, parts: list[str], repeats: int, rounds: int) -> None:
    """Measures the parts and writes them to a file in the work folder, each as it comes."""
    found: dict[str, Mapping[str, Any]] = {}
    inside = Inside(setting, repeats, rounds)
    try:
        for part in parts:
            print(f"inside: {part}", flush=True)
            found[part] = getattr(inside, part)()
            (setting.work / FILE).write_text(json.dumps(found), encoding="utf-8")
    finally:
        inside.stop()
