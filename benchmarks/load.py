"""Many clients on one pool of teachers: latency, throughput, and whether any answer is lost or wrong.

Usage: python -m benchmarks.load [--seconds 300] [--clients 64] [--replicas 2] [--rows 16] [--kill] [--json FILE]

Each client asks for random batches of known texts, one after the other, and compares every answer with the teacher's
own in this process; nothing is stored, so every row is computed. With --kill a process of the pool is killed (SIGKILL)
every 30 seconds. Model: 2 layers x 64, random weights, float32, texts of the embedded corpus. Exit code 1 where an
answer was lost or wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from benchmarks.class_answers import logits_of
from benchmarks.measure import show
from raykd import models
from raykd.cluster.connection import connect_ray
from raykd.config import ActorConfig, Embedded, ModelTeacher, RayConfig, ServingConfig
from raykd.data.embedded.rows import read_corpus
from raykd.data.rows import Rows
from raykd.tasks import Classification
from raykd.teachers.pool_source import PoolSource
from raykd.teachers.pools.own_pool import OwnPool, Placement
from raykd.teachers.spec import TeacherSpec
from raykd.teachers.teacher import Teacher

TEXTS_A_LANGUAGE = 350
KILL_S = 30.0
HEAD = 100.0
"""A random head answers almost alike to every text; so much larger, half of all pairs of texts differ by 0.02."""
WRONG = 1e-5
"""Largest difference of a logit that padding to another width may make in float32."""


@dataclass
class Tally:
    """What one client saw. begun_s, seconds: of each request, on the benchmark's clock."""

    begun_s: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rows: int = 0
    wrong: int = 0
    lost: int = 0
    largest: float = 0.0
    errors: list[str] = field(default_factory=list)

    def answered(self, begun_s: float, seconds: float, got_NC: NDArray[np.float32], want_NC: NDArray[np.float32],
                 covered_N: NDArray[np.bool_]) -> None:  # fmt: skip
        """Takes one answer: rows that are not there are lost, rows that differ are wrong."""
        self.begun_s.append(begun_s)
        self.seconds.append(seconds)
        self.rows += len(want_NC)
        self.lost += int((~covered_N).sum())
        difference_N = np.abs(got_NC - want_NC).max(axis=1)[covered_N]
        self.wrong += int((~(difference_N <= WRONG)).sum())
        self.largest = max(self.largest, float(difference_N.max(initial=0.0)))


@dataclass(frozen=True)
class Report:
    """The figures. over_a_kill_s: the longest request that was under way at each kill."""

    clients: int
    seconds: float
    requests: int
    rows: int
    p50_ms: float
    p99_ms: float
    most_ms: float
    rows_a_second: float
    wrong: int
    lost: int
    largest_difference: float
    kills: int
    restarts: int
    over_a_kill_s: list[float]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def reported(
    tallies: Sequence[Tally], seconds: float, kills: Sequence[float] = (), restarts: int = 0
) -> Report:
    """All clients together."""
    spans = [(b, b + s) for t in tallies for b, s in zip(t.begun_s, t.seconds, strict=True)]
    times = [end - begun for begun, end in spans]
    rows = sum(t.rows for t in tallies)
    return Report(
        clients=len(tallies), seconds=seconds, requests=len(times), rows=rows,
        p50_ms=1e3 * percentile(times, 0.5), p99_ms=1e3 * percentile(times, 0.99), most_ms=1e3 * percentile(times, 1.0),
        rows_a_second=rows / seconds, wrong=sum(t.wrong for t in tallies), lost=sum(t.lost for t in tallies),
        largest_difference=max((t.largest for t in tallies), default=0.0), kills=len(kills), restarts=restarts,
        over_a_kill_s=[max((e - b for b, e in spans if b <= at <= e), default=0.0) for at in kills],
    )  # fmt: skip


class Client(threading.Thread):
    """Asks for random rows until the time is over."""

    def __init__(self, pool: OwnPool, rows: Rows, want_NC: NDArray[np.float32], number: int, most: int,
                 until: float) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self.tally = Tally()
        self._source = PoolSource(pool.handle, rank=number)
        self._rows, self._want, self._most, self._until = rows, want_NC, most, until
        self._random = np.random.default_rng(number)

    def run(self) -> None:
        while (begun := time.monotonic()) < self._until:
            picked = self._random.integers(
                len(self._rows), size=int(self._random.integers(1, self._most + 1))
            )
            try:
                (signal_,) = self._source.submit(self._rows.take(picked.tolist())).result()
            except Exception as error:
                self.tally.lost += len(picked)
                self.tally.errors.append(f"{type(error).__name__}: {error}")
                continue
            took = time.monotonic() - begun
            self.tally.answered(begun, took, logits_of(signal_), self._want[picked], signal_.answered_B)


