"""`TeacherActor`: the thin Ray shell around the teachers of one group, and the queue in front of their thread.

Decision record:

- Calls arrive on several of the actor's threads and one thread runs the models, so a forward pass never competes with
  another for the actor's cores.
- While workers lend their threads (`raykd.teachers.threads`), further threads answer further requests.
- On a GPU three requests are always under way, so that one is tokenised and one encoded while the forward pass of
  another runs (`ModelBackend` runs one at a time).
- Small requests that wait at the same moment are answered in one pass (their latency and forwarded rows are shared out
  by rows). Requests as large as a training batch are never merged, because a merged batch is padded differently and
  answers then differ in their last bits.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
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
from raykd.teachers.threads import LentThreads
from raykd.teachers.timing import Timing
from raykd.teachers.wire import GroupRequest
from raykd.text.batch import TextBatch

log = logging.getLogger("raykd.teachers")
SMALL_ROWS = 8
"""Requests of at most this many rows may be merged; a micro-batch of a training step is larger."""
MERGED_ROWS = 64
"""A merged request takes no further one from this many rows on."""

STAGES = 3
"""Requests under way on a GPU: one is tokenised, one computed, one encoded."""
MOST_SERVERS = 8
"""Most requests that are answered at once, however many threads are lent."""

_Item = tuple[GroupRequest, Future[list[AnswerSlots]]]


class Coalescer:
    """Answers requests in turn, several small waiting ones at once, on one thread and on spare ones.

    Args:
        answer: Answers one request; runs on the coalescer's threads only.
        prepare: Runs once on each such thread before its first answer (torch's thread settings are per thread).
        count_spare: Returns how many requests may be answered beside the first one now; asked again after `wake`.
    """

    def __init__(
        self,
        answer: Callable[[GroupRequest], list[AnswerSlots]],
        prepare: Callable[[], None] = lambda: None,
        count_spare: Callable[[], int] = lambda: 0,
    ) -> None:
        self._answer, self._prepare, self._count_spare = answer, prepare, count_spare
        self._waiting: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._servers = 0
        self.passes = 0
        self.wake()

    def wake(self) -> None:
        """Start the threads that may answer now."""
        with self._changed:
            for number in range(self._servers, 1 + min(self._count_spare(), MOST_SERVERS - 1)):
                threading.Thread(
                    target=self._run, args=(number,), name=f"raykd-teacher-{number}", daemon=True
                ).start()
                self._servers += 1
            self._changed.notify_all()

    def ask(self, request: GroupRequest) -> list[AnswerSlots]:
        """Block for the answer; called from any thread."""
        future: Future[list[AnswerSlots]] = Future()
        with self._changed:
            self._waiting.append((request, future))
            self._changed.notify_all()
        return future.result()

    def _run(self, number: int) -> None:
        self._prepare()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting and number <= self._count_spare())
                group = self._take()
            self._serve(group)

    def _take(self) -> list[_Item]:
        """Take the next request, and with a small one what small ones wait behind it; never wait for more."""
        group = [self._waiting.popleft()]
        rows = len(group[0][0].batch)
        while rows <= SMALL_ROWS or len(group) > 1:
            if rows >= MERGED_ROWS or not self._waiting:
                break
            following = self._waiting[0][0]
            if len(following.batch) > SMALL_ROWS or not _can_merge(following, group[0][0]):
                break
            group.append(self._waiting.popleft())
            rows += len(following.batch)
        return group

    def _serve(self, group: Sequence[_Item]) -> None:
        self.passes += 1
        try:
            answer = self._answer(_merge([request for request, _ in group]))
        except BaseException as error:
            for _, future in group:
                future.set_exception(error)
            return
        at = 0
        for request, future in group:
            end = at + len(request.batch)
            future.set_result(answer if len(group) == 1 else [slots.slice(at, end) for slots in answer])
            at = end


def _can_merge(a: GroupRequest, b: GroupRequest) -> bool:
    one, two = a.batch, b.batch
    optional = ("pairs", "words", "candidates")
    same_columns = all((getattr(one, name) is None) == (getattr(two, name) is None) for name in optional)
    return same_columns and (a.halved, a.features) == (b.halved, b.features)


def _merge(requests: Sequence[GroupRequest]) -> GroupRequest:
    if len(requests) == 1:
        return requests[0]
    return GroupRequest(
        batch=TextBatch.concat([r.batch for r in requests]),
        asked_MB=np.concatenate([r.asked_MB for r in requests], axis=1),
        halved=requests[0].halved,
        features=requests[0].features,
    )


@dataclass(frozen=True)
class ReplicaStatus:
    """What a replica says of itself. Read by `raykd teachers status` and by pools that attach.

    Attributes:
        node: Its Ray node.
        pid: Its process.
        memory: Resident bytes of the process.
        counters: `Teacher.counters` by teacher.
        stored: Answers in each teacher's store on this node; None without a store.
    """

    node: str
    pid: int
    memory: int
    counters: dict[str, dict[str, int]]
    stored: dict[str, int | None]


def _count_resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def set_tokenizer_threads(is_gpu: bool) -> None:
    """Let the tokenizers library cut a batch's texts on several threads, where the forward passes need none."""
    # On a CPU its threads would compete with torch's for the actor's cores, and warn about the fork.
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if is_gpu else "false"
    if is_gpu:
        import torch

        share = (os.cpu_count() or 1) // max(1, torch.cuda.device_count())
        os.environ.setdefault("RAYON_NUM_THREADS", str(max(1, min(8, share))))


class TeacherActor:
    """The teachers of one group in one process; a pool makes it a Ray actor.

    Args:
        specs: The group's teachers, in the order of the answers.
        threads: Intra-op threads, the whole CPUs that the actor was granted.
    """

    def __init__(self, specs: Sequence[TeacherSpec], threads: int) -> None:
        self._threads = threads
        self._overlaps = any(spec.device.startswith("cuda") for spec in specs)
        set_tokenizer_threads(self._overlaps)
        self._set_threads()
        self._teachers = {spec.name: Teacher(spec) for spec in specs}
        self._is_stored = any(spec.store is not None for spec in specs)
        self._exclusive = threading.Lock()
        self._lent = LentThreads()
        self._coalescer = Coalescer(self._answer_group, self._set_threads, self._count_spare)

    def _set_threads(self) -> None:
        import torch

        torch.set_num_threads(self._threads)

    def _count_spare(self) -> int:
        """Return how many requests may be answered beside the first one."""
        return STAGES - 1 if self._overlaps else self._lent.count() // self._threads

    def _answer_group(self, request: GroupRequest) -> list[AnswerSlots]:
        teachers = self._teachers.values()
        if request.halved:
            for teacher in teachers:
                teacher.halve()
        keys = make_text_keys(request.batch) if self._is_stored else None
        features = request.features or ((),) * len(teachers)
        return [
            teacher.answer(request.batch, asked_B, keys, own)
            for teacher, asked_B, own in zip(teachers, request.asked_MB, features, strict=True)
        ]

    def answer(self, request: GroupRequest) -> list[AnswerSlots]:
        """Answer the rows asked for, one entry per teacher."""
        with self._lent.open_request(request.token):
            return self._coalescer.ask(request)

    def lend(self, token: bytes, threads: int) -> None:
        """Use a worker's threads too, until the request is answered that the worker waits for."""
        if self._lent.lend(token, threads):
            self._coalescer.wake()

    def open(self) -> tuple[str, list[TeacherInfo]]:
        """Return the Ray node of this process, and what its teachers are; loads no weights."""
        import ray

        node = ray.get_runtime_context().get_node_id()
        return node, [teacher.open() for teacher in self._teachers.values()]

    def vocabulary(self, name: str) -> TeacherVocabulary:
        """Return `Teacher.vocabulary` of a teacher."""
        return self._teachers[name].vocabulary()

    def generate(self, name: str, rows: TextBatch, beams: int | None, max_new_tokens: int) -> list[str]:
        """Run `Teacher.generate` of a teacher, one request at a time."""
        with self._exclusive:
            self._set_threads()
            return self._teachers[name].generate(rows, beams=beams, max_new_tokens=max_new_tokens)

    def measure_times(
        self, samples: Mapping[str, TextBatch], student: TeacherSpec | None
    ) -> dict[str, tuple[Timing | None, Timing | None]]:
        """Run `Teacher.measure_time` of each teacher over its texts, and of the student, if any, over the same ones."""
        with self._exclusive:
            self._set_threads()
            found: dict[str, tuple[Timing | None, Timing | None]] = {}
            beside: Teacher | None = None
            has_tried = False
            for name, batch in samples.items():
                teacher = self._teachers[name]
                own = teacher.measure_time(batch)
                if own is not None and student is not None and not has_tried:
                    has_tried = True
                    beside = self._load_student(replace(student, device=teacher.spec.device))
                found[name] = own, None if own is None or beside is None else beside.measure_time(batch)
            return found

    def _load_student(self, student: TeacherSpec) -> Teacher | None:
        """Load the student's weights; None where it cannot be read here, which is logged."""
        try:
            teacher = Teacher(student)
            teacher.load()
            return teacher
        except RaykdError as error:
            log.warning("the student cannot be timed beside its teachers: %s", error)
            return None

    def counters(self) -> dict[str, dict[str, int]]:
        """Return `Teacher.counters` of each teacher."""
        return {name: teacher.counters() for name, teacher in self._teachers.items()}

    def findings(self) -> dict[str, str]:
        """Return in words what the self-tests found of the teachers that have computed an answer here."""
        found = {name: teacher.finding for name, teacher in self._teachers.items()}
        return {name: finding.describe() for name, finding in found.items() if finding is not None}

    def usage(self) -> tuple[float, int]:
        """Return the CPU seconds of this process so far, and its intra-op threads."""
        import torch

        return time.process_time(), torch.get_num_threads()

    def load(self) -> None:
        """Load all weights now."""
        for teacher in self._teachers.values():
            teacher.load()

    def status(self) -> ReplicaStatus:
        """Return the state of this process; answers while the models compute."""
        import ray

        return ReplicaStatus(
            node=ray.get_runtime_context().get_node_id(),
            pid=os.getpid(),
            memory=_count_resident_bytes(),
            counters=self.counters(),
            stored={name: teacher.stored for name, teacher in self._teachers.items()},
        )

    def pid(self) -> int:
        """Return the process id."""
        return os.getpid()

    def close(self) -> None:
        """Flush the stores."""
        for teacher in self._teachers.values():
            teacher.close()
