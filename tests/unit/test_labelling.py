"""Labelling without Ray: every text is asked for once, and idle CPUs are lent to the oldest request."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from raykd.answers.source import AnswerSlots
from raykd.config import Embedded
from raykd.data.embedded.rows import read_corpus
from raykd.runs import labelling
from raykd.tasks import Classification
from raykd.teachers.groups import Group
from raykd.teachers.pool_source import PendingPoolBatch
from raykd.teachers.source import TeacherRouter
from raykd.teachers.teacher import Teacher
from tests.fakes import LABELS, model_spec, save_transformer


class Source:
    """A pool's source whose teacher is in this process; a call is answered when it is first looked at twice."""

    made: list[Source] = []

    def __init__(self, handle: Any, weighting: Any, idle_threads: int = 0) -> None:
        self.handle, self.router, self.members = handle, TeacherRouter(("t",), (None,)), [0]
        self.teachers, self.replicas = ("t",), SimpleNamespace(idle_threads=idle_threads)
        self.calls: list[Any] = []
        self.lent: list[int] = []
        Source.made.append(self)

    def find_home(self, index: int, key: bytes) -> None:
        return None

    def is_stored(self, teacher: str, keys: Any) -> Any:
        return np.zeros(len(keys), dtype=bool)

    def submit(self, batch: Any, asked_MB: Any) -> PendingPoolBatch:
        number = len(self.calls)
        teacher = self.handle.teacher
        call = SimpleNamespace(
            reference=number,
            group=self.handle.groups[0],
            rows=np.arange(len(batch)),
            result=lambda deadline: [teacher.answer(batch, asked_MB[0])],
            release=lambda: None,
            lend_threads=lambda: self.lent.append(number),
        )
        self.calls.append(call)
        return PendingPoolBatch(self, [call], [AnswerSlots.empty("t", len(batch))])  # type: ignore[arg-type]


def test_every_text_is_computed_once_and_the_oldest_request_is_lent_what_idles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_corpus(Embedded(split="train", rows_per_language=150), ["zh", "en"], "text")
    task, path = Classification(max_length=64), str(save_transformer(tmp_path / "t"))
    teacher = Teacher(model_spec("t", path, LABELS, task, dtype="float32"))
    group = Group("g", (0,), (), 1, 1.0, 0.0, {})
    handle: Any = SimpleNamespace(groups=(group,), nodes=(("here",),), timeout_s=9.0, teacher=teacher)
    pool: Any = SimpleNamespace(handle=handle, counters=lambda: {"t": teacher.counters()})
    looked: list[int] = []

    def wait(references: Any, num_returns: int = 1, timeout: float = 0.0) -> Any:
        """The oldest request is there; the others are not."""
        looked.append(len(references))
        done = [number for number in references if number <= len(looked) // 4]
        return done, [number for number in references if number not in done]

    monkeypatch.setattr(labelling, "PoolSource", Source)
    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "nodes", lambda: [{}])
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    reports: list[tuple[int, int]] = []
    report = labelling.label_rows(pool, rows, None, lambda done, total: reports.append((done, total)))
    texts = len(set(rows.texts))
    assert report.asked == report.forwarded == teacher.counters()["forwarded"] == texts
    assert reports[0] == (0, texts) and reports[-1] == (texts, texts)
    (source,) = Source.made
    assert source.replicas.idle_threads == 1 and len(source.calls) > labelling.IN_FLIGHT
    assert source.lent == sorted(set(source.lent)) and len(source.lent) > 1
