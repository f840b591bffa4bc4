"""`TeacherActor`: the thin Ray shell around the teachers of one group, and the queue in front of their thread.

Decision record: calls arrive on several of the actor's threads, one thread runs the models, so a forward pass
never competes with another for the actor's cores. Requests of a few rows that wait at the same moment are
answered in one pass (their latency and forwarded rows are shared out by rows); requests as large as a training
batch are never merged, because a merged batch is padded otherwise and answers then differ in their last bits.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from raykd.answers.source import AnswerSlots
from raykd.answers.vocabularies import TeacherVocabulary
from raykd.errors import RaykdError
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.teachers.store import make_text_keys
from raykd.teachers.teacher import Teacher
from raykd.teachers.timing import Timing
from raykd.teachers.wire import GroupRequest
from raykd.text.batch import TextBatch

log = logging.getLogger("raykd.teachers")
SMALL_ROWS = 8
"""Requests of at most so many rows may be merged."""
MERGED_ROWS = 64
"""Rows of a merged request at most."""


class Coalescer:
    """One thread that answers requests in turn, several small waiting ones at once.

    Args:
        answer: answers one request; runs on the coalescer's thread only.
        prepare: run once on that thread before the first answer (thread settings are per thread).
    """

    def __init__(
        self, answer: Callable[[GroupRequest], list[AnswerSlots]], prepare: Callable[[], None] = lambda: None
    ) -> None:
        self._answer, self._prepare = answer, prepare
        self._waiting: queue.Queue[tuple[GroupRequest, Future[list[AnswerSlots]]] | None] = queue.Queue()
        self._held: tuple[GroupRequest, Future[list[AnswerSlots]]] | None = None
        self.passes = 0
        threading.Thread(target=self._run, name="raykd-teacher", daemon=True).start()

    def ask(self, request: GroupRequest) -> list[AnswerSlots]:
        """Blocks for the answer; called from any thread."""
        future: Future[list[AnswerSlots]] = Future()
        self._waiting.put((request, future))
        return future.result()

    def _run(self) -> None:
        self._prepare()
        while True:
            item = self._held or self._waiting.get()
            self._held = None
            if item is None:
                return
            group = [item]
            if len(item[0].batch) <= SMALL_ROWS:
                self._gather(group)
            self._serve(group)

    def _gather(self, group: list[tuple[GroupRequest, Future[list[AnswerSlots]]]]) -> None:
        """Adds what already waits, as long as it is small; never waits for more."""
        rows = len(group[0][0].batch)
        while rows < MERGED_ROWS:
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                return
            if item is None or len(item[0].batch) > SMALL_ROWS or not _alike(item[0], group[0][0]):
                self._held = item
                return
            group.append(item)
            rows += len(item[0].batch)

    def _serve(self, group: list[tuple[GroupRequest, Future[list[AnswerSlots]]]]) -> None:
        self.passes += 1
        try:
            answer = self._answer(_merge([request for request, _ in group]))
        except BaseException as error:
            for _, future in group:
                future.set_exception(error)
            return
        at = 0
        for request, future in group:
            whole = len(group) == 1
            future.set_result(
                answer if whole else [slots.slice(at, at + len(request.batch)) for slots in answer]
            )
            at += len(request.batch)


def _alike(a: GroupRequest, b: GroupRequest) -> bool:
    one, two = a.batch, b.batch
    same = (one.pairs is None) == (two.pairs is None) and (one.words is None) == (two.words is None)
    return same and a.halved == b.halved


def _merge(requests: Sequence[GroupRequest]) -> GroupRequest:
    if len(requests) == 1:
        return requests[0]
    return GroupRequest(
        batch=TextBatch.concat([r.batch for r in requests]),
        asked_MB=np.concatenate([r.asked_MB for r in requests], axis=1),
        halved=requests[0].halved,
    )


@dataclass(frozen=True)
class ReplicaStatus:
    """How a replica is. Written by the actor, read by `raykd teachers status` and by pools that attach.

    memory: resident bytes of the process. counters: as `Teacher.counters`. stored: answers in each teacher's store
    on this node, None without one.
    """

    node: str
    pid: int
    memory: int
    counters: dict[str, dict[str, int]]
    stored: dict[str, int | None]


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class TeacherActor:
    """The teachers of one group in one process; `TeacherPool` makes it a Ray actor.

    Args:
        specs: the group's teachers, in the order of the answers.
        threads: intra-op threads, the whole CPUs that the actor was granted.
    """

    def __init__(self, specs: Sequence[TeacherSpec], threads: int) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._threads = threads
        self._set_threads()
        self._teachers = [Teacher(spec) for spec in specs]
        self._writing = threading.Lock()
        self._coalescer = Coalescer(self._answer_group, self._set_threads)

    def _set_threads(self) -> None:
        import torch

        torch.set_num_threads(self._threads)

    def _answer_group(self, request: GroupRequest) -> list[AnswerSlots]:
        if request.halved:
            for teacher in self._teachers:
                teacher.halve()
        stored = any(t.spec.store is not None for t in self._teachers)
        keys = make_text_keys(request.batch) if stored else None
        return [t.answer(request.batch, request.asked_MB[m], keys) for m, t in enumerate(self._teachers)]

    def answer(self, request: GroupRequest) -> list[AnswerSlots]:
        """Answers to the rows asked for, one entry per teacher."""
        return self._coalescer.ask(request)

    def open(self) -> tuple[str, list[TeacherInfo]]:
        """The Ray node that this process is on, and what its teachers are; loads no weights."""
        import ray

        return ray.get_runtime_context().get_node_id(), [teacher.open() for teacher in self._teachers]

    def vocabulary(self, name: str) -> TeacherVocabulary:
        """`Teacher.vocabulary` of this teacher."""
        return self._named(name).vocabulary()

    def generate(self, name: str, rows: TextBatch, beams: int | None, max_new_tokens: int) -> list[str]:
        """`Teacher.generate` of this teacher; not while it answers."""
        with self._writing:
            self._set_threads()
            return self._named(name).generate(rows, beams=beams, max_new_tokens=max_new_tokens)

    def measure_times(
        self, samples: Mapping[str, TextBatch], student: TeacherSpec
    ) -> dict[str, tuple[Timing | None, Timing | None]]:
        """`Teacher.measure_time` of each teacher over its texts, and of the student over the same ones."""
        with self._writing:
            self._set_threads()
            beside: Teacher | None = None
            tried = False
            found: dict[str, tuple[Timing | None, Timing | None]] = {}
            for name, batch in samples.items():
                own = self._named(name).measure_time(batch)
                if own is not None and not tried:
                    tried = True
                    beside = self._opened(replace(student, device=self._named(name).spec.device))
                found[name] = own, None if own is None or beside is None else beside.measure_time(batch)
            return found

    def _opened(self, student: TeacherSpec) -> Teacher | None:
        """The student with its weights in memory; None where it cannot be read here, which is logged."""
        try:
            teacher = Teacher(student)
            teacher.load()
            return teacher
        except RaykdError as error:
            log.warning("the student cannot be timed beside its teachers: %s", error)
            return None

    def _named(self, name: str) -> Teacher:
        return next(t for t in self._teachers if t.name == name)

    def counters(self) -> dict[str, dict[str, int]]:
        """`Teacher.counters` of each teacher."""
        return {t.name: t.counters() for t in self._teachers}

    def findings(self) -> dict[str, str]:
        """What the self-tests found, in words, of the teachers that have computed an answer here."""
        return {t.name: t.finding.describe() for t in self._teachers if t.finding is not None}

    def usage(self) -> tuple[float, int]:
        """CPU seconds of this process so far, and its intra-op threads."""
        import torch

        return time.process_time(), torch.get_num_threads()

    def load(self) -> None:
        """Loads all weights now."""
        for teacher in self._teachers:
            teacher.load()

    def status(self) -> ReplicaStatus:
        """How this process is; answers while the models compute."""
        import ray

        return ReplicaStatus(
            node=ray.get_runtime_context().get_node_id(),
            pid=os.getpid(),
            memory=_resident_bytes(),
            counters=self.counters(),
            stored={t.name: t.stored for t in self._teachers},
        )

    def pid(self) -> int:
        """The process id."""
        return os.getpid()

    def close(self) -> None:
        """Flushes the stores."""
        for teacher in self._teachers:
            teacher.close()
