"""Label ahead: each teacher answers every text that it will be asked for, and stores the answers.

Decision record: a sweep pays for its teachers once, here, and then gives their CPUs to its trials. Texts are sorted by
language and length over the whole set, so that forward passes have little padding. Each group of teachers has its own
stream of requests, or one per node if its replicas are on several nodes (a text has one home). Two requests per
replica are in flight, one computed while the next waits, so no replica is idle. CPUs that nobody holds are lent to the
teachers (`raykd.teachers.threads`), which then compute both. Stored answers are not asked for
again, so an interrupted labelling goes on where it was.
"""

from __future__ import annotations

import contextlib
import operator
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray
from rich.console import Console

from raykd.cluster.connection import start_ray_ahead
from raykd.config import Run, RunConfig
from raykd.data.load import Dataset
from raykd.data.rows import Rows
from raykd.distill.weighting import Weighting
from raykd.driver.jobs import find_trained_teachers, load_rows
from raykd.driver.pool import check_teachers, open_pools
from raykd.driver.session import open_ray
from raykd.errors import ConfigError
from raykd.folders.places import check_places
from raykd.preflight.model_check import look_at_teachers
from raykd.runs.answer_files import ENSEMBLE, AnswerTargets, write_answers
from raykd.scoring.ensembles.choosing import Choice, write_choice
from raykd.scoring.several_tasks import Pools
from raykd.scoring.teacher_scores import refuse_poor_teachers, review_teachers
from raykd.teachers.actor import STAGES
from raykd.teachers.call import Call
from raykd.teachers.pool_source import PendingPoolBatch, PoolSource
from raykd.teachers.pools.pool import TeacherPool
from raykd.teachers.pools.stored_pool import NeededAnswers
from raykd.teachers.store import make_text_keys
from raykd.timeline.progress import show_progress

FEWEST, MOST = 64, 128
"""Rows per request. After the fewest it ends as soon as a text is shorter than `EVEN` of its longest."""
EVEN = 0.85
IN_FLIGHT = 2
"""Requests per replica at a time, and one more for each thread that is lent. On a GPU one more than it has stages."""
_LOOKED_UP = 4096
"""Keys per look-up in a store."""


@dataclass(frozen=True)
class LabelReport:
    """What a labelling did, counted in pairs of a text and a teacher.

    Attributes:
        asked: All pairs; equal texts count once.
        stored: Pairs that were answered before.
        forwarded: Pairs that were computed.
        seconds: Duration.
        real_tokens: The teachers' tokens without padding.
        computed_tokens: The teachers' tokens with padding.
        unkept: Computed answers that did not go into the store (a full disk).
    """

    asked: int
    stored: int
    forwarded: int
    seconds: float
    real_tokens: int = 0
    computed_tokens: int = 0
    unkept: int = 0

    @property
    def rate(self) -> float:
        """Computed pairs per second."""
        return self.forwarded / self.seconds if self.seconds else 0.0

    def __add__(self, other: LabelReport) -> LabelReport:
        return LabelReport(*map(operator.add, astuple(self), astuple(other)))


@dataclass
class _Stream:
    """Requests to one group of teachers (on one node).

    Attributes:
        limit: Most requests in flight.
        waiting: Rows of each request to send, and the teachers asked for each row (bool [M, B]).
        sent: Requests in flight, each with its number of pairs.
    """

    limit: int
    waiting: deque[tuple[NDArray[np.int64], NDArray[np.bool_]]] = field(default_factory=deque)
    sent: list[tuple[PendingPoolBatch, int]] = field(default_factory=list)
    _lent_to: Call | None = None

    def send(self, source: PoolSource, rows: Rows) -> int:
        """Send requests up to the limit; return the pairs that another process has stored meanwhile."""
        stored = 0
        while self.waiting and len(self.sent) < self.limit:
            picked, asked_MB = self.waiting.popleft()
            ticket, pairs = source.submit(rows.take(picked), asked_MB), int(asked_MB.sum())
            if isinstance(ticket, PendingPoolBatch):
                self.sent.append((ticket, pairs))
            else:
                stored += pairs
        return stored

    def lend_threads(self) -> None:
        """Let the process that owes the oldest answer use idle CPUs until it has answered."""
        if self.sent and self.sent[0][0].calls[0] is not self._lent_to:
            self._lent_to = self.sent[0][0].calls[0]
            self._lent_to.lend_threads()

    def take(self) -> tuple[int, int]:
        """Take finished requests; return their pairs, and how many of those were computed."""
        ready = [item for item in self.sent if item[0].ready()]
        self.sent = [item for item in self.sent if item not in ready]
        computed = sum(slots.forwarded for ticket, _ in ready for slots in ticket.result())
        return sum(pairs for _, pairs in ready), computed