class Killer(threading.Thread):
    """Kills one process of the pool after the other."""

    def __init__(self, pool: OwnPool, every_s: float, until: float) -> None:
        super().__init__(daemon=True)
        self._pool, self._every_s, self._until = pool, every_s, until
        self.kills: list[float] = []

    def run(self) -> None:
        replicas = self._pool.handle.replicas[0]
        while time.monotonic() + self._every_s < self._until - 10.0:
            time.sleep(self._every_s)
            victim = replicas[len(self.kills) % len(replicas)]
            row = ray._private.state.actors(victim._actor_id.hex())
            if row["State"] == "ALIVE":
                os.kill(int(row["Pid"]), signal.SIGKILL)
                self.kills.append(time.monotonic())


def measured(folder: Path, args: argparse.Namespace) -> tuple[Report, list[str]]:
    """Runs the clients; returns the figures and the first errors."""
    rows = read_corpus(Embedded(rows_per_language=TEXTS_A_LANGUAGE), ("zh", "en", "fr"), "text")
    spec = models.TransformerStudent(
        layers=2, hidden=64, heads=2, dropout=0.0, vocab_size=1000, max_positions=64
    )
    labels = ("negative", "positive")
    tokenizer = spec.fit_tokenizer(list(rows.texts))
    built = models.TextModel(spec.build(tokenizer, labels, 0), tokenizer, labels, max_length=64)
    network: Any = built.model
    network.classifier.weight.data.mul_(HEAD)
    models.save_model(built, folder / "teacher")
    teacher = TeacherSpec(
        ModelTeacher(name="load", languages="all", path=str(folder / "teacher")),
        labels,
        Classification(max_length=64),
        dtype="float32",
    )
    want_NC = logits_of(Teacher(teacher).answer(rows.take(range(len(rows)))))
    serving = ServingConfig(max_restarts=10_000, store=None)
    pool = OwnPool([Placement(teacher, ActorConfig(replicas=args.replicas, num_cpus=0.5))], serving)
    try:
        pool.open()
        pool.load()
        begun = time.monotonic()
        until = begun + args.seconds
        clients = [Client(pool, rows, want_NC, n, args.rows, until) for n in range(args.clients)]
        killer = Killer(pool, KILL_S, until)
        for thread in [*clients, *([killer] if args.kill else [])]:
            thread.start()
        for client in clients:
            client.join()
        seconds = time.monotonic() - begun
        tallies = [client.tally for client in clients]
        report = reported(tallies, seconds, killer.kills, pool.restarts()["load"])
        return report, [e for t in tallies for e in t.errors][:3]
    finally:
        pool.stop()


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--rows", type=int, default=16, help="most rows of a request")
    parser.add_argument("--kill", action="store_true", help="kill a process of the pool every 30 s")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    connect_ray(RayConfig(num_cpus=max(2, args.replicas)))
    with tempfile.TemporaryDirectory() as folder:
        report, errors = measured(Path(folder), args)
    if args.json:
        args.json.write_text(json.dumps({**vars(report), "errors": errors}, indent=2), encoding="utf-8")
    lines = [
        ["requests, rows", f"{report.requests:,}, {report.rows:,}"],
        [
            "latency, p50 / p99 / most",
            f"{report.p50_ms:,.0f} / {report.p99_ms:,.0f} / {report.most_ms:,.0f} ms",
        ],
        ["throughput", f"{report.rows_a_second:,.0f} rows/s"],
        ["rows lost, rows wrong", f"{report.lost}, {report.wrong}"],
        ["largest difference of a logit", f"{report.largest_difference:.1e}"],
        ["processes killed, started again", f"{report.kills}, {report.restarts}"],
        ["longest request over a kill", ", ".join(f"{s:.1f} s" for s in report.over_a_kill_s) or "-"],
    ]
    title = f"{report.clients} clients, {args.replicas} replicas, {report.seconds:.0f} s"
    show(title, ["figure", "value"], lines)
    for error in errors:
        print(error)
    ray.shutdown()
    sys.exit(1 if report.lost or report.wrong else 0)


if __name__ == "__main__":
    main()