def label_rows(
    pool: TeacherPool, rows: Rows, weighting: Weighting | None, report: Callable[[int, int], None]
) -> LabelReport:
    """Let all replicas answer the texts that are not stored yet, and wait until they have.

    Args:
        pool: The opened teachers.
        rows: The texts.
        weighting: Decides which teachers are asked for a row, as in training; None asks every teacher that
            speaks the row's language.
        report: Called with (pairs done, pairs in all) as the work goes on.

    Raises:
        TeacherError, NonFiniteError: A teacher cannot answer. Answers so far are kept.
    """
    return label_needed(pool, [NeededAnswers(rows, weighting)], report)


def label_needed(
    pool: TeacherPool, needed: Sequence[NeededAnswers], report: Callable[[int, int], None]
) -> LabelReport:
    """Let all replicas answer everything that is needed, each text by each teacher once; see `label_rows`.

    Args:
        pool: The opened teachers.
        needed: What they will be asked, at least one part.
        report: Called with (pairs done, pairs in all) as the work goes on.
    """
    begun = time.perf_counter()
    before = _counts(pool)
    groups = len(pool.handle.groups)
    source = PoolSource(pool.handle, None, idle_threads=_count_idle_cpus() // max(1, groups))
    rows, asked_MN = _join_needed(source, needed)
    keys = make_text_keys(rows)
    asked_MN = _drop_equal_texts(asked_MN, keys)
    asked = int(asked_MN.sum())
    _drop_stored(source, asked_MN, keys)
    done = asked - int(asked_MN.sum())
    report(done, asked)
    streams = _streams(source, rows, asked_MN, keys)
    forwarded = 0
    while any(stream.waiting or stream.sent for stream in streams):
        for stream in streams:
            done += stream.send(source, rows)
        for stream in streams:
            stream.lend_threads()
        _wait(streams, source.handle.timeout_s)
        for stream in streams:
            answered, computed = stream.take()
            done, forwarded = done + answered, forwarded + computed
        report(done, asked)
    counts = _counts(pool) - before
    seconds = time.perf_counter() - begun
    return LabelReport(asked, asked - forwarded, forwarded, seconds, *counts.tolist())


def _join_needed(source: PoolSource, needed: Sequence[NeededAnswers]) -> tuple[Rows, NDArray[np.bool_]]:
    """Return all rows, and which teacher is asked about which of them (bool [M, N])."""
    router = source.router
    by_rows: dict[int, list[NeededAnswers]] = {}
    for part in needed:
        by_rows.setdefault(id(part.rows), []).append(part)
    asked = [
        np.logical_or.reduce([part.route(router.teachers, router.teacher_languages) for part in parts])
        for parts in by_rows.values()
    ]
    each = [parts[0].rows for parts in by_rows.values()]
    return (each[0] if len(each) == 1 else Rows.concat(each)), np.concatenate(asked, axis=1)


def _count_idle_cpus() -> int:
    """Return the CPUs that nobody holds; 0 on several nodes, because it is not known where they are."""
    if len(ray.nodes()) > 1:
        return 0
    return int(ray.available_resources().get("CPU", 0.0))


def _counts(pool: TeacherPool) -> NDArray[np.int64]:
    """Return what all teachers have counted so far: tokens without and with padding, answers that were not stored."""
    counters = pool.counters().values()
    names = ("real_tokens", "computed_tokens", "unkept")
    return np.asarray([sum(c[what] for c in counters) for what in names])


def _wait(streams: Sequence[_Stream], timeout_s: float) -> None:
    """Wait until a request is answered. After the time-out, processes that owe answers count as hanging (`Call`)."""
    sent = [ticket for stream in streams for ticket, _ in stream.sent]
    if sent and not any(ticket.ready() for ticket in sent):
        references = [reference for ticket in sent for reference in ticket.references]
        if not ray.wait(references, num_returns=1, timeout=timeout_s)[0]:
            for ticket in sent:
                for call in ticket.calls:
                    call.replace_if_late(timeout_s)


def _drop_equal_texts(asked_MN: NDArray[np.bool_], keys: Sequence[bytes]) -> NDArray[np.bool_]:
    """Ask each teacher for equal texts once."""
    asked_MN = asked_MN.copy()
    for asked_N in asked_MN:
        seen: set[bytes] = set()
        for i in np.flatnonzero(asked_N).tolist():
            asked_N[i] = keys[i] not in seen
            seen.add(keys[i])
    return asked_MN


def _drop_stored(source: PoolSource, asked_MN: NDArray[np.bool_], keys: Sequence[bytes]) -> None:
    for name, asked_N in zip(source.teachers, asked_MN, strict=True):
        wanted = np.flatnonzero(asked_N)
        for begin in range(0, len(wanted), _LOOKED_UP):
            part = wanted[begin : begin + _LOOKED_UP]
            asked_N[part] = ~source.is_stored(name, [keys[i] for i in part.tolist()])


def _streams(
    source: PoolSource, rows: Rows, asked_MN: NDArray[np.bool_], keys: Sequence[bytes]
) -> list[_Stream]:
    seconds = repeat("") if rows.pairs is None else rows.pairs
    lengths = [len(text) + len(pair) for text, pair in zip(rows.texts, seconds, strict=False)]
    _, spoken_B = rows.code_languages()
    streams = []
    for index, g in enumerate(source.handle.groups):
        own_MN = np.zeros_like(asked_MN)
        own_MN[list(g.members)] = asked_MN[list(g.members)]
        by_home: dict[str | None, list[int]] = {}
        for i in np.flatnonzero(own_MN.any(axis=0)).tolist():
            by_home.setdefault(source.find_home(index, keys[i]), []).append(i)
        for home, members in by_home.items():
            # The longest first: what does not fit into memory fails at once, and the end is even.
            members.sort(key=lambda i: (spoken_B[i], -lengths[i]))
            here = [n for n in source.handle.nodes[index] if home in (None, n)]
            per_replica = STAGES + 1 if g.num_gpus else IN_FLIGHT
            stream = _Stream(limit=per_replica * max(1, len(here)) + source.replicas.idle_threads)
            for picked in _requests(members, [lengths[i] for i in members]):
                stream.waiting.append((picked, own_MN[:, picked]))
            streams.append(stream)
    return streams


def _requests(members: Sequence[int], lengths: Sequence[int]) -> list[NDArray[np.int64]]:
    """Sorted rows, cut to requests of like length."""
    cuts = [0]
    for at, length in enumerate(lengths):
        rows, longest = at - cuts[-1], lengths[cuts[-1]]
        uneven = length < EVEN * longest or length > longest  # longer: another language begins
        if rows >= MOST or (rows >= FEWEST and uneven):
            cuts.append(at)
    return [np.asarray(members[a:b]) for a, b in zip(cuts, [*cuts[1:], len(members)], strict=True)]


def run_labelling(
    config: Run, console: Console, *, everything: bool = False, to: AnswerTargets | Choice | None = None
) -> LabelReport:
    """Store the answers to the training texts that a run's weighting asks for (`raykd label`).

    Args:
        config: The run, of one task or of several.
        console: Where progress is shown.
        everything: Whether to store also the answers to validation and test texts, for which every teacher that
            speaks their language is asked when a run is scored.
        to: Files that all these answers are written to, held-out texts included; or how many rows a person should
            label, and the file that these are written to; None writes none.

    Raises:
        ConfigError: There is no store, there are no teachers, or the files cannot be written.
        ModelError: A teacher is not trained yet, or not good enough (`on_poor`).
        ResourceError, TeacherError: The teachers do not fit, or cannot answer.
    """
    trained = find_labelling_teachers(config)
    files = to.name_files(config) if isinstance(to, AnswerTargets) else {}
    if isinstance(to, Choice):
        to.check(list(config.members.values()))
    rows, total = load_rows(config), LabelReport(0, 0, 0, 0.0)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    with open_teachers_alone(config, trained) as pools:
        reviews = []
        for task, (pool, infos) in pools.items():
            data, member = rows[task], config.members[task]
            review = review_teachers(member, pool, infos, data.validation, data.train.list_languages(), say)
            say("\n".join((*review.lines, *review.idle)))
            reviews.append(review)
        refuse_poor_teachers(reviews, config)
        for task, (pool, _) in pools.items():
            data, weighting = rows[task], config.members[task].objective.weighting
            with show_progress(console, f"training texts {task}".rstrip()) as report:
                total += label_rows(pool, data.asked, weighting, report)
            if everything or files:
                held_out = Rows.concat([data.validation, *([data.test] if data.test is not None else [])])
                with show_progress(console, f"held-out texts {task}".rstrip()) as report:
                    total += label_rows(pool, held_out, None, report)
        for task, (pool, _) in pools.items():
            if not isinstance(to, Choice):
                continue
            bare = rows[task].asked.select(~rows[task].asked.labelled)
            with show_progress(console, "rows to choose from") as report:
                total += label_rows(pool, bare, None, report)
            with show_progress(console, "choosing", "rows") as report:
                say(write_choice(config.members[task], bare, PoolSource(pool.handle), to, report))
        for task, (pool, infos) in pools.items():
            paths = {name: path for (own, name), path in files.items() if own == task}
            if paths:
                with show_progress(console, f"writing {task}".rstrip(), "rows") as report:
                    asked = list_asked_rows(
                        pool, config.members[task], rows[task], together=ENSEMBLE in paths
                    )
                    written = write_answers(config.members[task], infos, asked, paths, report)
                say(f"{written:,} answers were written to {', '.join(paths.values())}")
    return total


def list_asked_rows(
    pool: TeacherPool, config: RunConfig, data: Dataset, *, together: bool
) -> list[tuple[Rows, PoolSource]]:
    """Return the parts of the rows, each with the teachers as a run asks them for it.

    Args:
        pool: The opened teachers of a task.
        config: The run of the task.
        data: Its rows.
        together: Whether held-out rows are asked as training rows are, and not of every teacher.
    """
    routed = PoolSource(pool.handle, config.objective.weighting)
    held_out = routed if together else PoolSource(pool.handle)
    rest = [(rows, held_out) for rows in (data.validation, data.test) if rows is not None]
    return [(data.asked, routed), *rest]


@contextlib.contextmanager
def open_teachers_alone(config: Run, trained: Mapping[str, Path]) -> Iterator[Pools]:
    """Open the teachers of a run on its cluster, without a student, while the body runs.

    Raises:
        ResourceError, TeacherError, ModelError: They do not fit, or cannot be opened.
    """
    start_ray_ahead(config.ray)
    look_at_teachers(config)
    with open_ray(config.ray):
        check_teachers(config, trained)
        with open_pools(config, trained) as pools:
            yield pools


def find_labelling_teachers(config: Run) -> dict[str, Path]:
    """Return the folders of the teachers that a run trains, once they and the store can be used.

    Raises:
        ConfigError: There are no teachers, or no store.
        ModelError: A teacher is not trained yet.
    """
    if not config.active_teachers or config.serving.store is None:
        raise ConfigError(
            "there is nothing to label",
            got="no teachers" if not config.active_teachers else "serving.store: null keeps no answers",
            wanted="a run with teachers and a store",
        )
    check_places(config)
    return find_trained_teachers(
        config, "raykd train RUN.yaml trains them (labelling does not); raykd label goes after that"
    )
